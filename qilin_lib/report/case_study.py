"""The paper's Figures 2 (a Huatuo-26M dialogue) and 3 (a CMExam item): one question, every model's answer side by side.

The paper shows one hand-picked item each. Here a rule picks: a seeded sample, the biggest gains and the biggest losses.
A stage's answer is marked against that of the stage before it: what training changed is what a reader looks for.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import metrics
from qilin_lib.evaluate.scores import STAGES
from qilin_lib.report import records
from qilin_lib.report.markup import CASE_STYLE, Html, escape, styled
from qilin_lib.runs import Stage

Record = Mapping[str, Any]
Metric = Callable[[Record], float | None]

# Characters of one text that are compared and shown; a model that never stops would else fill the page.
LONGEST = 2000
# Below this share of common text marks would be confetti: the share is said instead.
ALIKE = 0.3
# Equal stretches this short between two changes are chance (的, a comma) and count as changed.
CHANCE = 2

# Underlined and struck through, so that the marks can be read without their colours.
MARK_STYLE = """
.qm-case ins{background:#d5efe0;color:#0b4a2b;text-decoration:underline;text-decoration-thickness:2px}
.qm-case del{background:#fbe1dc;color:#8a1f0c;text-decoration:line-through}
.qm-case .note{color:#56606f;font-size:12.5px;margin:.3rem 0 0}
"""


@dataclass(frozen=True)
class Case:
    """One item: why it was picked, every model's record of it, every model's metric (None = no value), and which models
    are stages of the run, in the order of training."""

    id: str
    rule: str
    records: dict[str, Record]
    scores: dict[str, float | None]
    stages: Sequence[str]


def choose(
    records_by_model: Mapping[str, Iterable[Record]],
    k: int,
    seed: int,
    metric: Metric,
    stages: Sequence[str] = STAGES,
) -> list[Case]:
    """Pick k items by a seeded draw, then the k biggest gains and losses of `metric` from the first stage to the last.

    The draw does not depend on the order of the records, and equal changes are taken in drawn order. A gain or loss
    that was drawn already is shown once, with both reasons; where fewer than k items gain (or lose), fewer are shown.
    QilinError when the models' items differ.
    """
    first, last = stages[0], stages[-1]
    by_id = {model: {str(record["id"]): record for record in rows} for model, rows in records_by_model.items()}
    ids = _common_ids(by_id, first, last)
    drawn = random.Random(seed).sample(ids, len(ids))
    rules = {item: ["seeded sample"] for item in drawn[:k]}
    changes = {item: _change(metric(by_id[first][item]), metric(by_id[last][item])) for item in drawn}
    # From the far end of the draw: among equal changes those that the sample does not show already.
    scored = [(change, item) for item, change in reversed(changes.items()) if change is not None]
    gains = sorted((pair for pair in scored if pair[0] > 0), key=lambda pair: -pair[0])
    losses = sorted((pair for pair in scored if pair[0] < 0), key=lambda pair: pair[0])
    for name, ranked in (("gain", gains), ("loss", losses)):
        for number, (_, item) in enumerate(ranked[:k], start=1):
            place = f" (no. {number})" if k > 1 else ""
            rules.setdefault(item, []).append(f"biggest {name} from {first} to {last}{place}")
    picked = {item: {model: rows[item] for model, rows in by_id.items()} for item in rules}
    return [
        Case(item, ", ".join(rules[item]), answers, {m: metric(record) for m, record in answers.items()}, stages)
        for item, answers in picked.items()
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


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def side_by_side(cases: Iterable[Case], metric_name: str) -> Html:
    """The cases as HTML: question, reference, then one column per model with its metric, the change since the first
    stage and its answer, marked against the stage before it (first stage and baselines: against the reference)."""
    body = "".join(_case(case, metric_name) for case in cases)
    if not body:
        return styled(CASE_STYLE, '<p class="qm-case">No case: the benchmark has no items in this run.</p>')
    return styled(CASE_STYLE + MARK_STYLE, f'<div class="qm-case">{LEGEND}</div>\n{body}')


LEGEND = (
    "Marks: <ins>added</ins> and <del>left out</del> compared with the stage before (base and baselines: compared with "
    f"the reference). Texts that share less than {ALIKE:.0%} are not marked; the share is said instead."
)


def _case(case: Case, metric_name: str) -> str:
    record = case.records[case.stages[0]]
    boxes = [_answer(model, case, metric_name) for model in case.records]
    title = f"{record.get('benchmark', 'case')}: {case.id}"
    return card(title, f"picked by: {case.rule}", plain(_question(record)), plain(reference(record)), boxes)


def card(title: str, aside: str, asked: str, wanted: str, boxes: Iterable[str]) -> str:
    """One item as HTML: head, question, reference, and the models' boxes (made by `box`) side by side.

    `asked` and `wanted` are escaped already (`plain`), title and `aside` are not.
    """
    return (
        f'<article class="qm-case"><div class="head">{escape(title)}<span>{escape(aside)}</span></div>'
        f"{box('Question', asked)}{box('Reference', wanted)}"
        f'<div class="answers">{"".join(boxes)}</div></article>\n'
    )


def box(title: str, content: str, aside: str = "") -> str:
    """A titled box; `content` is escaped already (`plain`, `marked`), title and `aside` are not.

    The title is no heading: JupyterLab would number it and list it in the notebook's table of contents.
    """
    side = f"<span>{escape(aside)}</span>" if aside else ""
    content = content if content.strip() else '<span class="empty">(empty)</span>'
    head = f'<div class="title">{escape(title)}{side}</div>'
    return f'<div class="box">{head}<div class="text" lang="zh">{content}</div></div>'


def plain(text: str) -> str:
    """`text` escaped, and cut at LONGEST characters with a word about the rest."""
    return escape(text[:LONGEST]) + _rest(text)


def _rest(text: str) -> str:
    more = len(text) - LONGEST
    return f'<span class="empty"> … ({more:,} more characters in the records file)</span>' if more > 0 else ""


def _answer(model: str, case: Case, metric_name: str) -> str:
    first = case.stages[0]
    change = _change(case.scores[first], case.scores[model])
    delta = "" if change is None or model == first else f" ({change:+.1f})"
    score = case.scores[model]
    shown = f"{metric_name} " + ("not scored" if score is None else f"{score:.1f}{delta}")
    record, other = case.records[model], _before(model, case)
    name, compared = (other, case.records[other]) if other else ("the reference", {"output": record.get("reference")})
    output, note = marked(str(compared["output"] or ""), str(record["output"] or ""), name)
    parts = [output, *map(plain, reading(record))]
    return box(model, "\n".join(filter(None, parts)) + note, shown)


def _before(model: str, case: Case) -> str | None:
    """The stage that `model` was trained from; None for the first stage and for baselines."""
    stages = [name for name in case.stages if name in case.records]
    return stages[stages.index(model) - 1] if model in stages[1:] else None


def reading(record: Record) -> list[str]:
    """What was read from an answer, line by line: the explanation unless the output holds it, the letters taken for
    the prediction, and each choice's log-probability where the choices were scored."""
    lines = [f"Read as: {record['prediction'] or 'unparsed'}"] if "prediction" in record else []
    if scores := record.get("scores"):
        lines.append("log p: " + "  ".join(f"{letter} {value:.2f}" for letter, value in scores.items()))
    explanation = record.get("explanation")
    # A model's explanation is often the tail of its raw output; showing it twice would tell nothing.
    return [explanation, *lines] if explanation and explanation not in (record["output"] or "") else lines


def marked(before: str, after: str, name: str) -> tuple[str, str]:
    """(`after` escaped with what was added and left out since `before`, a note that says what it was compared with).

    The first LONGEST characters are compared, Latin words and numbers as a whole, all else character by character.
    """
    old, new = (re.findall(r"[A-Za-z0-9.%]+|\s+|.", text[:LONGEST], re.DOTALL) for text in (before, after))
    if not old or not new:
        return plain(after), ""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    share = matcher.ratio()
    if share == 1:
        return plain(after), _note(f"same as {name}")
    if share < ALIKE:
        return plain(after), _note(f"{share:.0%} in common with {name}: not marked")
    return _marks(old, new, _changes(matcher)) + _rest(after), _note(f"compared with {name}")


def _note(text: str) -> str:
    return f'<div class="note">{escape(text)}</div>'


def _changes(matcher: difflib.SequenceMatcher) -> list[tuple[int, int, int, int]]:
    """Changed stretches (old from, to, new from, to), each joined with the one before it across a chance match."""
    joined: list[tuple[int, int, int, int]] = []
    for kind, *here in matcher.get_opcodes():
        if kind == "equal":
            continue
        if joined and here[0] - joined[-1][1] <= CHANCE:
            here = [joined[-1][0], here[1], joined.pop()[2], here[3]]
        joined.append(tuple(here))
    return joined


def _marks(old: Sequence[str], new: Sequence[str], changes: Iterable[tuple[int, int, int, int]]) -> str:
    parts, done = [], 0
    for old_from, old_to, new_from, new_to in changes:
        parts.append(escape("".join(new[done:new_from])))
        removed, added = "".join(old[old_from:old_to]), "".join(new[new_from:new_to])
        parts += [f"<del>{escape(removed)}</del>"] if removed else []
        parts += [f"<ins>{escape(added)}</ins>"] if added else []
        done = new_to
    return "".join([*parts, escape("".join(new[done:]))])


def _question(record: Record) -> str:
    prompt = record["prompt"]
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def reference(record: Record) -> str:
    """The gold letters of an exam item, and the reference text."""
    gold = f"Answer: {record['gold']}\n" if record.get("gold") else ""
    return f"{gold}{record.get('reference') or ''}"


def cases(stage: Stage, benchmark: str) -> Html:
    """The chosen items of one benchmark, all models side by side. Metric: ROUGE-L, or 100/0 for an exam answer."""
    folder = stage.parent("06_eval")
    models = records.models_of(folder, benchmark)
    stages = [name for name in ("base", *stage.parameters.chain) if name in models]
    names = records.names_of(folder, models)
    if len(stages) < 2:
        return Html(
            f"<p>{escape(benchmark)} was answered by {len(stages)} stage(s) of this run under the fixed protocol: "
            "nothing to compare.</p>"
        )
    answers = {name: records.read(folder, "fixed", benchmark, model) for model, name in names.items()}
    metric, label = METRICS[benchmark]
    parameters = stage.parameters
    chosen = choose(answers, parameters.cases, parameters.seed, metric, [names[stage] for stage in stages])
    return side_by_side(chosen, label)


def rouge_l(record: Record) -> float:
    """ROUGE-L F1 (percent, characters) of one answer."""
    words = [[metrics.tokenize(record[name], "char")] for name in ("output", "reference")]
    return float(metrics.rouge_l(metrics.longest(*words))[0])


def right(record: Record) -> float:
    """100 for exactly the right letters, else 0."""
    return 100.0 if record["correct"] else 0.0


METRICS = {"huatuo": (rouge_l, "ROUGE-L"), "cmexam": (right, "right")}
