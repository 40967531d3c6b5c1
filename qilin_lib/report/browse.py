"""All records of a run, searched and filtered: in the notebook by ipywidgets, in report.html by browse_page.py.

A record matches when every word of the search stands in its id, subject, question, answer, reference or annotations
(letter case aside) and every menu agrees. What matches is shown item by item, in the look of the case study.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qilin_lib.report import browse_page, records
from qilin_lib.report.case_study import Record, box, card, reading, reference
from qilin_lib.report.markup import CASE_STYLE, Html, escape, styled
from qilin_lib.runs import Stage

PAGE = 5
VERDICTS = ("right", "wrong", "unparsed")
ANY = "all"


@dataclass(frozen=True)
class Row:
    """One record with what it is filtered by, `model` as the tables call it.

    `path`: its file under predictions/. `beginning`: the prompt's few-shot part, equal for a whole subject.
    """

    path: str
    task: str
    model: str
    record: Record
    beginning: str
    searched: str

    @property
    def item(self) -> tuple[str, str]:
        return self.task, self.record["id"]

    @property
    def question(self) -> str:
        return self.record["prompt"][len(self.beginning) :]


def load(eval_dir: str | Path) -> list[Row]:
    """Every record under `eval_dir`/predictions/<protocol>/<benchmark>/<model>.jsonl, task by task, item by item.

    Raises QilinError for a file without records.
    """
    rows = []
    for folder in sorted(Path(eval_dir, "predictions").glob("*/*")):
        protocol, benchmark = folder.parts[-2:]
        names = records.names_of(eval_dir, records.models_of(eval_dir, benchmark, protocol))
        found = [row for model in names for row in _rows(eval_dir, protocol, benchmark, model, names[model])]
        rows += [row for item in by_item(found) for row in item]
    return rows


def _rows(eval_dir: str | Path, protocol: str, benchmark: str, model: str, name: str) -> list[Row]:
    path, task = f"{protocol}/{benchmark}/{model}.jsonl", f"{benchmark} ({protocol})"
    answers = records.read(eval_dir, protocol, benchmark, model)
    pairs = zip(answers, beginnings(answers), strict=True)
    return [Row(path, task, name, record, start, _searched(record, start)) for record, start in pairs]


def beginnings(answers: Sequence[Record]) -> list[str]:
    """What each prompt shares with all others of its subject that have as many shots; "" for a prompt without shots.

    Cut back to the last line break, colon or bracket, so that questions which begin alike stay whole.
    """
    groups = defaultdict(set)
    for record in answers:
        groups[record.get("subject"), record.get("shots")].add(record["prompt"])
    shared = {}
    for (subject, shots), prompts in groups.items():
        common = os.path.commonprefix(sorted(prompts)) if shots and len(prompts) > 1 else ""
        shared[subject, shots] = re.match(r"(.*[\n：:>\]])?", common, re.DOTALL)[0]
    return [shared[record.get("subject"), record.get("shots")] for record in answers]


def _searched(record: Record, beginning: str) -> str:
    parts = [record.get(name) or "" for name in ("id", "subject", "output", "reference", "explanation")]
    parts += [record["prompt"][len(beginning) :], *(record.get("groups") or {}).values()]
    return "\n".join(map(str, parts)).lower()


def verdict(record: Record) -> str:
    """right, wrong or unparsed; "" where there is no answer to be right about."""
    if "prediction" not in record:
        return ""
    if not record["prediction"]:
        return "unparsed"
    return {True: "right", False: "wrong"}.get(record.get("correct"), "")


def matching(rows: Iterable[Row], words: str = "", **wanted: str) -> list[Row]:
    """Rows that hold every word and agree with `wanted` (task, model, verdict, subject; "all" agrees with any)."""
    terms = words.lower().split()
    chosen = {name: value for name, value in wanted.items() if value != ANY}
    return [
        row
        for row in rows
        if all(term in row.searched for term in terms)
        and all(_value(row, name) == value for name, value in chosen.items())
    ]


def _value(row: Row, name: str) -> str:
    if name in ("task", "model"):
        return getattr(row, name)
    return verdict(row.record) if name == "verdict" else row.record.get("subject", "")


def by_item(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows of one task's item together, in the order in which the items first appear."""
    items = defaultdict(list)
    for row in rows:
        items[row.item].append(row)
    return list(items.values())


def page_html(items: Iterable[Sequence[Row]], words: str = "") -> Html:
    """Items as cards, the searched words marked."""
    terms = words.lower().split()
    return styled(CASE_STYLE + browse_page.STYLE, "".join(_card(rows, terms) for rows in items))


def _card(rows: Sequence[Row], terms: Sequence[str]) -> str:
    first = rows[0]
    about = [first.record.get("subject", ""), *(f"{k}: {v}" for k, v in (first.record.get("groups") or {}).items())]
    shots = first.record.get("shots")
    folded = _folded(f"{shots} examples before it", first.beginning) if first.beginning else ""
    return card(
        f"{first.task}: {first.record['id']}",
        ", ".join(filter(None, about)),
        folded + hits(first.question, terms),
        hits(reference(first.record), terms),
        (_answer(row, terms) for row in rows),
    )


def _answer(row: Row, terms: Sequence[str]) -> str:
    lines = [hits(row.record["output"], terms)] if row.record["output"] else []
    lines += [hits(line, terms) for line in reading(row.record)]
    notes = [verdict(row.record), "question cut" if row.record.get("truncated") else ""]
    prompt = _folded(f"prompt, template {row.record['template']}", row.record["prompt"])
    return box(row.model, "\n".join(lines) + prompt, ", ".join(filter(None, notes)))


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{escape(text)}</details>"


def hits(text: str, terms: Sequence[str]) -> str:
    """`text` escaped, with every occurrence of a term in <mark>."""
    if not terms:
        return escape(text)
    pieces = re.split(f"({'|'.join(map(re.escape, terms))})", text, flags=re.IGNORECASE)
    # re.split puts the matches at the odd places.
    return "".join(f"<mark>{escape(piece)}</mark>" if n % 2 else escape(piece) for n, piece in enumerate(pieces))


def browser(rows: Sequence[Row]) -> Any:
    """The ipywidgets box: a search field, four menus, paging, results. The search runs at Enter."""
    import ipywidgets as widgets

    words = widgets.Text(description="Search", placeholder="words, then Enter", continuous_update=False)
    menus = {name: widgets.Dropdown(description=label, options=o) for name, label, o in _menus(rows)}
    back, on = widgets.Button(description="Previous page"), widgets.Button(description="Next page")
    told, shown, page = widgets.Label(), widgets.HTML(), widgets.BoundedIntText(min=1, max=1, description="Page")

    def show(change: Mapping[str, Any] | None = None) -> None:
        found = matching(rows, words.value, **{name: menu.value for name, menu in menus.items()})
        items = by_item(found)
        page.max = max(1, -(-len(items) // PAGE))
        if change is not None and change["owner"] is not page:
            page.value = 1
        start = (page.value - 1) * PAGE
        told.value = f"{len(found):,} of {len(rows):,} records, {len(items):,} items; page {page.value} of {page.max}"
        back.disabled, on.disabled = page.value == 1, page.value == page.max
        shown.value = page_html(items[start : start + PAGE], words.value)

    for control in (words, *menus.values(), page):
        control.observe(show, "value")
    back.on_click(lambda _: setattr(page, "value", page.value - 1))
    on.on_click(lambda _: setattr(page, "value", page.value + 1))
    show()
    wrap = widgets.Layout(flex_flow="row wrap")
    controls = [widgets.Box(row, layout=wrap) for row in ([words, *menus.values()], [back, on, page, told])]
    return widgets.VBox([*controls, shown])


def _menus(rows: Sequence[Row]) -> list[tuple[str, str, list[str]]]:
    """(name, label, choices) of the four menus."""
    found = [
        ("task", "Benchmark", list(dict.fromkeys(row.task for row in rows))),
        ("model", "Model", list(dict.fromkeys(row.model for row in rows))),
        ("verdict", "Answer", list(VERDICTS)),
        ("subject", "Subject", sorted({row.record["subject"] for row in rows if row.record.get("subject")})),
    ]
    return [(name, label, [ANY, *choices]) for name, label, choices in found]


def widget(stage: Stage) -> Html:
    """Show the search over all records of a run; returns its first page, for a notebook read without a kernel."""
    from IPython.display import display

    rows = load(stage.parent("06_eval"))
    display(browser(rows))
    items = by_item(rows)
    said = f"First {min(PAGE, len(items))} of {len(items):,} items as plain text (the search above needs a kernel)"
    return Html(f"<details open><summary>{escape(said)}</summary>{page_html(items[:PAGE])}</details>")


def section(stage: Stage, budget: int = browse_page.BUDGET) -> Html:
    """The search as a part of report.html: at most `budget` bytes of inline data, inline script, nothing fetched."""
    folder = stage.parent("06_eval")
    return browse_page.section(load(folder), f"../{folder.name}/predictions", stage.parameters.seed, budget)
