"""The search over a run's records inside report.html: records packed into the page, and the script that shows them.

The records travel as JSON, deflated and in base64 (no "<" in it, so no text of a model can end the script element);
the browser's own DecompressionStream opens them. The script writes every text by textContent: nothing that a model
said is ever read as HTML.
"""

from __future__ import annotations

import base64
import json
import math
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from qilin_lib.report.markup import CASE_STYLE, Html, escape, styled

# Bytes of packed data in the page: report.html may have 5 MB, and all else in it takes less than 2.3 MB.
BUDGET = 2_400_000


def pack(rows: Iterable[Any]) -> str:
    """Rows (browse.Row) as base64 of deflated JSON: {"texts": [...], "files": [{"task", "model", "columns"}, ...]}.

    A file holds one column a field of its records: {"all": value} where all are equal, {"text": [numbers of texts]}
    for strings, else {"values": [...]}; "absent" lists the records without the field. A prompt is split into the
    columns prompt_beginning (few-shot part, one text a subject) and prompt. Equal texts are stored once.
    """
    texts: dict[str, int] = {}
    files = defaultdict(list)
    for row in rows:
        record = {**row.record, "prompt": row.question, "prompt_beginning": row.beginning}
        files[row.task, row.model].append(record)
        # Numbered in the order of the page, so that likely twins stand within reach of deflate's 32 KB.
        for value in record.values():
            if isinstance(value, str):
                texts.setdefault(value, len(texts))
    packed = {
        "texts": list(texts),
        "files": [
            {"task": task, "model": model, "records": len(records), "columns": _columns(records, texts)}
            for (task, model), records in files.items()
        ],
    }
    data = json.dumps(packed, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(data.encode("utf-8"), 9)).decode("ascii")


def _columns(records: Sequence[dict[str, Any]], texts: dict[str, int]) -> dict[str, dict[str, Any]]:
    columns = {}
    for field in dict.fromkeys(name for record in records for name in record):
        values = [_finite(record.get(field)) for record in records]
        absent = [number for number, record in enumerate(records) if field not in record]
        if all(value == values[0] and type(value) is type(values[0]) for value in values):
            column: dict[str, Any] = {"all": values[0]}
        elif all(value is None or isinstance(value, str) for value in values):
            column = {"text": [None if value is None else texts[value] for value in values]}
        else:
            column = {"values": values}
        columns[field] = column | ({"absent": absent} if absent else {})
    return columns


def _finite(value: Any) -> Any:
    """JSON knows no infinity; a choice's log-probability can be one, and is then packed as the text "-inf"."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def fitted(rows: Sequence[Any], seed: int, budget: int) -> tuple[str, list[Any]]:
    """(packed data of at most `budget` bytes, the rows in it): all rows, or the same share of every task's items.

    Items come whole, with every model's record, and are drawn with `seed`.
    """
    items = defaultdict(list)
    for item in sorted({row.item for row in rows}):
        items[item[0]].append(item)
    drawn = {task: random.Random(seed).sample(here, len(here)) for task, here in items.items()}
    share, data, kept = 1.0, pack(rows), list(rows)
    while len(data) > budget:
        share *= 0.97 * budget / len(data)
        chosen = {item for here in drawn.values() for item in here[: int(share * len(here))]}
        kept = [row for row in rows if row.item in chosen]
        data = pack(kept)
        if not kept:
            break
    return data, kept


def section(rows: Sequence[Any], folder: str, seed: int, budget: int) -> Html:
    """The search form, its data and its script. `folder`: where the records' files are, seen from the page."""
    if not rows:
        return Html("<p>This run has no records: nothing to search.</p>")
    data, kept = fitted(rows, seed, budget)
    body = FORM.format(holds=_holds(rows, kept, seed), files=_files(rows, kept, folder))
    script = f'<script type="text/plain" data-part="data">{data}</script>'
    return styled(CASE_STYLE + STYLE, f'<div id="qm-browse">{body}{script}</div><script>{SCRIPT}</script>')


def _holds(rows: Sequence[Any], kept: Sequence[Any], seed: int) -> str:
    if len(kept) == len(rows):
        return f"All {len(rows):,} records of this run are in this page."
    return (
        f"{len(kept):,} of this run's {len(rows):,} records are in this page, which has no room for more: whole items "
        f"drawn with seed {seed}, the same share of every benchmark. The files below hold all."
    )


def _files(rows: Sequence[Any], kept: Sequence[Any], folder: str) -> str:
    total, here = (Counter(row.path for row in some) for some in (rows, kept))
    return "".join(
        f'<li><a href="{escape(quote(f"{folder}/{path}"))}">{escape(path)}</a>: '
        f"{here[path]:,} of {number:,} records</li>"
        for path, number in total.items()
    )


STYLE = """
.qm-case details{margin:.3rem 0;padding:0;border:0;font-size:12.5px;color:#56606f;white-space:pre-wrap}
.qm-case summary{cursor:pointer;white-space:normal;font-weight:400;padding:0}
.qm-case mark{background:#ffe58a;color:inherit;font-weight:600}
#qm-browse form{display:grid;gap:.6rem;grid-template-columns:repeat(auto-fit,minmax(min(8rem,100%),1fr));
margin:.8rem 0;background:#f7f8fa;border-radius:6px;padding:.8rem}
#qm-browse label{display:block;font-size:.85rem;color:#56606f;min-width:0}
#qm-browse label.wide{grid-column:1/-1}
#qm-browse input,#qm-browse select,#qm-browse button{font:inherit;font-size:16px;color:#1c2430;background:#fff;
border:1px solid #7a8494;border-radius:4px;padding:.45rem .6rem;width:100%;min-height:44px}
#qm-browse button{width:auto;cursor:pointer}
#qm-browse button:disabled{color:#7a8494;border-color:#d8dde5;cursor:default}
#qm-browse :focus-visible{outline:3px solid #0072b2;outline-offset:1px}
#qm-browse .pages{display:flex;flex-wrap:wrap;gap:.6rem;align-items:center}
#qm-browse ul{padding-left:1.1rem;overflow-wrap:anywhere}
@media print{#qm-browse form,#qm-browse .pages{display:none}}
"""

FORM = """
<p>{holds}</p>
<details><summary>Files of records</summary><ul>{files}</ul></details>
<noscript><p>Searching needs JavaScript; the files above hold every record.</p></noscript>
<form role="search" data-part="form" hidden>
<label class="wide">Search in question, answer, reference (all words must occur)
<input type="search" data-part="words" autocomplete="off"></label>
<label>Benchmark<select data-part="task"></select></label>
<label>Model<select data-part="model"></select></label>
<label>Answer<select data-part="verdict"></select></label>
<label>Subject<select data-part="subject"></select></label>
</form>
<p data-part="status" role="status" aria-live="polite"></p>
<div class="pages" data-part="top" hidden></div>
<div data-part="results"></div>
<div class="pages" data-part="bottom" hidden></div>
"""

SCRIPT = r"""
(async () => {
"use strict";
const PAGE = 5, ANY = "all";
const root = document.getElementById("qm-browse");
const part = name => root.querySelector(`[data-part="${name}"]`);
const clean = text => String(text).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g, "\ufffd");
const count = list => list.length.toLocaleString("en");
const make = (tag, kind, ...inside) => {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  node.append(...inside.map(one => typeof one === "string" ? clean(one) : one));
  return node;
};

async function unpack(data) {
  const bytes = Uint8Array.from(atob(data.trim()), letter => letter.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(plain).text());
}

function rowsOf(file, texts) {
  const rows = Array.from({length: file.records}, () => ({}));
  for (const [field, column] of Object.entries(file.columns)) {
    const absent = new Set(column.absent);
    rows.forEach((record, n) => {
      if (absent.has(n)) return;
      if (column.text) record[field] = column.text[n] === null ? null : texts[column.text[n]];
      else record[field] = column.values ? column.values[n] : column.all;
    });
  }
  return rows.map(record => ({task: file.task, model: file.model, record, subject: record.subject || "",
    verdict: verdict(record), item: JSON.stringify([file.task, record.id]), searched: searched(record)}));
}

function verdict(record) {
  if (!("prediction" in record)) return "";
  if (!record.prediction) return "unparsed";
  return record.correct === true ? "right" : record.correct === false ? "wrong" : "";
}

function searched(record) {
  const parts = ["id", "subject", "output", "reference", "explanation", "prompt"].map(name => record[name] || "");
  return [...parts, ...Object.values(record.groups || {})].join("\n").toLowerCase();
}

function hits(text, terms) {
  const found = document.createDocumentFragment();
  if (!terms.length) { found.append(clean(text)); return found; }
  const either = terms.map(term => term.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|");
  const pieces = text.split(new RegExp(`(${either})`, "i"));
  pieces.forEach((piece, n) => found.append(n % 2 ? make("mark", "", piece) : clean(piece)));
  return found;
}

function box(title, aside, ...inside) {
  const head = make("div", "title", title, make("span", "", aside)), text = make("div", "text", ...inside);
  text.lang = "zh";
  if (!text.textContent.trim()) text.append(make("span", "empty", "(empty)"));
  return make("div", "box", head, text);
}

const folded = (title, text) => make("details", "", make("summary", "", title), text);

function reading(record) {
  const lines = "prediction" in record ? [`Read as: ${record.prediction || "unparsed"}`] : [];
  if (record.scores) lines.push("log p: " + Object.entries(record.scores)
    .map(([letter, value]) => `${letter} ${typeof value === "number" ? value.toFixed(2) : value}`).join("  "));
  const extra = record.explanation;
  return extra && !(record.output || "").includes(extra) ? [extra, ...lines] : lines;
}

function answer(row, terms) {
  const record = row.record, lines = [record.output, ...reading(record)].filter(Boolean);
  const inside = lines.flatMap((line, n) => n ? ["\n", hits(line, terms)] : [hits(line, terms)]);
  const notes = [row.verdict, record.truncated ? "question cut" : ""].filter(Boolean).join(", ");
  const prompt = record.prompt_beginning + record.prompt;
  return box(row.model, notes, ...inside, folded(`prompt, template ${record.template}`, prompt));
}

function card(rows, terms) {
  const first = rows[0].record, gold = first.gold ? `Answer: ${first.gold}\n` : "";
  const groups = Object.entries(first.groups || {}).map(([name, value]) => `${name}: ${value}`);
  const about = [first.subject, ...groups].filter(Boolean).join(", ");
  const shots = first.prompt_beginning ? [folded(`${first.shots} examples before it`, first.prompt_beginning)] : [];
  return make("article", "qm-case",
    make("div", "head", `${rows[0].task}: ${first.id}`, make("span", "", about)),
    box("Question", "", ...shots, hits(first.prompt, terms)),
    box("Reference", "", hits(gold + (first.reference || ""), terms)),
    make("div", "answers", ...rows.map(row => answer(row, terms))));
}

function byItem(rows) {
  const items = new Map();
  for (const row of rows) {
    if (!items.has(row.item)) items.set(row.item, []);
    items.get(row.item).push(row);
  }
  return [...items.values()];
}

function start(rows) {
  const menus = ["task", "model", "verdict", "subject"];
  let page = 0;
  for (const name of menus) {
    const values = [...new Set(rows.map(row => row[name]))].filter(Boolean);
    if (name === "subject") values.sort();
    part(name).append(...[ANY, ...values].map(value => new Option(value, value)));
    part(name).closest("label").hidden = values.length < 2;
  }
  const arrows = ["top", "bottom"].map(place => {
    const back = make("button", "", "Previous page"), on = make("button", "", "Next page"), told = make("span", "");
    for (const [button, step] of [[back, -1], [on, 1]]) {
      button.type = "button";
      button.addEventListener("click", () => { page += step; show(); part("status").scrollIntoView(); });
    }
    part(place).append(back, on, told);
    return {back, on, told, all: part(place)};
  });
  function show() {
    const terms = part("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = menus.map(name => [name, part(name).value]).filter(([, value]) => value !== ANY);
    const found = rows.filter(row => terms.every(term => row.searched.includes(term))
      && wanted.every(([name, value]) => row[name] === value));
    const items = byItem(found), pages = Math.max(1, Math.ceil(items.length / PAGE));
    page = Math.min(page, pages - 1);
    part("status").textContent = `${count(found)} of ${count(rows)} records match, in ${count(items)} items.`;
    part("results").replaceChildren(...items.slice(page * PAGE, (page + 1) * PAGE).map(item => card(item, terms)));
    for (const {back, on, told, all} of arrows) {
      told.textContent = `page ${page + 1} of ${pages}`;
      all.hidden = pages < 2;
      back.disabled = page === 0;
      on.disabled = page === pages - 1;
    }
  }
  const anew = () => { page = 0; show(); };
  part("form").addEventListener("submit", event => event.preventDefault());
  part("words").addEventListener("input", event => { if (!event.isComposing) anew(); });
  part("words").addEventListener("compositionend", anew);
  for (const name of menus) part(name).addEventListener("change", anew);
  part("form").hidden = false;
  show();
}

try {
  const packed = await unpack(part("data").textContent);
  const items = byItem(packed.files.flatMap(file => rowsOf(file, packed.texts)));
  start(items.flat());
} catch (problem) {
  part("status").textContent = `The records in this page could not be opened (${problem}). The files above hold them.`;
}
})();
"""
