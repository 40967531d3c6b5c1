"""The paper's Figures 2 (a Huatuo-26M dialogue) and 3 (a CMExam item): one question, every model's answer side by side.

The paper shows one hand-picked item each. Here a rule picks: a seeded sample, the biggest gain and the biggest loss.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import metrics
from qilin_lib.evaluate.models import STAGES
from qilin_lib.files import read_jsonl
from qilin_lib.report.markup import CASE_STYLE, Html, escape, styled
from qilin_lib.runs import Stage

Record = Mapping[str, Any]
Metric = Callable[[Record], float | None]


@dataclass(frozen=True)
class Case:
    """One item: why it was picked, every model's record of it, and every model's metric (None = no value)."""

    id: str
    rule: str
    records: dict[str, Record]
    scores: dict[str, float | None]


def choose(
    records_by_model: Mapping[str, Iterable[Record]],
    k: int,
    seed: int,
    metric: Metric,
    first: str = "base",
    last: str = "dpo",
) -> list[Case]:
    """Pick k items by a seeded draw, then the biggest gain and loss of `metric` from model `first` to model `last`.

    The draw does not depend on the order of the records. A gain or loss that was drawn already is shown once, with
    both reasons; where no item gains (or loses), none is shown for it. QilinError when the models' items differ.
    """
    by_id = {model: {str(record["id"]): record for record in rows} for model, rows in records_by_model.items()}
    ids = _common_ids(by_id, first, last)
    drawn = random.Random(seed).sample(ids, min(k, len(ids)))
    rules = {item: ["seeded sample"] for item in drawn}
    scores = {item: {model: metric(rows[item]) for model, rows in by_id.items()} for item in ids}
    changes = [(change, item) for item in ids if (change := _change(scores[item], first, last)) is not None]
    gain, loss = max(changes, default=(0, "")), min(changes, default=(0, ""))
    if gain[0] > 0:
        rules.setdefault(gain[1], []).append(f"biggest gain from {first} to {last}")
    if loss[0] < 0:
        rules.setdefault(loss[1], []).append(f"biggest loss from {first} to {last}")
    return [
        Case(item, ", ".join(why), {model: rows[item] for model, rows in by_id.items()}, scores[item])
        for item, why in rules.items()
    ]


def _common_ids(by_id: Mapping[str, Mapping[str, Record]], first: str, last: str) -> list[str]:
    for model in (first, last):
        if model not in by_id:
            raise QilinError(f"case study compares {first} with {last}, but there are records only for {list(by_id)}")
    for model, rows in by_id.items():
        missing = sorted(set(by_id[first]) - set(rows)) or sorted(set(rows) - set(by_id[first]))
        if missing:
            raise QilinError(
                f"case study needs the same items for every model: {model} and {first} differ in {len(missing)} "
                f"item(s), e.g. {missing[0]}; run notebooks/06_eval.ipynb for both with the same cap"
            )
    return sorted(by_id[first])


def _change(scores: Mapping[str, float | None], first: str, last: str) -> float | None:
    before, after = scores[first], scores[last]
    return None if before is None or after is None else after - before


def side_by_side(cases: Iterable[Case], metric_name: str, first: str = "base") -> Html:
    """The cases as HTML: question, reference, then one column a model with its metric and the change since `first`."""
    body = "".join(_case(case, metric_name, first) for case in cases)
    return styled(CASE_STYLE, body or '<p class="qm-case empty">No case: the benchmark has no items in this run.</p>')


def _case(case: Case, metric_name: str, first: str) -> str:
    record = case.records[first]
    answers = "".join(_answer(model, case, metric_name, first) for model in case.records)
    return (
        f'<article class="qm-case"><div class="head">{escape(record.get("benchmark", "case"))}: {escape(case.id)}'
        f"<span>picked by: {escape(case.rule)}</span></div>"
        f"{_box('Question', _question(record))}{_box('Reference', _reference(record))}"
        f'<div class="answers">{answers}</div></article>\n'
    )


def _answer(model: str, case: Case, metric_name: str, first: str) -> str:
    change = _change(case.scores, first, model)
    delta = "" if change is None or model == first else f" ({change:+.1f})"
    score = case.scores[model]
    shown = f"{metric_name} " + ("not scored" if score is None else f"{score:.1f}{delta}")
    record = case.records[model]
    parts = [f"Read as: {record['prediction'] or 'unparsed'}"] if "prediction" in record else []
    parts += [record[name] for name in ("output", "explanation") if record.get(name)]
    # A model's explanation is often the tail of its raw output; showing it twice would tell nothing.
    if len(parts) > 1 and parts[-1] in parts[-2]:
        parts.pop()
    return _box(model, "\n".join(parts), shown)


def _question(record: Record) -> str:
    prompt = record["prompt"]
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def _reference(record: Record) -> str:
    gold = f"Answer: {record['gold']}\n" if record.get("gold") else ""
    return f"{gold}{record.get('reference') or ''}"


def _box(title: str, text: str, aside: str = "") -> str:
    side = f"<span>{escape(aside)}</span>" if aside else ""
    content = escape(text) if text.strip() else '<span class="empty">(empty)</span>'
    return f'<div class="box"><h4>{escape(title)}{side}</h4><div class="text" lang="zh">{content}</div></div>'


def cases(stage: Stage, benchmark: str) -> Html:
    """The chosen items of one benchmark, all models side by side. Metric: ROUGE-L, or 100/0 for an exam answer."""
    folder = stage.parent("06_eval") / "predictions" / benchmark
    models = [name for name in STAGES if (folder / f"{name}.jsonl").exists()]
    if len(models) < 2:
        return Html(
            f"<p>{escape(benchmark)} was answered by {len(models)} model(s) in this run: nothing to compare.</p>"
        )
    records = {name: list(read_jsonl(folder / f"{name}.jsonl")) for name in models}
    metric, label = METRICS[benchmark]
    parameters = stage.parameters
    chosen = choose(records, parameters.cases, parameters.seed, metric, models[0], models[-1])
    return side_by_side(chosen, label, models[0])


def rouge_l(record: Record) -> float:
    """ROUGE-L F1 (percent, characters) of one answer."""
    words = [[metrics.tokenize(record[name], "char")] for name in ("output", "reference")]
    return float(metrics.rouge_l(*words)[0])


def right(record: Record) -> float:
    """100 for exactly the right letters, else 0."""
    return 100.0 if record["correct"] else 0.0


METRICS = {"huatuo": (rouge_l, "ROUGE-L"), "cmexam": (right, "right")}
