"""HuatuoGPT-II's unification (arXiv 2311.09774): a model writes a question to each passage and answers it from it.

    python -m qilin_lib.evaluate.unification RUN TARGET.jsonl MODEL ENDPOINT

asks the MODEL at ENDPOINT about the documents that DCPT of RUN learns (a profile with `one_stage` then names the file:
`one_stage: {unified: TARGET.jsonl}`); what it does not unify is instructed by rules. Filters and numbers are those of
its public code (FreedomIntelligence/HuatuoGPT-II, 88ddf9a, rewrite.py), the sentences ours.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import ValidationError

from qilin_lib import files, runs
from qilin_lib.chains import BUILD, TOKENIZE
from qilin_lib.errors import QilinError, as_command
from qilin_lib.evaluate.endpoint import EndpointBackend, connected
from qilin_lib.evaluate.prompts import Prompt
from qilin_lib.evaluate.replies import STOP, spoken
from qilin_lib.params import failure_sentence
from qilin_lib.progress import live_line
from qilin_lib.schema import Baseline
from qilin_lib.train.one_stage import documents, unified

QUESTION_FROM, LONGEST_QUESTION, ANSWER_FROM = 400, 180, 600
TRIES, TOGETHER, NEW_TOKENS, AT_A_TIME = 2, 256, 1024, 8
ASK = "请根据下面的文本提出一个问题，使文本的内容能够回答它。问题要独立完整，不要提到文本本身。只写问题。\n\n{text}"
ANSWER = (
    "请根据下面的资料回答问题，语气自然，像医生直接回答患者一样，不要提到资料本身。\n\n资料：{text}\n\n问题：{question}"
)
NO_REPLY, LONG = "no reply", f"question of more than {LONGEST_QUESTION} characters"
NAMES_IT = "answer that names its reference"

Rejects = Callable[[str], str]
"""rejects(text): why it is no good, "" if it is."""


def unify(
    passages: Iterable[tuple[str, str]], line: Baseline, target: Path, show: Callable[[str], None]
) -> dict[str, int]:
    """Write rows {id, question, answer} of `passages` (id, text) to `target`, in their order; returns how many
    `documents` there were, were `unified`, and why the others were not.

    Replies are cached, so that a call that was killed, or comes again, asks nothing twice. QilinError as `Server.ask`.
    """
    backends = [
        connected(
            line.model_copy(
                update={"temperature": line.temperature or 1.0, "request": {"seed": number} | line.request}
            ),
            AT_A_TIME,
        )
        for number in range(1, TRIES + 1)
    ]
    counts: Counter[str] = Counter(documents=0, unified=0)
    rows: list[dict[str, str]] = []
    waiting: list[tuple[str, str]] = []

    def ask() -> None:
        prompts = {name: ASK.replace("{text}", text[:QUESTION_FROM]) for name, text in waiting}
        questions = _replies(backends, prompts, lambda text: LONG if len(text) > LONGEST_QUESTION else "", counts)
        texts = {name: text[:ANSWER_FROM] for name, text in waiting if name in questions}
        prompts = {
            name: ANSWER.replace("{text}", text).replace("{question}", questions[name]) for name, text in texts.items()
        }
        answers = _replies(backends, prompts, lambda text: NAMES_IT if "参考" in text else "", counts)
        rows.extend({"id": name, "question": questions[name], "answer": answers[name]} for name in answers)
        counts.update(documents=len(waiting), unified=len(answers))
        show(f"{counts['unified']} of {counts['documents']} passages unified")
        waiting.clear()

    for passage in passages:
        waiting.append(passage)
        if len(waiting) == TOGETHER:
            ask()
    ask()
    files.write_jsonl(target, rows)
    return dict(counts)


def _replies(
    backends: list[EndpointBackend], prompts: dict[str, str], rejects: Rejects, counts: Counter[str]
) -> dict[str, str]:
    """{name: reply} in the order of `prompts`, of those that come through in a try; the others are counted."""
    found, why = {}, {}
    for backend in backends:
        left = [name for name in prompts if name not in found]
        turns = [[{"role": "user", "content": prompts[name]}] for name in left]
        asked = [Prompt(turn, "", [], backend.render(turn, ""), 0, False) for turn in turns]
        for name, reply in zip(left, backend.generate(asked, NEW_TOKENS), strict=True):
            text = spoken(reply.text)
            why[name] = rejects(text) if text and reply.finish == STOP else NO_REPLY
            if not why[name]:
                found[name] = text
    counts.update(why[name] for name in prompts if name not in found)
    return {name: found[name] for name in prompts if name in found}


@as_command
def main(arguments: list[str] | None = None) -> int:
    """Unify the documents of a run; returns the exit code, 2 after an error (one sentence on stderr)."""
    command = argparse.ArgumentParser(prog="python -m qilin_lib.evaluate.unification", description=__doc__)
    command.add_argument("run", help="a run whose 01 and 02 are done")
    command.add_argument("target", type=Path, help="the file to write")
    command.add_argument("model", help="its name at the endpoint")
    command.add_argument("endpoint", help="base URL of an OpenAI-compatible server; the key is in OPENAI_API_KEY")
    given = command.parse_args(arguments)
    counts = _of_run(given)
    print("\n".join(f"{counts[name]:8,} {name}" for name in counts))
    return 0


def _of_run(given: argparse.Namespace) -> dict[str, int]:
    try:
        line, run = Baseline(model=given.model, endpoint=given.endpoint), runs.find(given.run)
    except ValidationError as failure:
        raise QilinError(failure_sentence(Baseline, failure)) from None
    if not run.finished(TOKENIZE):
        raise QilinError(f"run '{run.name}' has not finished {TOKENIZE}: run notebooks/{TOKENIZE}.ipynb first")
    passages = ((row["id"], row["text"]) for row, _ in documents(run.dir / BUILD, run.dir / TOKENIZE))
    counts = unify(passages, line, given.target, live_line())
    unified(given.target)
    return counts


if __name__ == "__main__":
    sys.exit(main())
