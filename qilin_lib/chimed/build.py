"""Notebook 01: raw folders -> cpt.jsonl, sft.jsonl, dpo.jsonl, general.jsonl, ledger.json, dropped.jsonl.

Order: read, merge knowledge graphs, clean, de-identify, reject what is empty or too short, decontaminate, remove
near-duplicates across sources, mix, cut repeated substrings out of CPT's running text, split, write. Every unit that a
reader yields ends in exactly one column of the ledger, in every set that its file feeds.

The main process streams units and decides about numbers; workers hold the texts, one batch at a time. What is between
the steps lies in <out_dir>/checkpoints/build, so memory does not grow with the corpus and a killed build goes on with
the batches that it had. The number of workers changes no byte.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qilin_lib import files
from qilin_lib.chimed import batches, licences, sources, substrings, verdicts
from qilin_lib.chimed.batches import PARTS
from qilin_lib.chimed.decontaminate import Index
from qilin_lib.chimed.items import Item, item_of
from qilin_lib.chimed.ledger import Ledger, Row
from qilin_lib.chimed.neardup import near_duplicates
from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.reading import refined
from qilin_lib.chimed.records import Rejection, content
from qilin_lib.chimed.shards import Texts
from qilin_lib.chimed.sources import TRAINING_SETS, Source
from qilin_lib.chimed.verdicts import MIXING, SUBSTRING, Fates
from qilin_lib.errors import QilinError, nearest
from qilin_lib.progress import live_line
from qilin_lib.runs import Stage

Say = Callable[[str], None]


class Params(Protocol):
    """The parameters of notebook 01 that the build reads."""

    sources: list[str] | None
    exclude_licences: list[str]
    near_dup_threshold: float
    near_dup_ngram: int
    exact_substrings: str | None
    exact_substring_length: int
    decontaminate: bool | str
    contamination_share: float
    heldout_share_cpt: float
    heldout_share_sft: float
    heldout_share_dpo: float
    heldout_share_general: float
    general_share: float | None
    ranked_answers: str
    max_records_per_source: int | None
    workers: int | None
    seed: int
    min_chars: int


def build(stage: Stage, show: Say | None = None) -> dict[str, Any]:
    """Build ChiMed in 01's folder unless it is there; returns ledger.json. Raises what `build_sets` raises."""
    stage.begin()
    if not stage.up_to_date:
        build_sets(stage.parameters, stage.raw, stage.dir, show or live_line())
    return files.read_json(stage.dir / "ledger.json")


def build_sets(params: Params, raw_dir: Path, out_dir: Path, progress: Say = print) -> Ledger:
    """Build the four sets in `out_dir` from `raw_dir`; returns the checked ledger.

    Same raw files and parameters give byte-identical outputs, with any number of workers and after any interruption.
    QilinError: an unknown or missing source, an unknown licence, a raw folder without any source, a disk without
    room, or a ledger that does not balance.
    """
    raw_dir, out_dir = Path(raw_dir), Path(out_dir)
    chosen = chosen_sources(params, raw_dir)
    ledger = Ledger(unread=sources.all_unread(raw_dir))
    with _room(out_dir), Pool(params.workers) as pool:
        work = _work_dir(params, raw_dir, out_dir)
        _benchmarks(raw_dir, ledger, work, progress)
        candidates = refined(params, chosen, raw_dir, work, pool, progress, ledger.notes)
        stems = [work / f"{number:05d}" for number in range(len(candidates.sources))]
        group = near_duplicates(work, stems, params.near_dup_threshold, params.near_dup_ngram, pool, progress)
        fates = verdicts.deduplicated(candidates, group)
        verdicts.mix(fates, params.general_share, params.seed)
        if params.exact_substrings and stems:
            without_substrings(params, fates, stems, work, pool, progress)
        for name in TRAINING_SETS:
            verdicts.hold_out(fates, name, getattr(params, f"heldout_share_{name}"))
        write_sets(params, fates, stems, ledger, work, out_dir, pool, progress)
        ledger.check()
        files.write_json(out_dir / "ledger.json", ledger.as_dict())
    shutil.rmtree(work)
    return ledger


@contextmanager
def _room(out_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as reason:
        if reason.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(out_dir).free / 1e9
        raise QilinError(
            f"{out_dir}: no room left on the disk ({free:.1f} GB free; a build takes about eight times the raw text); "
            "free some, or set QILIN_RUNS_DIR to a larger disk, and run it again: it goes on where it was"
        ) from None


def _work_dir(params: Params, raw_dir: Path, out_dir: Path) -> Path:
    """The folder of half-done work, emptied unless it was left by a build of the same parameters and raw files."""
    work = out_dir / "checkpoints" / "build"
    settings = {name: getattr(params, name) for name in Params.__annotations__ if name != "workers"}
    read = sources.files_read(raw_dir, params.sources).items()
    found = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in read if path.is_file()]
    print_of = files.sha256_text(json.dumps([settings, str(raw_dir.resolve()), found], sort_keys=True))
    made_for = work / "made_for.txt"
    if not made_for.exists() or made_for.read_text(encoding="utf-8") != print_of:
        shutil.rmtree(work, ignore_errors=True)
        files.write_text(made_for, print_of)
    for left in (*out_dir.glob(".*.tmp"), *work.glob(".*.tmp")):
        left.unlink()
    return work


def chosen_sources(params: Params, raw_dir: Path) -> list[Source]:
    """The training sources to read, in registry order.

    QilinError for a name or licence that does not exist, or nothing to read.
    """
    state = sources.inventory(raw_dir)
    for name in params.sources or ():
        if name not in sources.BY_NAME:
            raise QilinError(f"sources: '{name}' is no source{nearest(name, sources.BY_NAME)}")
        if state[name] == "missing":
            raise QilinError(f"sources: {raw_dir / name} does not exist; get it from {sources.BY_NAME[name].home}")
        if state[name] != "present":
            left = sources.listed(sources.unread(sources.BY_NAME[name], raw_dir)) or "it is empty"
            raise QilinError(f"sources: nothing in {raw_dir / name} is read: {left}")
    licences.check(params.exclude_licences, [licence for source in sources.REGISTRY for licence in source.licences()])
    wanted = params.sources if params.sources is not None else state
    present = [source for source in sources.REGISTRY if state[source.name] == "present" and source.name in wanted]
    training = [source for source in present if any(set(feed.rows) & set(TRAINING_SETS) for feed in source.feeds)]
    if not training:
        left = "".join(f"; {name}: {sources.listed(files)}" for name, files in sources.all_unread(raw_dir).items())
        raise QilinError(
            f"{raw_dir} holds no training source; expected folders such as {', '.join(list(state)[:4])}{left}"
        )
    return training


def _benchmarks(raw_dir: Path, ledger: Ledger, work: Path, progress: Say) -> None:
    """Save the index of every benchmark that is present, also of one that `sources` leaves out of training."""
    items: list[Item] = []
    rejected: list[str] = []
    for source in sources.REGISTRY:
        for unit in sources.units(source, raw_dir, ("eval",), notes=ledger.notes):
            row = Row.of(source, "eval")
            row.read = 1
            if isinstance(unit.read, Rejection):
                entry = batches.opened(0, unit, None)
                rejected.append(batches.dropped_line(source.name, "eval", entry, entry.lost["eval"], row))
            elif item := item_of(unit.read):
                items.append(item)
                row.keep([content(unit.read.payload)])
            ledger.add(row)
    Index(items).save(work / "benchmarks")
    files.write_text(work / "benchmarks.dropped.part", "".join(rejected))
    progress(f"benchmarks: {len(items):,} items")


def without_substrings(params: Params, fates: Fates, stems: list[Path], work: Path, pool: Pool, progress: Say) -> None:
    """Find repeated substrings in the running text that CPT keeps (Lee et al. 2022, ExactSubstr) and cut them out.

    What is cut are whole sentences and lines. A text of which less than `min_chars` is left beside its heading is lost.
    The first occurrence always stays.
    """
    heading, entry = fates.candidates.heading, fates.candidates.entry
    kept = fates.kept("cpt")
    kept = kept[heading[kept] >= 0]
    members = np.split(kept, np.searchsorted(fates.candidates.batch[kept], np.arange(1, len(stems))))
    for _ in pool.map(batches.keep_texts, ((stem, fates.passages(number)) for number, stem in enumerate(stems))):
        pass
    shards = [batches.set_stem(stem, "kept") for stem in stems]
    found = substrings.repeated_spans(shards, params.exact_substring_length, work / "substrings", pool, progress)
    for stem, shard, own, spans in zip(stems, shards, members, found, strict=True):
        rows = []
        for number, text, some in zip(own.tolist(), Texts(shard), spans, strict=True):
            cuts = substrings.whole_sentences(text, some, int(heading[number])) if some else []
            left = len(text) - heading[number] - sum(end - start for start, end in cuts)
            if cuts and left < params.min_chars:
                fates.state["cpt"][number] = SUBSTRING
            rows += [(int(entry[number]), start, end) for start, end in cuts]
        np.save(stem.with_suffix(".spans.npy"), np.array(rows, np.int64).reshape(-1, 3))


def write_sets(
    params: Params,
    fates: Fates,
    stems: list[Path],
    ledger: Ledger,
    work: Path,
    out_dir: Path,
    pool: Pool,
    progress: Say,
) -> None:
    """Workers write the parts, and the parts are put together in corpus order."""
    reasons = {
        MIXING: ("excluded", "mixing ratio", f"general share {params.general_share}"),
        SUBSTRING: ("duplicate", "repeated substring", f"{params.exact_substring_length} characters or more"),
    }
    progress("writing the sets")
    of_batch = fates.candidates.sources
    tasks = ((stem, of_batch[n], fates.verdicts(n, reasons)) for n, stem in enumerate(stems))
    for source, (rows, hits) in zip(of_batch, pool.map(batches.write, tasks), strict=True):
        for row in rows:
            ledger.add(row)
        ledger.add_hits(source, hits)
    for name in PARTS:
        first = [work / "benchmarks"] if name == "dropped" else []
        with files.atomic(out_dir / f"{name}.jsonl", binary=True) as whole:
            for stem in (*first, *stems):
                with open(stem.with_suffix(f".{name}.part"), "rb") as part:
                    shutil.copyfileobj(part, whole, 1 << 20)
    progress(", ".join(f"{name}.jsonl {len(fates.kept(name)):,}" for name in TRAINING_SETS) + " records")
