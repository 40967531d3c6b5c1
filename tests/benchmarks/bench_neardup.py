"""Near-duplicates: ours against the MinHash of text-dedup 0.4.0 and datatrove 0.10.1, same corpus, two processes each.

    QILIN_RAW_DIR=raw python tests/benchmarks/bench_neardup.py [--size 200] [--subset 20000] [--venv FOLDER]
    QILIN_RAW_DIR=raw python tests/benchmarks/bench_neardup.py --claims      checks what amplify.py says of its texts

Time: SIZE MB from amplify.py, from the JSON-lines files to files of what is kept, each in fresh processes, all in one
run. The peers' bands are run as they come, and with 31 bands of 8 rows, which find a pair at Jaccard 0.8 with
probability 0.997. text-dedup gets its characters spaced apart beforehand, outside its time.
Quality: on SUBSET documents, against the Jaccard similarity of every pair (scipy, no hashing). "found" is the share of
pairs at or above the threshold that a tool puts in one cluster, "sound" the share of its pairs whose documents are
connected in truth. For removal a component of n documents should lose n - 1: "removed" is the share of those that are
gone, "rightly" the share of what is gone that should be.
The peers live in a venv that this script makes and removes; --venv keeps it, and --find-links names a folder of wheels.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from amplify import Amplifier, Material, material
from bench_build import GIB, PROFILE, ROOT, Measured, measured, stop_cleanly

PEERS = Path(__file__).with_name("neardup_peers.py")
# datatrove 0.10.1 dies with xxhash 4 ("Strings must be encoded before hashing").
PACKAGES = ("text-dedup==0.4.0", "datatrove==0.10.1", "xxhash==3.8.2", "tokenizers==0.23.3", "orjson==3.13.0")
NGRAM, WORKERS = 5, 2
# (tool, bands, rows); no bands = the tool's own choice for the threshold.
SETTINGS = (("text-dedup", 0, 0), ("text-dedup", 31, 8), ("datatrove", 14, 8), ("datatrove", 31, 8))
BATCH = 3_000
WINDOW = 75


def texts_of(found: Material, size: float) -> Iterator[tuple[str, str]]:
    """(kind, text) of amplified records, `size` bytes of them."""
    for _, records in Amplifier(found).batches(size):
        yield from ((kind, "\n".join(turns)) for kind, turns in records)


def write_corpus(texts: Iterable[str], folder: Path) -> tuple[int, float]:
    """Two JSON-lines files, and the same with spaced characters in <folder>-spaced; (documents, MB of text)."""
    from qilin_lib.chimed.shingles import skeleton

    spaced = folder.with_name(folder.name + "-spaced")
    held = list(texts)
    for place in (folder, spaced):
        place.mkdir()
        for part in range(2):
            first = part * len(held) // 2
            with open(place / f"{part:03d}.jsonl", "w", encoding="utf-8") as handle:
                for number, text in enumerate(held[first : (part + 1) * len(held) // 2], first):
                    shown = " ".join(skeleton(text)) if place == spaced else text
                    row = {"id": str(number), "text": shown}  # datatrove's writer leaves out an id of 0
                    handle.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(held), sum(len(text.encode()) for text in held) / 1e6


# --- ours, in a process of its own ------------------------------------------------------------------------------------


def sketch(stem: Path, lines: list[bytes]) -> None:
    """One shard from JSON lines."""
    from qilin_lib.chimed.neardup import write_sketch
    from qilin_lib.chimed.shingles import skeleton

    write_sketch(stem, [skeleton(json.loads(line)["text"]) for line in lines], NGRAM)


def batches(corpus: Path) -> Iterator[list[bytes]]:
    """The corpus's lines, BATCH at a time."""
    for path in sorted(corpus.glob("*.jsonl")):
        with open(path, "rb") as handle:
            while lines := list(itertools.islice(handle, BATCH)):
                yield lines


def ours(corpus: Path, out: Path, threshold: float) -> None:
    """From the corpus to <out>/kept.jsonl and <out>/group.npy."""
    from qilin_lib.chimed.neardup import near_duplicates
    from qilin_lib.chimed.pool import Pool

    out.mkdir(parents=True)
    stems: list[Path] = []

    def tasks() -> Iterator[tuple[Path, list[bytes]]]:
        for number, lines in enumerate(batches(corpus)):
            stems.append(out / f"{number:05d}")
            yield stems[-1], lines

    with Pool(WORKERS) as pool:
        for _ in pool.map(sketch, tasks()):
            pass
        group = near_duplicates(out, stems, threshold, NGRAM, pool, lambda message: None)
    np.save(out / "group.npy", group)
    numbers = itertools.count()
    with open(out / "kept.jsonl", "wb") as handle:
        for lines in batches(corpus):
            handle.writelines(line for line in lines if group[number := next(numbers)] == number)


# --- truth and scores -------------------------------------------------------------------------------------------------


def similar_pairs(texts: list[str], least: float) -> np.ndarray:
    """Every pair with Jaccard similarity of character 5-grams >= `least`, by counting: float [pairs, 3], (i, j, J)."""
    from scipy import sparse

    from qilin_lib.chimed.shingles import skeleton

    known: dict[str, int] = {}
    columns, ends = [], [0]
    for text in texts:
        bones = skeleton(text)
        grams = {bones[at : at + NGRAM] for at in range(max(len(bones) - NGRAM + 1, 1))}
        columns.extend(known.setdefault(gram, len(known)) for gram in grams)
        ends.append(len(columns))
    table = sparse.csr_array((np.ones(len(columns), np.int32), columns, ends), shape=(len(texts), len(known)))
    sizes, turned = np.diff(ends), table.T.tocsr()
    found = [np.empty((0, 3))]
    for start in range(0, len(texts), 500):
        shared = (table[start : start + 500] @ turned).tocoo()
        one, other = shared.coords[0] + start, shared.coords[1]
        similarity = shared.data / (sizes[one] + sizes[other] - shared.data)
        chosen = (similarity >= least) & (one < other)
        found.append(np.stack([one[chosen], other[chosen], similarity[chosen]], axis=1))
    return np.concatenate(found)


def components(pairs: np.ndarray, count: int) -> np.ndarray:
    """Number of the connected component of each document."""
    from scipy import sparse

    edges = sparse.coo_array((np.ones(len(pairs)), (pairs[:, 0].astype(int), pairs[:, 1].astype(int))), (count, count))
    return sparse.csgraph.connected_components(edges, directed=False)[1]


def scores(kept: list[int], clusters: dict[int, int], pairs: np.ndarray, count: int) -> dict[str, float]:
    """found, sound, removed, rightly: see the module's docstring."""
    # Whoever is in no cluster is alone: a negative number of its own.
    label = np.array([clusters.get(number, -1 - number) for number in range(count)])
    truth = components(pairs, count)
    one, other = pairs[:, 0].astype(int), pairs[:, 1].astype(int)
    together = Counter(zip(label.tolist(), truth.tolist(), strict=True))
    sound = sum(n * (n - 1) for n in together.values())
    claimed = sum(n * (n - 1) for n in Counter(label.tolist()).values())
    gone = np.ones(count, dtype=bool)
    gone[kept] = False
    size, lost = np.bincount(truth), np.bincount(truth[gone], minlength=truth.max() + 1)
    right = np.minimum(lost, size - 1).sum()
    return {
        "found": float((label[one] == label[other]).mean()),
        "sound": sound / max(claimed, 1),
        "removed": right / max((size - 1).sum(), 1),
        "rightly": right / max(gone.sum(), 1),
    }


# --- running ----------------------------------------------------------------------------------------------------------


def peers_python(folder: Path, links: Path | None) -> str:
    """The Python of the peers' venv in `folder`, made unless it is there."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print("installing the peers …", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        more = ["--find-links", str(links)] if links else []
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *more, *PACKAGES]
        subprocess.run(command, check=True)
        (folder / "complete").touch()
    return str(python)


def run_ours(corpus: Path, out: Path, threshold: float) -> tuple[Measured, list[int], dict[int, int]]:
    """(measured, kept ids, clusters) of our own search."""
    command = [sys.executable, str(Path(__file__).resolve()), "--ours", str(corpus), str(out), str(threshold)]
    run = _checked(measured(command, cwd=ROOT), "ours")
    group = np.load(out / "group.npy")
    shutil.rmtree(out)
    return run, np.flatnonzero(group == np.arange(len(group))).tolist(), dict(enumerate(group.tolist()))


def run_peer(
    python: str, setting: tuple[str, int, int], corpus: Path, out: Path, threshold: float, clusters: bool
) -> tuple[Measured, list[int], dict[int, int]]:
    """The same of a peer; clusters only if asked for, since they cost it time."""
    tool, bands, rows = setting
    place = corpus.with_name(corpus.name + "-spaced") if tool == "text-dedup" else corpus
    command = [python, str(PEERS), "run", tool, str(place), str(out), str(bands), str(rows), str(threshold)]
    run = _checked(measured([*command, str(int(clusters))], cwd=out.parent), tool)
    if not clusters:
        shutil.rmtree(out)
        return run, [], {}
    shown = subprocess.run([python, str(PEERS), "collect", tool, str(out)], check=True, stdout=subprocess.PIPE)
    found = json.loads(shown.stdout.splitlines()[-1])
    shutil.rmtree(out)
    return run, found["kept"], {int(number): cluster for number, cluster in found["clusters"].items()}


def _checked(run: Measured, name: str) -> Measured:
    if run.status:
        raise RuntimeError(f"{name} ended with status {run.status}:\n{run.errors[-3000:]}")
    return run


def compare(folder: Path, python: str, size: float, subset: int, threshold: float) -> tuple[str, bool]:
    """(the Markdown table, whether every tool came to its end)."""
    found = material()
    some = [text for _, text in itertools.islice(texts_of(found, subset * 1200), subset)]
    write_corpus(some, folder / "subset")
    pairs = similar_pairs(some, threshold)
    count, megabytes = write_corpus((text for _, text in texts_of(found, size * 1e6)), folder / "corpus")
    lines = [
        f"{count:,} documents, {megabytes:.0f} MB; quality on {len(some):,} documents with {len(pairs):,} pairs of "
        f"Jaccard >= {threshold:g}; {WORKERS} processes each\n",
        "| tool, bands x rows | s | MB/s | time / ours | peak GiB | found | sound | removed | rightly |",
        f"| --- |{' ---: |' * 8}",
    ]
    base, complete = float("nan"), True
    for setting in (None, *SETTINGS):
        name = "ours" if setting is None else f"{setting[0]}, {bands_shown(setting)}"
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            timed, quality = both(folder, python, setting, threshold, pairs, len(some))
        except RuntimeError as reason:
            print(reason, file=sys.stderr)
            lines.append(f"| {name} | failed |{' – |' * 7}")
            complete = False
            continue
        base = timed.seconds if setting is None else base
        cells = [f"{timed.seconds:.1f}", f"{megabytes / timed.seconds:.1f}", f"{timed.seconds / base:.2f}"]
        cells += [f"{timed.peak / GIB:.2f}", *(f"{value:.3f}" for value in quality.values())]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines), complete


def bands_shown(setting: tuple[str, int, int]) -> str:
    """How a setting's bands stand in the table."""
    return f"{setting[1]} x {setting[2]}" if setting[1] else "own choice"


def both(
    folder: Path, python: str, setting: tuple[str, int, int] | None, threshold: float, pairs: np.ndarray, count: int
) -> tuple[Measured, dict[str, float]]:
    """(the run on the corpus, the scores of the run on the subset of `count` documents) of one tool."""
    small, large, out = folder / "subset", folder / "corpus", folder / "out"
    try:
        if setting is None:
            _, kept, clusters = run_ours(small, out, threshold)
            timed, *_ = run_ours(large, out, threshold)
        else:
            _, kept, clusters = run_peer(python, setting, small, out, threshold, True)
            timed, *_ = run_peer(python, setting, large, out, threshold, False)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return timed, scores(kept, clusters, pairs, count)


# --- the claims of amplify.py -----------------------------------------------------------------------------------------


def repeated_share(texts: list[str]) -> float:
    """Share of characters that lie in a window of 75 characters that stands twice in `texts`. 64-bit window hashes."""
    # Each text ends in a private character; the ends differ, so that windows over an end are equal only by planting.
    whole = "".join(text + chr(0xF0000 + number % 65_000) for number, text in enumerate(texts))
    codes = np.frombuffer(whole.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    hashes = np.zeros(len(codes) - WINDOW + 1, dtype=np.uint64)
    for at in range(WINDOW):
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes += codes[at : at + len(hashes)] * np.uint64(0xD6E8FEB86659FD93)
    hashes ^= hashes >> np.uint64(29)
    order = np.argsort(hashes)
    equal = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    starts = np.unique(order[np.concatenate([equal, equal + 1])])
    change = np.bincount(starts, minlength=len(codes) + 1)
    change -= np.bincount(starts + WINDOW, minlength=len(codes) + 1)
    return float((np.cumsum(change[:-1]) > 0).mean())


def claims(size: float, subset: int) -> str:
    """Measured: near-duplicates among new records, Jaccard of near copies, repeated windows."""
    found = material()
    some = list(itertools.islice(texts_of(found, subset * 1800), int(subset * 1.6)))
    new = [text for kind, text in some if kind == "new"][:subset]
    near = {int(one) for pair in similar_pairs(new, 0.7)[:, :2] for one in pair}
    best: dict[int, float] = {}
    for _, other, similarity in similar_pairs([text for _, text in some], 0.5):
        best[int(other)] = max(best.get(int(other), 0), similarity)
    copies = [best.get(number, 0) for number, (kind, _) in enumerate(some) if kind == "near copy"]
    edges = [0, 0.5, 0.7, 0.8, 0.9, 0.98, 1.01]
    shares = np.histogram(copies, edges)[0] / len(copies)
    texts = list(texts_of(found, size * 1e6))
    plain = repeated_share([text for kind, text in texts if kind == "new"])
    every = repeated_share([text for _, text in texts])
    return "\n".join(
        [
            f"{len(near) / len(new):.4f} of {len(new):,} new records have another at Jaccard >= 0.7 (claim: < 0.02)",
            "near copies by Jaccard with the most similar earlier record: "
            + ", ".join(
                f"{low:g}-{high:g}: {share:.3f}" for low, high, share in zip(edges, edges[1:], shares, strict=False)
            ),
            f"characters in repeated {WINDOW}-character windows, {size:g} MB: new records {plain:.4f} (claim: < 0.2), "
            f"all {every:.4f}",
        ]
    )


def main() -> None:
    """See the module's docstring."""
    if sys.argv[1:2] == ["--ours"]:
        ours(Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
        return
    from qilin_lib import params

    stop_cleanly()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=None, help="MB of text; 200, with --claims 100")
    parser.add_argument("--subset", type=int, default=20_000, help="documents compared exhaustively")
    parser.add_argument("--venv", type=Path, help="the peers' venv, kept for the next run")
    parser.add_argument("--find-links", type=Path, help="a folder of wheels for pip")
    parser.add_argument("--claims", action="store_true", help="check what amplify.py claims, and nothing else")
    given = parser.parse_args()
    if given.claims:
        print(claims(given.size or 100, given.subset))
        return
    threshold = params.load("01_build_chimed", {"profile": PROFILE}).near_dup_threshold
    (ROOT / ".cache").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / ".cache"))
    try:
        python = peers_python((given.venv or folder / "venv").resolve(), given.find_links)
        shown, complete = compare(folder, python, given.size or 200, given.subset, threshold)
        print(shown)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
