"""Notebook 01: raw folders -> cpt.jsonl, sft.jsonl, dpo.jsonl, general.jsonl, ledger.json, dropped.jsonl.

Every unit that a reader yields ends in exactly one column of the ledger, in every set that its file feeds. The main
process streams units and decides about numbers (verdicts.py); workers hold the texts, one batch at a time (batches.py).
What is between the steps lies in <out_dir>/checkpoints/build, so memory does not grow with the corpus and a killed
build goes on with the batches that it had. The number of workers changes no byte.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.chimed import batches, sources, substrings
from qilin_lib.chimed.batches import PARTS, Entry
from qilin_lib.chimed.decontaminate import Index
from qilin_lib.chimed.items import Item, item_of
from qilin_lib.chimed.ledger import Ledger, Row
from qilin_lib.chimed.merge import merged
from qilin_lib.chimed.neardup import near_duplicates
from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.records import Lost, Record, Rejection, content, strings
from qilin_lib.chimed.shards import Texts
from qilin_lib.chimed.sources import TRAINING_SETS, Source, Unit
from qilin_lib.chimed.verdicts import SUBSTRING, Corpus
from qilin_lib.errors import QilinError, nearest
from qilin_lib.progress import live_line
from qilin_lib.runs import Stage
from qilin_lib.schema import Build

Say = Callable[[str], None]
# Each with how it is lost already.
Units = Iterator[tuple[Unit, Lost | None]]
# What readers say of whole files, by source and file.
Notes = dict[str, dict[str, str]]
# Characters and units of a batch: large enough that a task's overhead vanishes, small enough for any laptop.
BATCH_CHARS, BATCH_UNITS = 700_000, 5_000


def build(stage: Stage, show: Say | None = None) -> dict[str, Any]:
    """Build ChiMed in 01's folder unless it is there; returns ledger.json. Raises what `build_sets` raises."""
    stage.begin()
    if not stage.up_to_date:
        build_sets(stage.parameters, stage.raw, stage.dir, show or live_line())
    return files.read_json(stage.dir / "ledger.json")


def build_sets(params: Build, raw_dir: Path, out_dir: Path, progress: Say = print) -> Ledger:
    """Build the four sets in `out_dir` from `raw_dir`; returns the checked ledger.

    QilinError: a missing source, an unknown licence, a raw folder without any source, a disk without
    room, or a ledger that does not balance.
    """
    raw_dir, out_dir = Path(raw_dir), Path(out_dir)
    chosen = chosen_sources(params, raw_dir)
    ledger = Ledger(unread=sources.all_unread(raw_dir))
    with files.naming(out_dir), Pool(params.workers) as pool:
        work = work_dir(params, raw_dir, out_dir)
        dropped_items = index_benchmarks(raw_dir, ledger, work, progress)
        tasks = read_batches(params, chosen, raw_dir, work, progress, ledger.notes)
        corpus = Corpus(pool.map(batches.refine, tasks))
        progress(f"reading: done, {len(corpus.number):,} candidates")
        cuts = decide(params, corpus, work, pool, progress)
        progress("writing the sets")
        write_sets(pool.map(batches.lines, corpus.judged(params, cuts)), ledger, dropped_items, out_dir)
        ledger.check()
        files.write_json(out_dir / "ledger.json", ledger.as_dict())
    progress(", ".join(f"{name}.jsonl {len(corpus.kept(name)):,}" for name in TRAINING_SETS) + " records")
    shutil.rmtree(work)
    return ledger


def work_dir(params: Build, raw_dir: Path, out_dir: Path) -> Path:
    """The folder of half-done work, emptied unless it was left by a build of the same parameters and raw files."""
    work = out_dir / "checkpoints" / "build"
    names = {"seed", *Build.__annotations__} - {"raw_dir", "workers"}
    settings = {name: getattr(params, name) for name in names}
    read = sources.files_read(raw_dir, params.sources).items()
    found = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in read if path.is_file()]
    key = files.sha256_text(json.dumps([batches.STORED, settings, str(raw_dir.resolve()), found], sort_keys=True))
    made_for = work / "made_for.txt"
    if not made_for.exists() or made_for.read_text(encoding="utf-8") != key:
        shutil.rmtree(work, ignore_errors=True)
        files.write_text(made_for, key)
    for left in (*out_dir.glob(".*.tmp"), *work.glob(".*.tmp")):
        left.unlink()
    return work


def chosen_sources(params: Build, raw_dir: Path) -> list[Source]:
    """The training sources to read, in registry order; QilinError: none, a missing one, an unknown licence."""
    state = sources.inventory(raw_dir)
    for name in params.sources or ():
        if state[name] == "missing":
            raise QilinError(f"sources: {raw_dir / name} does not exist; get it from {sources.BY_NAME[name].home}")
        if state[name] != "present":
            left = sources.listed(sources.unread(sources.BY_NAME[name], raw_dir)) or "it is empty"
            raise QilinError(f"sources: nothing in {raw_dir / name} is read: {left}")
    known = sorted({licence for source in sources.REGISTRY for licence in source.licences()})
    for word in params.exclude_licences:
        if not any(sources.excluded(licence, [word]) for licence in known):
            # Another Creative Commons licence is no near miss.
            hint = "" if word.lower().lstrip().startswith("cc") else nearest(word, known)
            stands = f"'{word}' stands in no source's licence{hint}"
            raise QilinError(f"exclude_licences: {stands}; the licences are {'; '.join(known)}")
    there = (source for source in sources.REGISTRY if state[source.name] == "present")
    training = [source for source in there if any({*feed.rows} & {*TRAINING_SETS} for feed in source.feeds)]
    chosen = [source for source in training if params.sources is None or source.name in params.sources]
    if training and not chosen:
        names = ", ".join(source.name for source in training)
        raise QilinError(f"sources = {params.sources}: none of them feeds training; there are {names}")
    if not training:
        left = "".join(f"; {name}: {sources.listed(files)}" for name, files in sources.all_unread(raw_dir).items())
        unknown = (name for name, of in state.items() if of == "unknown")
        left += "".join(f"; {name}: no source{nearest(name.lower(), sources.BY_NAME)}" for name in unknown)
        expected = f"expected folders such as {', '.join(list(state)[:4])}"
        raise QilinError(f"{raw_dir} holds no training source; {expected}{left}")
    return chosen


def index_benchmarks(raw_dir: Path, ledger: Ledger, work: Path, progress: Say) -> bytes:
    """Save the index of all benchmarks; returns the lines of dropped.jsonl for their unreadable items."""
    items: list[Item] = []
    dropped: list[str] = []
    for source in sources.REGISTRY:
        row = None
        for unit in sources.units(source, raw_dir, ("eval",), notes=ledger.notes):
            row = row or Row.of(source, "eval")
            row.read += 1
            if isinstance(unit.read, Rejection):
                entry = Entry.of(0, unit)
                dropped.append(batches.dropped_line(source.name, "eval", entry, entry.lost["eval"], row))
            elif item := item_of(unit.read):
                items.append(item)
                row.keep([content(unit.read.payload)])
        if row:
            ledger.add(row)
    Index(items).save(work / "benchmarks")
    progress(f"benchmarks: {len(items):,} items")
    return "".join(dropped).encode("utf-8")


def read_batches(
    params: Build, chosen: list[Source], raw_dir: Path, work: Path, progress: Say, notes: Notes
) -> Iterator[tuple]:
    """The arguments of `batches.refine`, batch by batch; what is said of whole files goes into `notes`."""
    told, chars, number = time.monotonic(), 0, 0
    for source, read in _sources(params, chosen, raw_dir, notes):
        for first, units, size in _batches(_limited(source.name, read, params)):
            yield work / f"{number:05d}", source.name, first, units, params
            chars, number = chars + size, number + 1
            if time.monotonic() - told > 5:
                progress(f"reading {source.name}: {chars / 1e6:,.0f} M characters")
                told = time.monotonic()


def _sources(
    params: Build, chosen: list[Source], raw_dir: Path, notes: Notes
) -> Iterator[tuple[Source, Callable[[], Units]]]:
    """Each source in corpus order, and what reads its units; lost are those merged into another, or of a licence."""
    known = {licence for source in chosen for licence in source.licences()}
    barred = {licence for licence in known if sources.excluded(licence, params.exclude_licences)}

    def units(source: Source) -> Iterator[Unit]:
        return sources.units(source, raw_dir, TRAINING_SETS, params.ranked_answers, notes)

    def licensed(source: Source, found: Sequence[tuple[Unit, Lost | None]] | None) -> Units:
        for unit, lost in ((unit, None) for unit in units(source)) if found is None else found:
            licence = unit.licence or source.licence
            yield unit, ("excluded", "licence", licence) if licence in barred else lost

    for graphs, group in itertools.groupby(chosen, key=lambda source: source.type == "kg"):
        members = sorted(group, key=lambda source: barred.issuperset(source.licences()))
        # Only graphs that may be used are merged: nothing of a barred one gets into another's record.
        free = [source for source in members if graphs and not barred.issuperset(source.licences())]
        found: dict[str, list[tuple[Unit, Lost | None]]] = {source.name: [] for source in free}
        for source, unit, lost in merged((source, units(source)) for source in free):
            found[source.name].append((unit, lost))
        for source in members:
            yield source, partial(licensed, source, found.get(source.name))


def _limited(name: str, read: Callable[[], Units], params: Build) -> Units:
    """The units of a source; of more usable ones than `max_records_per_source` a seeded sample stays (two readings)."""
    limit, left_out = params.max_records_per_source, set()
    if limit is not None:
        numbered = enumerate(read())
        usable = [number for number, (unit, lost) in numbered if lost is None and isinstance(unit.read, Record)]
        sampled = random.Random(f"{params.seed} {name}").sample(usable, min(limit, len(usable)))
        left_out = set(usable).difference(sampled)
    for number, (unit, lost) in enumerate(read()):
        yield unit, ("excluded", "record limit", f"{limit} records a source") if number in left_out else lost


def _batches(read: Units) -> Iterator[tuple[int, list[tuple[Unit, Lost | None]], int]]:
    """Batches of a source's units: (number of the first, counted from 1, [(unit, lost)], characters)."""
    first, size, batch = 1, 0, []
    for number, (unit, lost) in enumerate(read, start=1):
        batch.append((unit, lost))
        size += sum(map(len, strings(unit.read.payload))) if isinstance(unit.read, Record) else 0
        if size >= BATCH_CHARS or len(batch) >= BATCH_UNITS:
            yield first, batch, size
            first, size, batch = number + 1, 0, []
    if batch:
        yield first, batch, size


def decide(params: Build, corpus: Corpus, work: Path, pool: Pool, progress: Say) -> list[np.ndarray]:
    """Near-duplicates, mixing ratio, repeated substrings, held-out split of all candidates; returns the cuts."""
    threshold, ngram = params.near_dup_threshold, params.near_dup_ngram
    corpus.deduplicate(near_duplicates(work, corpus.stems, threshold, ngram, pool, progress))
    corpus.mix(params.general_share, params.seed)
    cuts = cut_repeated(params, corpus, work, pool, progress)
    for name in TRAINING_SETS:
        corpus.hold_out(name, getattr(params, f"heldout_share_{name}"))
    return cuts


def cut_repeated(params: Build, corpus: Corpus, work: Path, pool: Pool, progress: Say) -> list[np.ndarray]:
    """For each batch what to cut out of its CPT texts: int64 [n, 3], candidate of the batch, start and end.

    Cut are substrings repeated in the running text that CPT keeps (Lee et al. 2022, ExactSubstr), as whole sentences
    and lines; the first occurrence stays. A text of which less than `min_chars` is left beside its heading is lost.
    """
    if not (params.exact_substrings and corpus.stems):
        return [np.empty((0, 3), np.int64)] * len(corpus.stems)
    kept = corpus.kept("cpt")
    kept = kept[corpus.heading[kept] >= 0]
    parts = np.split(kept, np.searchsorted(kept, corpus.starts[1:-1]))
    members = [part - start for part, start in zip(parts, corpus.starts, strict=False)]
    shards = list(pool.map(batches.keep_texts, zip(corpus.stems, members, strict=True)))
    found = substrings.repeated_spans(shards, params.exact_substring_length, work / "substrings", pool, progress)
    cuts = []
    for start, shard, own, spans in zip(corpus.starts, shards, members, found, strict=False):
        rows: list[tuple[int, int, int]] = []
        for candidate, text, some in zip(own.tolist(), Texts(shard), spans, strict=True):
            heading = int(corpus.heading[start + candidate])
            pieces = substrings.whole_sentences(text, some, heading) if some else []
            if pieces and len(text) - heading - sum(end - begin for begin, end in pieces) < params.min_chars:
                corpus.state["cpt"][start + candidate] = SUBSTRING
            rows += [(candidate, begin, end) for begin, end in pieces]
        cuts.append(np.array(rows, np.int64).reshape(-1, 3))
    return cuts


def write_sets(written: Iterable[batches.Written], ledger: Ledger, dropped: bytes, out: Path) -> None:
    """Write the four sets and dropped.jsonl, behind `dropped`, in corpus order, and book every line in the ledger."""
    with contextlib.ExitStack() as stack:
        whole = {name: stack.enter_context(files.atomic(out / f"{name}.jsonl", binary=True)) for name in PARTS}
        whole["dropped"].write(dropped)
        for parts, source, rows, hits in written:
            for name, part in parts.items():
                whole[name].write(part)
            for row in rows:
                ledger.add(row)
            ledger.add_hits(source, hits)
