"""The paper's Figures 2 (a Huatuo-26M dialogue) and 3 (a CMExam item): one question, every model's answer side by side.

The paper shows one hand-picked item each. Here a rule picks: a seeded sample, the biggest gains and the biggest losses.
A stage's answer is marked against that of the stage before it: what training changed is what a reader looks for.
"""

from __future__ import annotations

import difflib
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate.conversation import DISCLAIMER
from qilin_lib.evaluate.scores import STAGES as COMPARED
from qilin_lib.models.names import describe_run, places
from qilin_lib.report import records
from qilin_lib.report.frames import item_score
from qilin_lib.report.markup import Box, Html, card, joined, macro
from qilin_lib.runs import Stage
from qilin_lib.train.children import die_with_parent

Record = Mapping[str, Any]

# What `item_score` is of an answer, by benchmark.
METRICS = {"huatuo": "ROUGE-L", "cmexam": "right"}
# Characters of one text that are compared and shown; a model that never stops would else fill the page.
LONGEST = 2000
# Below this share of common text marks would be confetti: the share is said instead.
ALIKE = 0.3
# Equal stretches this short between two changes are chance (的, a comma) and count as changed.
CHANCE = 2


@dataclass(frozen=True)
class Case:
    """One item: why it was picked, every model's record of it, every model's metric, and which models are stages of
    the run, in the order of training."""

    id: str
    rule: str
    records: dict[str, Record]
    scores: dict[str, float]
    stages: Sequence[str]


def choose(
    records_by_model: Mapping[str, Iterable[Record]],
    k: int,
    seed: int,
    metric: Callable[[Record], float],
    stages: Sequence[str] = COMPARED,
) -> list[Case]:
    """Pick k items by a seeded draw, then the k biggest gains and losses of `metric` from the first stage to the last.

    The draw does not depend on the order of the records, and equal changes are taken in drawn order. A gain or loss
    that was drawn already is shown once, with both reasons; where fewer than k items gain (or lose), fewer are shown.
    QilinError when the models' items differ.
    """
    first, last = stages[0], stages[-1]
    by_id = {model: {str(record["id"]): record for record in rows} for model, rows in records_by_model.items()}
    for model, rows in by_id.items():
        missing = sorted(by_id[first].keys() ^ rows.keys())
        if missing:
            raise QilinError(
                f"case study needs the same items for every model: {model} and {first} differ in {len(missing)} "
                f"item(s), e.g. {missing[0]}; run notebooks/06_eval.ipynb for both with the same cap"
            )
    ids = sorted(by_id[first])
    drawn = random.Random(seed).sample(ids, len(ids))
    rules = {item: ["seeded sample"] for item in drawn[:k]}
    # From the far end of the draw: among equal changes those that the sample does not show already.
    changes = {item: metric(by_id[last][item]) - metric(by_id[first][item]) for item in reversed(drawn)}
    for name, sign in (("gain", 1), ("loss", -1)):
        moved = [item for item in changes if changes[item] * sign > 0]
        for number, item in enumerate(sorted(moved, key=lambda item: -abs(changes[item]))[:k], start=1):
            place = f" (no. {number})" if k > 1 else ""
            rules.setdefault(item, []).append(f"biggest {name} from {first} to {last}{place}")
    cases = []
    for item, reasons in rules.items():
        answers = {model: rows[item] for model, rows in by_id.items()}
        scores = {model: metric(record) for model, record in answers.items()}
        cases.append(Case(item, ", ".join(reasons), answers, scores, stages))
    return cases


def side_by_side(cases: Iterable[Case], metric_name: str) -> Html:
    """The cases as HTML: question, reference, then one column per model with its metric, the change since the first
    stage and its answer, marked against the stage before it (first stage and baselines: against the reference)."""
    cards = []
    for case in cases:
        record = case.records[case.stages[0]]
        prompt, gold = record["prompt"], f"Answer: {record['gold']}\n" if record.get("gold") else ""
        if not isinstance(prompt, str):
            prompt = "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
        reference = Box("Reference", cut(f"{gold}{record.get('reference') or ''}"))
        answers = [_answer(model, case, metric_name) for model in case.records]
        title, rule = f"{record.get('benchmark', 'case')}: {case.id}", f"picked by: {case.rule}"
        cards.append(card(title, [Box("Question", cut(prompt)), reference], answers, rule))
    if not cards:
        return macro("paragraph", "No case: the benchmark has no items in this run.")
    return joined([macro("legend", f"{ALIKE:.0%}"), *cards])


def cut(text: str) -> Html:
    """`text` cut at LONGEST characters, with a word about the rest."""
    return macro("cut", text[:LONGEST], max(0, len(text) - LONGEST))


def _answer(model: str, case: Case, metric_name: str) -> Box:
    score, first, record = case.scores[model], case.stages[0], case.records[model]
    delta = "" if model == first else f" ({score - case.scores[first]:+.1f})"
    # The stage that the model was trained from; none for the first stage and for baselines.
    stages = [name for name in case.stages if name in case.records]
    before = stages[stages.index(model) - 1] if model in stages[1:] else ""
    compared = case.records[before]["output"] if before else record.get("reference")
    output, note = marked(str(compared or ""), str(record["output"] or ""), before or "the reference")
    text = Html("\n".join(filter(None, [output, *map(cut, reading(record))])))
    return Box(model, text, f"{metric_name} {score:.1f}{delta}", note)


def reading(record: Record) -> list[str]:
    """What was read from an answer, line by line: the explanation unless the output holds it, the letters taken for
    the prediction, and each choice's log-probability where the choices were scored."""
    lines = [f"Read as: {record['prediction'] or 'unparsed'}"] if "prediction" in record else []
    if scores := record.get("scores"):
        lines.append("log p: " + "  ".join(f"{letter} {value:.2f}" for letter, value in scores.items()))
    explanation = record.get("explanation")
    # A model's explanation is often the tail of its raw output; showing it twice would tell nothing.
    return [explanation, *lines] if explanation and explanation not in (record["output"] or "") else lines


def marked(before: str, after: str, name: str) -> tuple[Html, str]:
    """(`after` with what was added and left out since `before` marked, a note that says what it was compared with).

    The first LONGEST characters are compared, Latin words and numbers as a whole, all else character by character.
    """
    old, new = (re.findall(r"[A-Za-z0-9.%]+|\s+|.", text[:LONGEST], re.DOTALL) for text in (before, after))
    if not old or not new:
        return cut(after), ""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    share = matcher.ratio()
    if share == 1:
        return cut(after), f"same as {name}"
    if share < ALIKE:
        return cut(after), f"{share:.0%} in common with {name}: not marked"
    pieces: list[tuple[str, str]] = []
    left_out = added = ""
    opcodes = matcher.get_opcodes()
    for place, (kind, old_from, old_to, new_from, new_to) in enumerate(opcodes):
        between = 0 < place < len(opcodes) - 1
        if kind != "equal" or (between and new_to - new_from <= CHANCE):
            left_out += "".join(old[old_from:old_to])
            added += "".join(new[new_from:new_to])
            continue
        pieces += [("del", left_out), ("ins", added), ("", "".join(new[new_from:new_to]))]
        left_out = added = ""
    pieces += [("del", left_out), ("ins", added)]
    shown = macro("marks", [(kind, text) for kind, text in pieces if text])
    return macro("cut", shown, max(0, len(after) - LONGEST)), f"compared with {name}"


def cases(stage: Stage, benchmark: str) -> Html:
    """The chosen items of one benchmark, all models side by side. Metric: ROUGE-L, or 100/0 for an exam answer."""
    folder, parameters = stage.parent("06_eval"), stage.parameters
    models = records.models_of(folder, benchmark)
    stages = [name for name in ("base", *parameters.chain) if name in models]
    if len(stages) < 2:
        told = f"{benchmark} was answered by {len(stages)} stage(s) of this run under the fixed protocol"
        return macro("paragraph", f"{told}: nothing to compare.")
    names = records.names_of(folder, models)
    answers = {name: records.read(folder, "fixed", benchmark, model) for model, name in names.items()}
    chosen = choose(answers, parameters.cases, parameters.seed, item_score, [names[stage] for stage in stages])
    return side_by_side(chosen, METRICS[benchmark])


def ask(stage: Stage, question: str | None = None, models: Iterable[str] | None = None) -> Html:
    """One question to stages of the run, answers side by side: each model in a process of its own, one after the other.

    `question`: None takes the notebook's parameter; without one nothing is loaded. `models`: stages by name, None: base
    and trainings; those that have not finished are left out. A model that cannot answer has its sentence in its box.
    QilinError for a model that the run does not have.
    """
    question = (stage.parameters.question if question is None else question) or ""
    if not question.strip():
        return macro(
            "paragraph", 'No question: set the parameter `question`, or call case_study.ask(stage, "头痛怎么办？").'
        )
    names, before, boxes = describe_run(stage)["names"], None, []
    folders = places(stage.parameters.chain)
    asked = ("base", *stage.parameters.chain) if models is None else tuple(models)
    for model in asked:
        if model not in folders:
            raise QilinError(f"model '{model}': none of this run{nearest(model, folders)}; there are {list(folders)}")
    for model in [model for model in asked if stage.run.finished(folders[model])]:
        done = subprocess.run(
            [sys.executable, "-m", "qilin_lib.chat", stage.run_dir.name, "--stage", model, "--once"],
            input=question.encode("utf-8", "replace"),
            capture_output=True,
            env=os.environ | {"PYTHONUTF8": "1"},
            check=False,
            preexec_fn=die_with_parent,
        )
        answer = done.stdout.decode("utf-8", "replace").removesuffix("\n")
        if done.returncode:
            # The last line of a traceback is its sentence.
            told = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            boxes.append(Box(names[model], told[:LONGEST], "no answer"))
            continue
        shown, note = (cut(answer), "") if before is None else marked(before, answer, "the stage before")
        boxes.append(Box(names[model], shown, note=note))
        before = answer
    return card("Your question", [Box("question", cut(question))], boxes, DISCLAIMER)
