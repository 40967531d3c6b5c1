"""Evaluation's speed beside the ways in use, on the same small model and the same items, in one run, one thread.

1. C-Eval, 5 shots, letters scored: lm-eval on the same local files and prompts. Its clock starts when its requests are
   made; ours includes making and tokenising the prompts.
2. CMExam, letters: the released way reads the scores of the first token that `generate(max_length=2048)` returns, one
   item at a time; "letters" reads the same scores by one forward pass, "fixed" is what notebook 06 does (letters and
   explanation, 64 new tokens).
3. Huatuo-26M, answers of at most 96 tokens: transformers' generate, one item at a time.

2 and 3 are run twice: with the model's end token, and with none, as a base model that writes on (what it costs the
released way depends on nothing else). Run by hand or by `make bench-eval`, alone on the machine. Rounds alternate; what
counts are the ratios. QILIN_RAW_DIR names real items; without it they are the sample's.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")  # before torch

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qilin_lib import params
from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.evaluate.benchmarks import answers, ceval, cmexam, huatuo
from qilin_lib.evaluate.benchmarks.ceval import ceval_dev, ceval_items, ceval_names
from qilin_lib.evaluate.benchmarks.cmexam import cmexam_items
from qilin_lib.evaluate.benchmarks.huatuo import huatuo_items
from qilin_lib.evaluate.items import Item, cap
from qilin_lib.evaluate.prompts import CEVAL_HEADER, Prompt, cmexam_messages
from qilin_lib.models.base import smollm2_base
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.models.tiny import tiny_base
from qilin_lib.sample import raw_dir
from qilin_lib.tokens.template import PLAIN

sys.path.append(str(Path(__file__).parents[1] / "evaluate"))
import lm_eval_tasks

BATCH, CHUNK, LETTERS, CONTEXT = 32, 16, list("ABCDE"), 2048
NEW_CMEXAM, NEW_HUATUO = 64, 96
TITLES = {
    "ceval": "C-Eval, 5 shots / lm-eval",
    "letters": "CMExam letters / released generate(2048)",
    "fixed": "CMExam fixed / released generate(2048)",
    "huatuo": "Huatuo / generate, one at a time",
}
GOALS = {"ceval": 2, "letters": 50, "fixed": 50, "huatuo": 3}

Timing = tuple[float, float]
"""Items a second: the way in use, ours."""


def model_folder(name: str, raw: Path, cache: Path) -> Path:
    """The kit's tiny model, trained for a minute on questions and answers; SmolLM2-135M; or a folder."""
    if name == "smollm2":
        return smollm2_base(cache, print)
    if name != "tiny":
        return Path(name)
    exams = [
        (cmexam_messages(item.question, item)[0]["content"], f"答案：{item.gold}。\n解释：{item.reference}")
        for item in cmexam_items(raw)[0][:600]
    ]
    talks = [(item.question, item.reference) for item in huatuo_items(raw)[0][:600]]
    texts = [f"问：{asked}\n答：{told}" for asked, told in exams + talks]
    shape = params.load("02_tokenize", {}).tiny.model_copy(update={"max_steps": 80})
    torch.set_num_threads(os.cpu_count() or 1)
    return tiny_base(texts, texts, shape, 17, cache, lambda line: print(line, end="\r"))


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    value = work()
    return time.perf_counter() - started, value


def chunked(answer: Callable[[list[Prompt]], list], asked: list[Prompt], size: int) -> list:
    """The answers in the order of `asked`, the longest prompts first, as notebook 06 asks."""
    order = sorted(range(len(asked)), key=lambda i: (-len(asked[i].ids), i))
    found: list[Any] = [None] * len(asked)
    for start in range(0, len(order), size):
        part = order[start : start + size]
        for index, value in zip(part, answer([asked[i] for i in part]), strict=True):
            found[index] = value
    return found


def must_agree(ours: list[list[float]], theirs: list[list[float]]) -> None:
    gap = np.abs(np.array(ours) - np.array(theirs)).max()
    assert gap < 1e-3, f"the two must agree before their times count; log-probabilities differ by {gap:.4f}"


class CEval:
    """Whole subjects in alphabetical order, at least `count` items."""

    def __init__(self, raw: Path, backend: TransformersBackend, count: int, folder: Path) -> None:
        from lm_eval.models.huggingface import HFLM

        self.backend, self.folder = backend, folder
        self.dev, self.names = ceval_dev(raw), ceval_names(raw)
        self.subjects: dict[str, list[Item]] = {}
        for item in ceval_items(raw, "val")[0]:
            if item.subject not in self.subjects and sum(map(len, self.subjects.values())) >= count:
                break
            self.subjects.setdefault(item.subject or "", []).append(item)
        end = backend.tokenizer.eos_token
        for name, items in self.subjects.items():
            header = CEVAL_HEADER.format(name=self.names[name])
            lm_eval_tasks.write_task(folder, name, header, self.dev[name], items, end)
        self.lm = HFLM(pretrained=backend.model, tokenizer=backend.tokenizer, batch_size=CHUNK, device="cpu")
        self.inside, self.requests = 0.0, self.lm.loglikelihood
        self.lm.loglikelihood = self._timed

    def _timed(self, requests: list[Any], **settings: Any) -> Any:
        self.inside, value = seconds_of(lambda: self.requests(requests, **settings))
        return value

    def ours(self) -> list[dict]:
        rows = []
        for items in self.subjects.values():
            task = ceval.CEval("ceval", "fixed", "val", None, items, [], {}, self.dev, self.names)
            asked = task.prompts(items, self.backend, 5)
            for start in range(0, len(items), CHUNK):
                part = slice(start, start + CHUNK)
                rows += answers.answer(items[part], asked[part], self.backend)
        return rows

    def round(self) -> Timing:
        seconds, rows = seconds_of(self.ours)
        theirs = lm_eval_tasks.samples(self.folder, list(self.subjects), self.lm)
        flat = [lm_eval_tasks.loglikelihoods(sample) for name in self.subjects for sample in theirs[name]]
        must_agree([list(row["scores"].values()) for row in rows], flat)
        return len(rows) / self.inside, len(rows) / seconds


def released_scores(backend: TransformersBackend, prompt: Prompt, ends: bool) -> list[float]:
    """Of the letters, from the first step of a whole generation (eval/CMExam of the released code, zero-shot)."""
    settings = {"do_sample": False, "num_beams": 1, "max_length": CONTEXT, "use_cache": True, "pad_token_id": 0}
    ids = torch.tensor([prompt.ids])
    end = sorted(backend.stop_ids) if ends else None
    output = backend.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        return_dict_in_generate=True,
        output_scores=True,
        eos_token_id=end,
        **settings,
    )
    row = output.scores[0][0].log_softmax(-1)
    return [row[backend.tokenizer.encode(f"：{letter}", add_special_tokens=False)[-1]].item() for letter in LETTERS]


class CMExam:
    """`count` items; the released way gets the first `few` of them where the model writes on, MORE times as many where
    it ends: its cost an item is even, and one of them takes seconds."""

    MORE = 4

    def __init__(self, raw: Path, backend: TransformersBackend, count: int, few: int) -> None:
        self.backend, self.few = backend, few
        self.items = cap(cmexam_items(raw)[0], count, 1)
        task = cmexam.CMExam("cmexam", "fixed", "test", None, [], [], {"max_new_tokens": NEW_CMEXAM}, "char")
        self.asked = task.prompts(self.items, backend, 0)

    def round(self, ends: bool) -> dict[str, Timing]:
        few = self.asked[: self.few * self.MORE if ends else self.few]
        slow, theirs = seconds_of(lambda: [released_scores(self.backend, prompt, ends) for prompt in few])
        letters, ours = seconds_of(
            lambda: chunked(lambda part: self.backend.choice_logprobs(part, LETTERS), self.asked, CHUNK)
        )
        must_agree([list(row.values()) for row in ours[: len(few)]], theirs)
        kept, self.backend.stop_ids = self.backend.stop_ids, self.backend.stop_ids if ends else set()
        fixed, _ = seconds_of(lambda: chunked(lambda p: self.backend.generate(p, NEW_CMEXAM), self.asked, BATCH))
        self.backend.stop_ids = kept
        rate, count = len(few) / slow, len(self.items)
        return {"letters": (rate, count / letters), "fixed": (rate, count / fixed)}


class Huatuo:
    """`count` questions, answered by both."""

    def __init__(self, raw: Path, backend: TransformersBackend, count: int) -> None:
        self.backend = backend
        task = huatuo.Huatuo("huatuo", "fixed", "test", None, [], [], {"max_new_tokens": NEW_HUATUO}, "char")
        self.asked = task.prompts(cap(huatuo_items(raw)[0], count, 1), backend, 0)

    def _alone(self, prompt: Prompt, ends: bool) -> str:
        ids = torch.tensor([prompt.ids])
        end = sorted(self.backend.stop_ids) if ends else None
        settings = {"do_sample": False, "max_new_tokens": NEW_HUATUO, "use_cache": True, "pad_token_id": 0}
        out = self.backend.model.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=end, **settings)
        return self.backend.tokenizer.decode(out[0, len(prompt.ids) :], skip_special_tokens=True)

    def round(self, ends: bool) -> tuple[Timing, int, int]:
        """(rates, equal texts, characters written)"""
        slow, theirs = seconds_of(lambda: [self._alone(prompt, ends) for prompt in self.asked])
        kept, self.backend.stop_ids = self.backend.stop_ids, self.backend.stop_ids if ends else set()
        fast, ours = seconds_of(lambda: chunked(lambda p: self.backend.generate(p, NEW_HUATUO), self.asked, BATCH))
        self.backend.stop_ids = kept
        same = sum(a == b for a, b in zip(ours, theirs, strict=True))
        assert same >= 0.9 * len(ours), f"the two must agree before their times count: {same} of {len(ours)}"
        return (len(ours) / slow, len(ours) / fast), same, sum(map(len, ours))


def show(name: str, rounds: list[Timing], goal: int) -> None:
    ratios = [ours / theirs for theirs, ours in rounds]
    slow, fast = (statistics.median(column) for column in zip(*rounds, strict=True))
    middle = statistics.median(ratios)
    verdict = "met" if middle >= goal else "NOT met"
    spread = f"[{min(ratios):.1f}, {max(ratios):.1f}]"
    print(f"{name:<52} {slow:9.3f} {fast:9.2f}   {middle:7.1f}  {spread:<16} >= {goal}: {verdict}")


def run(chosen: argparse.Namespace, work: Path) -> None:
    raw = Path(os.environ["QILIN_RAW_DIR"]) if os.environ.get("QILIN_RAW_DIR") else raw_dir()
    weights = model_folder(chosen.model, raw, chosen.cache or work)
    torch.set_num_threads(chosen.threads)
    backend = TransformersBackend(load_model(weights), load_tokenizer(weights), PLAIN, BATCH, "cpu")
    exam, tests = CEval(raw, backend, chosen.items, work), CMExam(raw, backend, chosen.items, chosen.released_items)
    talks = Huatuo(raw, backend, chosen.items)
    tables: dict[tuple[str, bool], list[Timing]] = {}
    for number in range(chosen.rounds):
        tables.setdefault(("ceval", True), []).append(exam.round())
        for ends in (True, False):
            for name, timing in tests.round(ends).items():
                tables.setdefault((name, ends), []).append(timing)
            timing, same, written = talks.round(ends)
            tables.setdefault(("huatuo", ends), []).append(timing)
            print(f"round {number + 1}, ends {ends}: {same} of {len(talks.asked)} texts equal, {written} characters")
    print(f"\nmodel {chosen.model}, {chosen.threads} thread(s), {chosen.rounds} rounds; items a second, medians")
    print(f"{'':<52} {'theirs':>9} {'ours':>9}   {'ratio':>7}  {'range':<16} goal")
    for (name, ends), rounds in tables.items():
        show(TITLES[name] + ("" if ends else ", writes on"), rounds, GOALS[name])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="tiny", help="tiny, smollm2 or a model folder")
    options.add_argument("--items", type=int, default=32, help="items of each benchmark")
    options.add_argument("--released-items", type=int, default=3, help="items that the released way answers a round")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--cache", type=Path, default=None, help="folder that keeps the tiny model")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(chosen, Path(folder))


if __name__ == "__main__":
    main()
