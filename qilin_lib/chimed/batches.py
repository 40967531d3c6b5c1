"""One batch of units on its way through the build, as a worker sees it: read -> cleaned, judged, composed, written.

A batch has a stem such as `checkpoints/build/00012`. `refine` leaves <stem>.jsonl (one line a unit, with what became
of it), its candidates' bodies for each set (shards <stem>-cpt, …), their near-duplicate sketch, and last
<stem>.candidates.npy: a batch that has it is done. `write` makes the lines that go into the four sets.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.chimed import records, shingles
from qilin_lib.chimed.clean import clean, clean_general
from qilin_lib.chimed.compose import compose, general_text
from qilin_lib.chimed.decontaminate import Index
from qilin_lib.chimed.deidentify import deidentify_all
from qilin_lib.chimed.ledger import Row
from qilin_lib.chimed.readers.decode import field_text
from qilin_lib.chimed.records import (
    Dialogue,
    Disease,
    Exam,
    Passage,
    Payload,
    Preference,
    Record,
    Rejection,
    content,
    excerpt,
    mapped,
    strings,
)
from qilin_lib.chimed.shards import Texts, write_array, write_texts
from qilin_lib.chimed.sketch import write_sketch
from qilin_lib.chimed.sources import BY_NAME, TRAINING_SETS, Source, Unit
from qilin_lib.chimed.substrings import cut

# `heading`: characters of the title of a passage, -1 for what is no running text.
CANDIDATE = np.dtype([("entry", "<i4"), ("number", "<i8"), ("sets", "u1"), ("draw", "<f8"), ("heading", "<i4")])
Lost = tuple[str, str, str]
PARTS = (*TRAINING_SETS, "dropped")
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker must know of the parameters. `index` is the stem of the saved benchmark index, "" for none."""

    min_chars: int
    near_dup_ngram: int
    seed: int
    index: str
    contamination_share: float
    report_only: bool


@dataclass(slots=True)
class Entry:
    """A unit and what became of it.

    `number` counts the units of its source from 1, so that an id never moves. `lost` says for each set that cannot
    have it (column of the ledger, reason, detail); a set in `sets` but not in `lost` may still keep it, and `head` is
    how its line there begins. `shown` is an excerpt, `deidentified` counts placeholders by type, `benchmark` names
    the test set of which it holds an item, `rule` how it holds it (items.RULES).
    """

    number: int
    sets: tuple[str, ...]
    file: str
    line: int
    lost: dict[str, Lost] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    shown: str = ""
    deidentified: dict[str, int] = field(default_factory=dict)
    benchmark: str = ""
    rule: str = ""

    def lose(self, column: str, reason: str, detail: str = "", sets: Sequence[str] | None = None) -> None:
        """Take the unit out of `sets` (default: every set that could still have it)."""
        for name in self.open_sets() if sets is None else sets:
            self.lost[name] = (column, reason, detail)

    def open_sets(self) -> tuple[str, ...]:
        """The sets that may still keep the unit."""
        return tuple([name for name in self.sets if name not in self.lost]) if self.lost else self.sets


@dataclass(slots=True)
class Draft:
    """A usable record on its way: its entry, payload, all its text, and its body in each set ({set: {key: value}}).

    `identified`: what the sets would hold of it if nothing were de-identified; `licence`: that of its file, "" for its
    source's.
    """

    entry: Entry
    payload: Payload
    text: str
    bodies: dict[str, dict[str, Any]]
    identified: list[str]
    licence: str


def refine(stem: Path, source: str, first: int, units: Sequence[tuple[Unit, Lost | None]], settings: Settings) -> None:
    """Clean, de-identify, judge and sketch a batch; `units` come with what is already lost (licence, limit, merged)."""
    medical = BY_NAME[source].part == "medical"
    written: list[Entry] = []
    drafts: list[Draft] = []
    for number, (unit, lost) in enumerate(units, start=first):
        entry = opened(number, unit, lost)
        written.append(entry)
        if not entry.lost and (draft := _draft(entry, unit, medical, settings.min_chars)):
            drafts.append(draft)
    clear = _decontaminated(drafts, settings)
    drafts = [draft for draft, kept in zip(drafts, clear, strict=True) if kept]
    write_sketch(stem, [shingles.identity(draft.text) for draft in drafts], settings.near_dup_ngram)
    for draft in drafts:
        draft.entry.head = _head(BY_NAME[source], draft)
    for name in TRAINING_SETS:
        bodies = [draft.bodies[name] for draft in drafts if name in draft.bodies]
        if bodies:
            write_texts(set_stem(stem, name), [body["text"] if name == "cpt" else encoded(body) for body in bodies])
    files.write_jsonl(stem.with_suffix(".jsonl"), ({n: getattr(e, n) for n in e.__slots__} for e in written))
    places = {id(entry): at for at, entry in enumerate(written)}
    found = [
        (places[id(d.entry)], d.entry.number, _mask(d.bodies), _draw(settings.seed, d.text), _heading(d.payload))
        for d in drafts
    ]
    write_array(stem.with_suffix(".candidates.npy"), np.array(found, dtype=CANDIDATE))


def opened(number: int, unit: Unit, lost: Lost | None) -> Entry:
    """The entry of a unit that was just read: lost when it is a Rejection, or `lost` for another reason."""
    read = unit.read
    entry = Entry(number, unit.sets, read.file, read.line)
    if isinstance(read, Rejection):
        entry.shown = read.excerpt
        entry.lose("rejected", read.reason, read.detail)
    elif lost is not None:
        entry.shown = excerpt(content(read.payload))
        entry.lose(*lost)
    return entry


def _draft(entry: Entry, unit: Unit, medical: bool, min_chars: int) -> Draft | None:
    """The cleaned and de-identified record, with a body for each set that can use it; None when none can."""
    payload = unit.read.payload
    cleaned = mapped(payload, lambda texts: [*map(clean if medical else clean_general, texts)])
    # A character may be lost in the file, or in an entity that cleaning resolves.
    for text in (content(payload), content(cleaned)):
        entry.shown = excerpt(text)
        if lost := records.lost_character(text):
            around = excerpt(text[max(0, lost.start() - 12) : lost.end() + 12])
            entry.lose("rejected", "undecodable characters", f"U+{ord(lost[0]):04X} in {around}")
            return None
    payload = _deidentified(cleaned, medical, entry.deidentified)
    text = content(payload)
    entry.shown = excerpt(text)
    if not all(_essential(payload)):
        entry.lose("rejected", "empty after cleaning")
    elif isinstance(payload, Preference) and payload.chosen == payload.rejected:
        entry.lose("rejected", "chosen equals rejected", "after cleaning and de-identification")
    elif len(text) < min_chars:
        entry.lose("rejected", "too short", f"{len(text)} characters")
    bodies = {name: compose(name, payload) for name in entry.open_sets()}
    entry.lose("rejected", "nothing to ask", "", [name for name, body in bodies.items() if body is None])
    usable = {name: body for name, body in bodies.items() if body is not None}
    if not usable:
        return None
    identified = {name: compose(name, cleaned) for name in usable} if entry.deidentified else usable
    return Draft(entry, payload, text, usable, _judged(cleaned, identified), unit.licence)


def identified(payload: Payload) -> list[str]:
    """What the sets would hold of a medical record before de-identification; [] when none would."""
    draft = _draft(Entry(0, TRAINING_SETS, "", 0), Unit(TRAINING_SETS, Record("", "", 0, payload)), True, 0)
    return draft.identified if draft else []


def _deidentified(payload: Payload, medical: bool, counts: dict[str, int]) -> Payload:
    def hidden(texts: list[str]) -> list[str]:
        texts, found = deidentify_all(texts, medical)
        counts.update(found)
        return texts

    return mapped(payload, hidden)


def _judged(payload: Payload, bodies: dict[str, dict[str, Any]]) -> list[str]:
    """The texts of a record's bodies, less those that another one holds; names of speakers would part its turns."""
    texts = [bodies[name]["text"] for name in ("cpt", "general") if name in bodies][:1]
    if texts and isinstance(payload, Dialogue):
        texts = [general_text(payload)]
    texts += ["\n".join(_texts_of(bodies[name])) for name in ("dpo", "sft") if name in bodies]
    kept: list[str] = []
    for text in sorted(texts, key=len, reverse=True):
        if not any(text in longer for longer in kept):
            kept.append(text)
    return kept


def _essential(payload: Payload) -> list[str]:
    match payload:
        case Passage(_, body):
            return [body]
        case Exam(question, options):
            return [question, *(text for _, text in options)]
        case Dialogue(turns):
            return [*turns, "".join(map(field_text, turns[1::2]))]
        case Preference(_, chosen, rejected):
            return [*strings(payload), field_text(chosen), field_text(rejected)]
    return strings(payload)


def _decontaminated(drafts: Sequence[Draft], settings: Settings) -> list[bool]:
    """Whether each draft may stay; those that hold a benchmark item are booked."""
    if not settings.index:
        return [True] * len(drafts)
    hits = _index(settings.index).hits([draft.identified for draft in drafts], settings.contamination_share)
    for draft, hit in zip(drafts, hits, strict=True):
        if hit is not None:
            draft.entry.benchmark, draft.entry.rule = hit.benchmark, hit.how
            if not settings.report_only:
                draft.entry.lose("contaminated", "contaminated", f"{hit.item} ({hit.how}, {hit.share:.2f})")
    return [settings.report_only or hit is None for hit in hits]


@lru_cache(maxsize=1)
def _index(stem: str) -> Index:
    return Index.load(Path(stem))


def _head(source: Source, draft: Draft) -> dict[str, Any]:
    head: dict[str, Any] = {"id": identity(source.name, draft.entry.number), "source": source.name}
    if not (isinstance(draft.payload, Disease) and draft.payload.origins):
        return head | {"licence": draft.licence or source.licence}
    # An entity of several graphs carries every licence, and says which graph states what.
    headings = [heading for heading, _ in draft.payload.features]
    graphs = [name for name in BY_NAME if any(name in origins for origins in draft.payload.origins)]
    licences = dict.fromkeys(BY_NAME[name].licence for name in graphs)
    stated = {heading: list(origins) for heading, origins in zip(headings, draft.payload.origins, strict=True)}
    return head | {"licence": " + ".join(licences), "graphs": stated}


def identity(source: str, number: int) -> str:
    """A record's id: its source and the number of its unit there."""
    return f"{source}-{number:06d}"


def _mask(names: Iterable[str]) -> int:
    return sum(1 << TRAINING_SETS.index(name) for name in names)


def _heading(payload: Payload) -> int:
    match payload:
        case Passage(title, _):
            return len(title) + bool(title)
    return -1


def _draw(seed: int, text: str) -> float:
    """Uniform in [0, 1) by the record's own text: who is held out does not change when other records come or go."""
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def set_stem(stem: Path, name: str) -> Path:
    """Stem of the shard of a batch's bodies in set `name`: texts in CPT, JSON elsewhere; "kept": CPT texts kept."""
    return stem.with_name(f"{stem.name}-{name}")


def keep_texts(stem: Path, kept: Sequence[bool]) -> None:
    """Write the CPT texts that `kept` (one value a text) chooses as the shard <stem>-kept."""
    found = [text for text, wanted in zip(Texts(set_stem(stem, "cpt")), kept, strict=True) if wanted] if kept else []
    write_texts(set_stem(stem, "kept"), found)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the whole corpus decided about one candidate in one set: the split that keeps it, or how it was lost."""

    split: str = ""
    lost: Lost | None = None


def write(
    stem: Path, source: str, verdicts: dict[tuple[int, str], Verdict]
) -> tuple[list[Row], Counter[tuple[str, str]]]:
    """Write <stem>.<set>.part and <stem>.dropped.part; returns the batch's ledger rows and its hits.

    Hits are records that held an item, by (benchmark, rule).

    `verdicts` has every (entry, set) that `refine` left open; <stem>.spans.npy, int64 [n, 3] of (entry, start, end),
    says what to cut out of CPT texts, where there is something to cut.
    """
    fed = {name for feed in BY_NAME[source].feeds for name in feed.rows}
    rows = {name: Row.of(BY_NAME[source], name) for name in TRAINING_SETS if name in fed}
    hits: Counter[tuple[str, str]] = Counter()
    lines: dict[str, list[str]] = {name: [] for name in PARTS}
    spans = _spans(stem)
    bodies = {name: iter(_bodies(stem, name)) for name in TRAINING_SETS}
    for at, row in enumerate(files.read_jsonl(stem.with_suffix(".jsonl"))):
        entry = Entry(**row)
        if entry.benchmark:
            hits[entry.benchmark, entry.rule] += 1
        for name in entry.sets:
            rows[name].read += 1
            body = None if name in entry.lost else next(bodies[name])
            verdict = Verdict(lost=entry.lost[name]) if body is None else verdicts[at, name]
            if verdict.lost is None:
                removed = spans.get(at, ()) if name == "cpt" else ()
                lines[name].append(_kept_line(BY_NAME[source], name, entry, body, verdict.split, removed, rows[name]))
            else:
                lines["dropped"].append(dropped_line(source, name, entry, verdict.lost, rows[name]))
    for name, part in lines.items():
        # Plainly: an interrupted build writes all parts again, and syncing thousands of files takes minutes.
        stem.with_suffix(f".{name}.part").write_text("".join(part), encoding="utf-8")
    return [row for row in rows.values() if row.read], hits


def _bodies(stem: Path, name: str) -> Sequence[str]:
    where = set_stem(stem, name)
    return Texts(where) if where.with_suffix(".ends.npy").exists() else ()


def _spans(stem: Path) -> dict[int, list[tuple[int, int]]]:
    path = stem.with_suffix(".spans.npy")
    found: dict[int, list[tuple[int, int]]] = {}
    for entry, start, end in np.load(path).tolist() if path.exists() else ():
        found.setdefault(entry, []).append((start, end))
    return found


def _kept_line(
    source: Source, name: str, entry: Entry, body: str, split: str, removed: Sequence[tuple[int, int]], row: Row
) -> str:
    if removed:
        row.substring_chars += sum(end - start for start, end in removed)
        body = cut(body, removed)
    texts = [body] if name == "cpt" else _texts_of(json.loads(f"{{{body}}}"))
    row.keep(texts)
    row.deidentified.update(entry.deidentified)
    kind = {"cpt": ("type", source.type), "sft": ("part", source.part), "dpo": ("part", source.part)}.get(name)
    head = entry.head | (dict([kind]) if kind else {})
    shown = encoded({"text": body}) if name == "cpt" else body
    return f'{{{encoded(head)}, {shown}, "split": "{split}"}}\n'


def _texts_of(body: dict[str, Any]) -> list[str]:
    return [body["text"]] if "text" in body else [turn["content"] for turns in body.values() for turn in turns]


def dropped_line(source: str, name: str, entry: Entry, lost: Lost, row: Row) -> str:
    """The line of dropped.jsonl for a unit that set `name` does not keep; counts it in `row`."""
    column, reason, detail = lost
    row.lose(column, reason)
    place = {"source": source, "set": name, "file": entry.file, "line": entry.line}
    return _ENCODE(place | {"reason": reason, "detail": detail, "excerpt": entry.shown}) + "\n"


def encoded(values: dict[str, Any]) -> str:
    """The inside of a JSON object, without its braces."""
    return _ENCODE(values)[1:-1]
