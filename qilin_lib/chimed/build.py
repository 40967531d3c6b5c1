"""Notebook 01: raw folders -> cpt.jsonl, sft.jsonl, dpo.jsonl, general.jsonl, ledger.json, dropped.jsonl.

Order: read, clean, de-identify, reject what is empty or too short, decontaminate, remove near-duplicates within each
set across sources, mix, split. Every unit that a reader yields ends in exactly one column of the ledger, in every set
that its file feeds. Texts are held in memory once; at the full 3 GB of ChiMed-CPT that is some tens of GB.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from qilin_lib import files
from qilin_lib.chimed import sources
from qilin_lib.chimed.clean import clean, clean_general
from qilin_lib.chimed.compose import compose
from qilin_lib.chimed.decontaminate import Index, Item, item_of
from qilin_lib.chimed.dedup import duplicates, signatures
from qilin_lib.chimed.deidentify import deidentify
from qilin_lib.chimed.ledger import Ledger, Row
from qilin_lib.chimed.records import (
    Exam,
    Passage,
    Payload,
    Record,
    Rejection,
    content,
    excerpt,
    lost_character,
    mapped,
    strings,
)
from qilin_lib.chimed.shingles import skeleton
from qilin_lib.chimed.sources import TRAINING_SETS, Source
from qilin_lib.errors import QilinError, nearest


class Params(Protocol):
    """The parameters of notebook 01 that the build reads."""

    sources: list[str] | None
    exclude_licences: list[str]
    near_dup_threshold: float
    near_dup_ngram: int
    decontaminate: bool | str
    contamination_share: float
    heldout_share_cpt: float
    heldout_share_sft: float
    heldout_share_dpo: float
    heldout_share_general: float
    general_share: float | None
    max_records_per_source: int | None
    seed: int
    min_chars: int


@dataclass(slots=True)
class Candidate:
    """A cleaned record on its way into `sets`. `number` counts the units of its source, so that an id never moves."""

    source: Source
    number: int
    sets: tuple[str, ...]
    file: str
    line: int
    payload: Payload
    bones: str
    deidentified: Counter[str]

    @property
    def id(self) -> str:
        return f"{self.source.name}-{self.number:06d}"


class Book:
    """Ledger and dropped.jsonl in step: what is counted as lost is also written down with its place."""

    def __init__(self, ledger: Ledger, dropped: IO[str]) -> None:
        self.ledger, self._dropped = ledger, dropped

    def row(self, source: Source, name: str) -> Row:
        """The ledger row of a source in a set, opened at its first unit."""
        key = (source.name, name)
        if key not in self.ledger.rows:
            title = next(feed.rows[name] for feed in source.feeds if name in feed.rows)
            self.ledger.rows[key] = Row(source.name, name, title, source.standing, source.licence)
        return self.ledger.rows[key]

    def reject(self, source: Source, sets: Iterable[str], no: Rejection) -> None:
        """Count a rejection in each of `sets`."""
        for name in sets:
            self.row(source, name).rejected[no.reason] += 1
            self._write(source, name, no.file, no.line, no.reason, no.detail, no.excerpt)

    def drop(self, found: Candidate, name: str, column: str, reason: str, detail: str) -> None:
        """Count a candidate as "duplicate", "contaminated" or "excluded" in set `name`."""
        row = self.row(found.source, name)
        setattr(row, column, getattr(row, column) + 1)
        self._write(found.source, name, found.file, found.line, reason, detail, excerpt(content(found.payload)))

    def _write(self, source: Source, name: str, file: str, line: int, reason: str, detail: str, shown: str) -> None:
        values = {"source": source.name, "set": name, "file": file, "line": line, "reason": reason}
        self._dropped.write(json.dumps(values | {"detail": detail, "excerpt": shown}, ensure_ascii=False) + "\n")


def build(params: Params, raw_dir: Path, out_dir: Path, progress: Callable[[str], None] = print) -> Ledger:
    """Build the four sets in `out_dir` from `raw_dir`; returns the checked ledger.

    Same raw files and parameters give byte-identical outputs. QilinError: an unknown or missing source, an unknown
    licence, a raw folder without any source, or a ledger that does not balance.
    """
    raw_dir, out_dir = Path(raw_dir), Path(out_dir)
    chosen = chosen_sources(params, raw_dir)
    ledger = Ledger()
    with files.atomic(out_dir / "dropped.jsonl") as dropped:
        book = Book(ledger, dropped)
        index = benchmark_index(raw_dir, book, progress)
        candidates: list[Candidate] = []
        for source in chosen:
            found = source_candidates(params, source, raw_dir, book)
            clear = decontaminated(params, found, index, book)
            candidates.extend(clear)
            progress(f"{source.name}: {len(found)} usable records, {len(clear)} after decontamination")
        marks = signatures([candidate.bones for candidate in candidates], params.near_dup_ngram)
        for name in TRAINING_SETS:
            numbers = [number for number, candidate in enumerate(candidates) if name in candidate.sets]
            members = [candidates[number] for number in numbers]
            kept = mixed(params, name, deduplicated(params, name, members, marks[numbers], book), book)
            write_set(params, name, kept, book, out_dir)
            progress(f"{name}.jsonl: {len(kept)} of {len(members)} records kept")
    ledger.check()
    files.write_json(out_dir / "ledger.json", ledger.as_dict())
    return ledger


def chosen_sources(params: Params, raw_dir: Path) -> list[Source]:
    """The training sources to read, in registry order.

    QilinError for a name or licence that does not exist, or nothing to read.
    """
    state = sources.inventory(raw_dir)
    for name in params.sources or ():
        if name not in sources.BY_NAME:
            raise QilinError(f"sources: '{name}' is no source{nearest(name, sources.BY_NAME)}")
        if state[name] != "present":
            raise QilinError(f"sources: {raw_dir / name} does not exist; get it from {sources.BY_NAME[name].home}")
    licences = {source.licence for source in sources.REGISTRY}
    for licence in params.exclude_licences:
        if licence not in licences:
            raise QilinError(f"exclude_licences: '{licence}' is no source's licence{nearest(licence, licences)}")
    wanted = params.sources if params.sources is not None else state
    present = [source for source in sources.REGISTRY if state[source.name] == "present" and source.name in wanted]
    training = [source for source in present if any(set(feed.rows) & set(TRAINING_SETS) for feed in source.feeds)]
    if not training:
        raise QilinError(f"{raw_dir} holds no training source; expected folders such as {', '.join(list(state)[:4])}")
    return training


def benchmark_index(raw_dir: Path, book: Book, progress: Callable[[str], None]) -> Index:
    """The items of every benchmark that is present, also of one that `sources` leaves out of training."""
    items: list[Item] = []
    for source in sources.REGISTRY:
        for unit in sources.units(source, raw_dir, ("eval",)):
            row = book.row(source, "eval")
            row.read += 1
            if isinstance(unit.read, Rejection):
                book.reject(source, unit.sets, unit.read)
            elif item := item_of(unit.read):
                items.append(item)
                _count_kept(row, [content(unit.read.payload)])
    progress(f"benchmarks: {len(items)} items")
    return Index(items)


def source_candidates(params: Params, source: Source, raw_dir: Path, book: Book) -> list[Candidate]:
    """Read, clean and de-identify one source; what cannot be used is booked."""
    units = list(enumerate(sources.units(source, raw_dir, TRAINING_SETS), start=1))
    records = [number for number, unit in units if isinstance(unit.read, Record)]
    limit = params.max_records_per_source
    sampled = set(records)
    if limit is not None and len(records) > limit:
        sampled = set(random.Random(f"{params.seed} {source.name}").sample(records, limit))
    found: list[Candidate] = []
    for number, unit in units:
        for name in unit.sets:
            book.row(source, name).read += 1
        if isinstance(unit.read, Rejection):
            book.reject(source, unit.sets, unit.read)
            continue
        candidate = Candidate(
            source, number, unit.sets, unit.read.file, unit.read.line, unit.read.payload, "", Counter()
        )
        if source.licence in params.exclude_licences:
            _exclude(candidate, "licence", source.licence, book)
        elif number not in sampled:
            _exclude(candidate, "record limit", f"{limit} records a source", book)
        elif refined(candidate, params.min_chars, book):
            found.append(candidate)
    return found


def _exclude(candidate: Candidate, reason: str, detail: str, book: Book) -> None:
    for name in candidate.sets:
        book.drop(candidate, name, "excluded", reason, detail)


def refined(candidate: Candidate, min_chars: int, book: Book) -> bool:
    """Clean and de-identify the candidate's payload in place; False when no set can use it (booked as rejected)."""
    medical = candidate.source.part == "medical"

    def refine(text: str) -> str:
        text, counts = deidentify(clean(text) if medical else clean_general(text), medical)
        candidate.deidentified.update(counts)
        return text

    raw = content(candidate.payload)
    if lost_character(raw):
        return _unusable(candidate, candidate.sets, "undecodable characters", book)
    candidate.payload = mapped(candidate.payload, refine)
    text = content(candidate.payload)
    if not all(_essential(candidate.payload)):
        return _unusable(candidate, candidate.sets, "empty after cleaning", book)
    if len(text) < min_chars:
        return _unusable(candidate, candidate.sets, "too short", book, f"{len(text)} characters")
    useless = tuple(name for name in candidate.sets if compose(name, candidate.payload) is None)
    if useless:
        _unusable(candidate, useless, "nothing to ask", book)
    candidate.sets = tuple(name for name in candidate.sets if name not in useless)
    candidate.bones = skeleton(text)
    return bool(candidate.sets)


def _essential(payload: Payload) -> list[str]:
    match payload:
        case Passage(_, body):
            return [body]
        case Exam(question, options):
            return [question, *(text for _, text in options)]
    return list(strings(payload))


def _unusable(candidate: Candidate, sets: tuple[str, ...], reason: str, book: Book, detail: str = "") -> bool:
    shown = excerpt(content(candidate.payload))
    book.reject(
        candidate.source, sets, Rejection(candidate.source.name, candidate.file, candidate.line, reason, detail, shown)
    )
    return False


def decontaminated(params: Params, found: list[Candidate], index: Index, book: Book) -> list[Candidate]:
    """Those without a benchmark item. decontaminate = "report" counts the hits and keeps all; False does not look."""
    if not params.decontaminate:
        return found
    clear: list[Candidate] = []
    for candidate in found:
        hit = index.hit(candidate.payload, candidate.bones, params.contamination_share)
        if hit is not None:
            book.ledger.hits[hit.benchmark] += 1
        if hit is None or params.decontaminate == "report":
            clear.append(candidate)
            continue
        for name in candidate.sets:
            book.drop(candidate, name, "contaminated", "contaminated", f"{hit.item} ({hit.how}, {hit.share:.2f})")
    return clear


def deduplicated(params: Params, name: str, members: list[Candidate], marks: Any, book: Book) -> list[Candidate]:
    """The first of every group of near-duplicates in one set."""
    found = duplicates([member.bones for member in members], marks, params.near_dup_threshold, params.near_dup_ngram)
    kept: list[Candidate] = []
    for member, keeper in zip(members, found, strict=True):
        if keeper is None:
            kept.append(member)
        else:
            book.drop(member, name, "duplicate", "duplicate", f"of {members[keeper].id}")
    return kept


def mixed(params: Params, name: str, members: list[Candidate], book: Book) -> list[Candidate]:
    """SFT only.

    The larger of the general and the medical side is sampled down until general is `general_share` of the whole.
    """
    share = params.general_share
    if name != "sft" or share is None:
        return members
    sides = {
        part: [number for number, member in enumerate(members) if member.source.part == part]
        for part in ("general", "medical")
    }
    general, medical = len(sides["general"]), len(sides["medical"])
    # general : medical = share : (1 - share); whichever side is too large for the other is capped.
    if general * (1 - share) > medical * share:
        part, size = "general", round(medical * share / (1 - share))
    else:
        part, size = "medical", round(general * (1 - share) / share) if share else medical
    kept = set(random.Random(f"{params.seed} mixing").sample(sides[part], min(size, len(sides[part]))))
    left_out = set(sides[part]) - kept
    for number in sorted(left_out):
        book.drop(members[number], name, "excluded", "mixing ratio", f"general share {share}")
    return [member for number, member in enumerate(members) if number not in left_out]


def heldout(share: float, seed: int, members: list[Candidate]) -> list[bool]:
    """Who is held out: records whose text hashes below `share`; at least one of two or more when `share` is positive.

    The hash is the same in every set, so a dialogue held out of SFT is, at equal shares, held out of CPT too.
    """
    draws = [_draw(seed, member) for member in members]
    if share > 0 and len(draws) > 1:
        share = max(share, min(draws) + 2**-53)
    return [draw < share for draw in draws]


def _draw(seed: int, member: Candidate) -> float:
    digest = hashlib.sha256(f"{seed}\n{content(member.payload)}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def write_set(params: Params, name: str, members: list[Candidate], book: Book, out_dir: Path) -> None:
    """Write <name>.jsonl and count what is kept."""
    splits = heldout(getattr(params, f"heldout_share_{name}"), params.seed, members)
    with files.atomic(out_dir / f"{name}.jsonl") as handle:
        for member, held in zip(members, splits, strict=True):
            body = compose(name, member.payload) or {}
            row = book.row(member.source, name)
            _count_kept(row, _texts(body))
            row.deidentified.update(member.deidentified)
            line = _head(member, name) | body | {"split": "heldout" if held else "train"}
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")


def _head(member: Candidate, name: str) -> dict[str, str]:
    source = member.source
    kind = {"cpt": {"type": source.type}, "sft": {"part": source.part}, "dpo": {"part": source.part}}.get(name, {})
    return {"id": member.id, "source": source.name} | kind | {"licence": source.licence}


def _texts(body: dict[str, Any]) -> list[str]:
    if "text" in body:
        return [body["text"]]
    return [message["content"] for turns in body.values() for message in turns]


def _count_kept(row: Row, texts: list[str]) -> None:
    row.kept += 1
    row.chars_kept += sum(map(len, texts))
    row.bytes_kept += sum(len(text.encode("utf-8")) for text in texts)
