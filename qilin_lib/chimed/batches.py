"""One batch of units on its way through the build, as a worker sees it: read -> cleaned, judged, composed, written.

A batch has a stem such as `checkpoints/build/00012`. `refine` leaves <stem>.entries with what became of each unit, the
near-duplicate sketch of its candidates, the records that a set may still keep, and last <stem>.candidates.npy
(CANDIDATE): a batch that has it is done. `lines` makes the lines that go into the four sets.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qilin_lib import files
from qilin_lib.chimed import records, shingles
from qilin_lib.chimed.clean import clean, clean_general
from qilin_lib.chimed.compose import compose, general_text
from qilin_lib.chimed.decontaminate import Index
from qilin_lib.chimed.deidentify import deidentify_all
from qilin_lib.chimed.ledger import Row
from qilin_lib.chimed.neardup import write_sketch
from qilin_lib.chimed.readers.decode import field_text
from qilin_lib.chimed.records import Dialogue, Disease, Exam, Lost, Passage, Payload, Preference, Rejection
from qilin_lib.chimed.shards import write_array
from qilin_lib.chimed.sources import BY_NAME, TRAINING_SETS, Source, Unit
from qilin_lib.chimed.substrings import cut, write_shard
from qilin_lib.schema import Build

PARTS = (*TRAINING_SETS, "dropped")
# A candidate as the whole corpus is judged: its row in the batch, number of the unit in its source, sets that may keep
# it (bit mask over TRAINING_SETS), who is held out, characters of a passage's title (-1: no running text), place of a
# pair in its ranked list.
CANDIDATE = np.dtype(
    [("row", "<i4"), ("number", "<i8"), ("sets", "u1"), ("draw", "<f8"), ("heading", "<i4"), ("place", "<i4")]
)
# The fields of an Entry that are kept, its first ones.
STORED = ("number", "sets", "file", "line", "lost", "shown", "deidentified", "benchmark", "rule", "head", "bodies")
# What `lines` returns.
Written = tuple[dict[str, bytes], str, list[Row], Counter[tuple[str, str]]]
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(slots=True)
class Entry:
    """A unit and what became of it.

    `number` counts the units of its source from 1, so that an id never moves; `lost` says how each set that cannot have
    it lost it; `shown` is an excerpt, `deidentified` counts placeholders by type, `benchmark` names the test set of
    which it holds an item, `rule` how it holds it (items.RULES). Of a record that a set may still keep: `text`, all of
    it; `bodies` {set: {key: value}}; `judged`, what they would say if nothing were de-identified; `head`, how its lines
    begin.
    """

    number: int
    sets: Sequence[str]
    file: str
    line: int
    lost: dict[str, Lost] = field(default_factory=dict)
    shown: str = ""
    deidentified: dict[str, int] = field(default_factory=dict)
    benchmark: str = ""
    rule: str = ""
    head: str = ""
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)
    payload: Payload | None = None
    text: str = ""
    judged: Sequence[str] = ()

    @classmethod
    def of(cls, number: int, unit: Unit, lost: Lost | None = None) -> Entry:
        """The entry of a unit that was just read: lost when it is a Rejection, or `lost` for another reason."""
        read = unit.read
        if isinstance(read, Rejection):
            entry = cls(number, unit.sets, read.file, read.line, shown=read.excerpt)
            lost = ("rejected", read.reason, read.detail)
        else:
            entry = cls(number, unit.sets, read.file, read.line, payload=read.payload)
            entry.shown = records.excerpt(records.content(read.payload)) if lost else ""
        if lost:
            entry.lose(*lost)
        return entry

    def lose(self, column: str, reason: str, detail: str = "", sets: Sequence[str] | None = None) -> None:
        """Take the unit out of `sets` (default: every set that could still have it)."""
        for name in self.open_sets() if sets is None else sets:
            self.lost[name] = (column, reason, detail)
            self.bodies.pop(name, None)

    def open_sets(self) -> list[str]:
        """The sets that may still keep the unit."""
        return [name for name in self.sets if name not in self.lost]


def refine(
    stem: Path, source: str, first: int, units: Sequence[tuple[Unit, Lost | None]], params: Build
) -> tuple[Path, str]:
    """Clean, de-identify, judge and sketch a batch unless that was done before; returns its stem and source."""
    if not stem.with_suffix(".candidates.npy").exists():
        of = BY_NAME[source]
        entries = [Entry.of(number, unit, lost) for number, (unit, lost) in enumerate(units, start=first)]
        for entry in entries:
            if not entry.lost:
                _prepare(entry, of.part == "medical", params.min_chars)
        if params.decontaminate:
            _decontaminate([entry for entry in entries if entry.bodies], stem.with_name("benchmarks"), params)
        for entry, (unit, _) in zip(entries, units, strict=True):
            if entry.bodies:
                entry.head = encoded(_head(of, entry, unit.licence or of.licence))
        write_sketch(stem, [_identity(entry) for entry in entries if entry.bodies], params.near_dup_ngram)
        _write_entries(stem, entries)
        judged = [_candidate(row, entry, params.seed) for row, entry in enumerate(entries) if entry.bodies]
        write_array(stem.with_suffix(".candidates.npy"), np.array(judged, CANDIDATE))
    return stem, source


def _identity(entry: Entry) -> str:
    """What a candidate shares with its near-duplicates; several questions of an exam have one explanation."""
    if isinstance(entry.payload, Exam):
        return shingles.identity(records.content(entry.payload._replace(explanation="")))
    return shingles.identity(entry.text)


def _prepare(entry: Entry, medical: bool, min_chars: int) -> None:
    """Clean and de-identify the payload, compose its bodies, and lose the sets that cannot use it."""
    cleaned = records.mapped(entry.payload, lambda texts: [*map(clean if medical else clean_general, texts)])
    # A character may be lost in the file, or in an entity that cleaning resolves.
    for one in (entry.payload, cleaned) if cleaned is not entry.payload else (cleaned,):
        entry.text = records.content(one)
        if lost := records.lost_character(entry.text):
            entry.shown = records.excerpt(entry.text)
            around = records.excerpt(entry.text[max(0, lost.start() - 12) : lost.end() + 12])
            return entry.lose("rejected", "undecodable characters", f"U+{ord(lost[0]):04X} in {around}")

    def hidden(texts: list[str]) -> list[str]:
        texts, counts = deidentify_all(texts, medical)
        entry.deidentified = dict(counts)
        return texts

    entry.payload = payload = records.mapped(cleaned, hidden)
    if payload is not cleaned:
        entry.text = records.content(payload)
    entry.shown = records.excerpt(entry.text)
    if not all(_essential(payload)):
        entry.lose("rejected", "empty after cleaning")
    elif isinstance(payload, Preference) and payload.chosen == payload.rejected:
        entry.lose("rejected", "chosen equals rejected", "after cleaning and de-identification")
    elif len(entry.text) < min_chars:
        entry.lose("rejected", "too short", f"{len(entry.text)} characters")
    bodies = {name: compose(name, payload) for name in entry.open_sets()}
    entry.bodies = {name: body for name, body in bodies.items() if body is not None}
    entry.lose("rejected", "nothing to ask", sets=[name for name in bodies if name not in entry.bodies])
    before = {name: compose(name, cleaned) for name in entry.bodies} if entry.deidentified else entry.bodies
    entry.judged = _judged(cleaned, before)


def identified(payload: Payload) -> Sequence[str]:
    """What the sets would hold of a medical record before de-identification; () when none would."""
    entry = Entry(0, TRAINING_SETS, "", 0, payload=payload)
    _prepare(entry, True, 0)
    return entry.judged


def _judged(payload: Payload, bodies: dict[str, dict[str, Any]]) -> list[str]:
    """The texts of a record's bodies, less those that another one holds; names of speakers would part its turns."""
    texts = [bodies[name]["text"] for name in ("cpt", "general") if name in bodies][:1]
    if texts and isinstance(payload, Dialogue):
        texts = [general_text(payload)]
    texts += ["\n".join(_contents(bodies[name])) for name in ("dpo", "sft") if name in bodies]
    kept: list[str] = []
    for text in sorted(texts, key=len, reverse=True):
        if not any(text in longer for longer in kept):
            kept.append(text)
    return kept


def _contents(body: dict[str, Any]) -> list[str]:
    return [turn["content"] for turns in body.values() for turn in turns]


def _essential(payload: Payload) -> list[str]:
    """The texts without which a payload is no record."""
    match payload:
        case Passage(_, body):
            return [body]
        case Exam(question, options):
            return [question, *(text for _, text in options)]
        case Dialogue(turns):
            return [*turns, "".join(map(field_text, turns[1::2]))]
        case Preference(_, chosen, rejected):
            return [*records.strings(payload), field_text(chosen), field_text(rejected)]
    return records.strings(payload)


def _decontaminate(entries: Sequence[Entry], index: Path, params: Build) -> None:
    """Book the benchmark items that entries hold; these are lost unless they are only to be reported."""
    hits = _index(index).hits([entry.judged for entry in entries], params.contamination_share)
    for entry, hit in zip(entries, hits, strict=True):
        if hit is not None:
            entry.benchmark, entry.rule = hit.benchmark, hit.how
            if params.decontaminate != "report":
                entry.lose("contaminated", "contaminated", f"{hit.item} ({hit.how}, {hit.share:.2f})")


_index = lru_cache(maxsize=1)(Index.load)


def _head(source: Source, entry: Entry, licence: str) -> dict[str, Any]:
    head: dict[str, Any] = {"id": identity(source.name, entry.number), "source": source.name, "licence": licence}
    if isinstance(entry.payload, Disease) and entry.payload.origins:
        # An entity of several graphs carries every licence, and says which graph states what.
        stated = {f[0]: list(of) for f, of in zip(entry.payload.features, entry.payload.origins, strict=True)}
        named = [name for name in BY_NAME if any(name in origins for origins in stated.values())]
        head["licence"] = " + ".join(dict.fromkeys(BY_NAME[name].licence for name in named))
        head["graphs"] = stated
    return head


def identity(source: str, number: int) -> str:
    """A record's id: its source and the number of its unit there."""
    return f"{source}-{number:06d}"


def _candidate(row: int, entry: Entry, seed: int) -> tuple[int, int, int, float, int, int]:
    mask = sum(1 << TRAINING_SETS.index(name) for name in entry.bodies)
    text, place = entry.text, getattr(entry.payload, "place", 0)
    if place:
        # The pairs of a ranked list are held out together.
        text = records.content(entry.payload._replace(chosen="", rejected=""))
    # Uniform in [0, 1) by the record's own text: who is held out does not change when other records come or go.
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    heading = len(entry.payload.title) + bool(entry.payload.title) if isinstance(entry.payload, Passage) else -1
    return row, entry.number, mask, int.from_bytes(digest[:6], "big") / 2**48, heading, place


def _write_entries(stem: Path, entries: Sequence[Entry]) -> None:
    with files.atomic(stem.with_suffix(".entries"), binary=True) as handle:
        handle.write(pa.compress(pickle.dumps([*map(attrgetter(*STORED), entries)]), "zstd", asbytes=True))


def _read_entries(stem: Path) -> list[Entry]:
    with pa.input_stream(str(stem.with_suffix(".entries")), compression="zstd") as packed:
        return [Entry(*values) for values in pickle.load(packed)]  # noqa: S301 - what `refine` has written


def keep_texts(stem: Path, candidates: np.ndarray) -> Path:
    """Write the CPT texts of these candidates, counted from 0 in the batch, as a shard; returns its stem."""
    shard = stem.with_name(f"{stem.name}-kept")
    rows = np.load(stem.with_suffix(".candidates.npy"))["row"][candidates].tolist()
    entries = _read_entries(stem) if rows else []
    write_shard(shard, [entries[row].bodies["cpt"]["text"] for row in rows])
    return shard


def lines(stem: Path, source: str, fates: dict[str, list[str | Lost]], cuts: np.ndarray) -> Written:
    """The batch's lines of each of PARTS, its source and ledger rows, and its hits: records by (benchmark, rule).

    `fates`: {set: for each candidate of the batch its split, or how it is lost}; `cuts`: int64 [n, 3], what leaves a
    CPT text, (candidate, start, end).
    """
    of = BY_NAME[source]
    rows = {name: Row.of(of, name) for name in TRAINING_SETS if any(name in feed.rows for feed in of.feeds)}
    hits: Counter[tuple[str, str]] = Counter()
    parts: dict[str, list[str]] = {name: [] for name in PARTS}
    removed: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for candidate, start, end in cuts.tolist():
        removed[candidate].append((start, end))
    candidate = -1
    for entry in _read_entries(stem):
        candidate += bool(entry.open_sets())
        if entry.benchmark:
            hits[entry.benchmark, entry.rule] += 1
        for name in entry.sets:
            rows[name].read += 1
            fate = entry.lost.get(name) or fates[name][candidate]
            if isinstance(fate, str):
                gone = removed[candidate] if name == "cpt" and candidate in removed else ()
                parts[name].append(_kept_line(of, name, entry, fate, gone, rows[name]))
            else:
                parts["dropped"].append(dropped_line(source, name, entry, fate, rows[name]))
    whole = {name: "".join(part).encode("utf-8") for name, part in parts.items()}
    return whole, source, [row for row in rows.values() if row.read], hits


def _kept_line(source: Source, name: str, entry: Entry, split: str, gone: Sequence[tuple[int, int]], row: Row) -> str:
    """The line of a record that set `name` keeps, without the spans `gone` of its text; counts it in `row`."""
    body = entry.bodies[name]
    if gone:
        body["text"] = cut(body["text"], gone)
        row.substring_chars += sum(end - start for start, end in gone)
    row.deidentified.update(entry.deidentified)
    row.keep([body["text"]] if "text" in body else _contents(body))
    kind = {"cpt": f', "type": "{source.type}"', "general": ""}.get(name, f', "part": "{source.part}"')
    return f'{{{entry.head}{kind}, {encoded(body)}, "split": "{split}"}}\n'


def dropped_line(source: str, name: str, entry: Entry, lost: Lost, row: Row) -> str:
    """The line of dropped.jsonl for a unit that set `name` does not keep; counts it in `row`."""
    column, reason, detail = lost
    row.lose(column, reason)
    place = {"source": source, "set": name, "file": entry.file, "line": entry.line}
    return _ENCODE(place | {"reason": reason, "detail": detail, "excerpt": entry.shown}) + "\n"


def encoded(values: dict[str, Any]) -> str:
    """The inside of a JSON object, without its braces."""
    return _ENCODE(values)[1:-1]
