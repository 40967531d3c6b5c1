"""The reading half of the build: units of all sources in corpus order, cut into batches, refined by the workers."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from qilin_lib.chimed import batches, sources
from qilin_lib.chimed.batches import Lost, Settings
from qilin_lib.chimed.licences import excluded
from qilin_lib.chimed.merge import merged
from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.records import Record, Rejection, strings
from qilin_lib.chimed.sources import TRAINING_SETS, Source, Unit
from qilin_lib.chimed.verdicts import Candidates

# Characters and units of a batch: large enough that a task's overhead vanishes, small enough for any laptop.
BATCH_CHARS, BATCH_UNITS = 700_000, 5_000
Say = Callable[[str], None]
Limited = Callable[[str, int, Unit], Lost | None]
Notes = dict[str, dict[str, str]]
Found = tuple[Source, int, Unit, Lost | None]


class Params(Protocol):
    """The parameters of notebook 01 that reading needs."""

    exclude_licences: list[str]
    near_dup_ngram: int
    decontaminate: bool | str
    contamination_share: float
    max_records_per_source: int | None
    ranked_answers: str
    seed: int
    min_chars: int


def stream(params: Params, chosen: Iterable[Source], raw_dir: Path, notes: Notes) -> Iterator[Found]:
    """(source, number of the unit in its source, unit, how it is lost already) of all sources, in corpus order.

    What is to be said of whole files goes into `notes`.
    """
    for _, found in itertools.groupby(_all_units(params, chosen, raw_dir, notes), key=lambda item: item[0].name):
        for number, (source, unit, lost) in enumerate(found, start=1):
            yield source, number, unit, lost


def _all_units(
    params: Params, chosen: Iterable[Source], raw_dir: Path, notes: Notes
) -> Iterator[tuple[Source, Unit, Lost | None]]:
    for of_graphs, members in itertools.groupby(chosen, key=lambda source: source.type == "kg"):
        barred, allowed = [], []
        for source in members:
            found = (source, sources.units(source, raw_dir, TRAINING_SETS, params.ranked_answers, notes))
            whole = all(excluded(licence, params.exclude_licences) for licence in source.licences())
            (barred if whole else allowed).append(found)
        # Only graphs that may be used are merged: nothing of a barred one gets into another's record.
        together = merged(allowed) if of_graphs else ((source, unit, "") for source, found in allowed for unit in found)
        held: set[tuple[str, str]] = set()
        for source, unit, place in together:
            if excluded(unit.licence or source.licence, params.exclude_licences):
                yield source, unit, ("excluded", "licence", unit.licence or source.licence)
                continue
            again = place.startswith(f"{source.name}/") or (source.name, place) in held
            held.update([(source.name, place)] if place else [])
            yield source, unit, ("merged", "repeated" if again else "merged", f"into {place}") if place else None
        for source, found in barred:
            for unit in found:
                yield source, unit, ("excluded", "licence", source.licence)


def refined(
    params: Params, chosen: list[Source], raw_dir: Path, work: Path, pool: Pool, progress: Say, notes: Notes
) -> Candidates:
    """Read everything and let the workers refine it batch by batch; the candidates that are left."""
    settings = Settings(
        params.min_chars,
        params.near_dup_ngram,
        params.seed,
        str(work / "benchmarks") if params.decontaminate else "",
        params.contamination_share,
        params.decontaminate == "report",
    )
    of_batch: list[str] = []
    tasks = _tasks(params, chosen, raw_dir, work, settings, of_batch, progress, notes)
    for _ in pool.map(batches.refine, tasks):
        pass
    tables = [np.load(work / f"{number:05d}.candidates.npy") for number in range(len(of_batch))]
    sizes = [len(table) for table in tables]
    table = np.concatenate([np.empty(0, batches.CANDIDATE), *tables])
    medical = np.repeat([sources.BY_NAME[name].part == "medical" for name in of_batch], sizes).astype(bool)
    batch = np.repeat(np.arange(len(of_batch)), sizes)
    progress(f"reading: done, {len(table):,} candidates")
    columns = [table[name] for name in ("entry", "number", "sets", "draw", "heading")]
    return Candidates(of_batch, batch, *columns, medical)


def _tasks(
    params: Params,
    chosen: list[Source],
    raw_dir: Path,
    work: Path,
    settings: Settings,
    of_batch: list[str],
    progress: Say,
    notes: Notes,
) -> Iterator[tuple]:
    limited = _limited(params, chosen, raw_dir)
    started, told, chars = time.monotonic(), 0.0, 0
    for source, first, units, size in _cut(stream(params, chosen, raw_dir, notes), limited):
        stem = work / f"{len(of_batch):05d}"
        of_batch.append(source)
        chars += size
        if not stem.with_suffix(".candidates.npy").exists():
            yield stem, source, first, units, settings
        if (now := time.monotonic()) - told > 5:
            progress(f"reading {source}: {chars / 1e6:,.0f} M characters, {now - started:,.0f} s")
            told = now


def _cut(found: Iterable[Found], limited: Limited) -> Iterator[tuple[str, int, list[tuple[Unit, Lost | None]], int]]:
    """Batches of one source each: (its name, number of the first unit, [(unit, lost)], characters)."""
    for source, members in itertools.groupby(found, key=lambda item: item[0].name):
        batch: list[tuple[Unit, Lost | None]] = []
        first, size = 1, 0
        for _, number, unit, lost in members:
            batch.append((unit, lost or limited(source, number, unit)))
            size += _size(unit)
            if size >= BATCH_CHARS or len(batch) >= BATCH_UNITS:
                yield source, first, batch, size
                batch, first, size = [], number + 1, 0
        if batch:
            yield source, first, batch, size


def _size(unit: Unit) -> int:
    return sum(map(len, strings(unit.read.payload))) if isinstance(unit.read, Record) else 0


def _limited(params: Params, chosen: list[Source], raw_dir: Path) -> Limited:
    """Who is beyond `max_records_per_source`: a seeded sample stays. A limit costs one more reading of everything."""
    limit = params.max_records_per_source
    usable: dict[str, list[int]] = {}
    if limit is not None:
        for source, number, unit, lost in stream(params, chosen, raw_dir, {}):
            if lost is None and isinstance(unit.read, Record):
                usable.setdefault(source.name, []).append(number)
    sampled = {
        name: set(random.Random(f"{params.seed} {name}").sample(numbers, limit))
        for name, numbers in usable.items()
        if len(numbers) > limit
    }

    def lost(name: str, number: int, unit: Unit) -> Lost | None:
        if name not in sampled or number in sampled[name] or isinstance(unit.read, Rejection):
            return None
        return ("excluded", "record limit", f"{limit} records a source")

    return lost
