"""The whole ChiMed build at growing sizes: wall time, phases and memory.

    QILIN_RAW_DIR=raw python tests/benchmarks/bench_build.py --sizes 0.3 1 3 --workers 2 [--keep-dir FOLDER]

Each size is a raw folder made by amplify.py (not timed), built in a fresh process with the parameters of the profile
full_a100. Memory is the sum over the build's processes of PSS (shared pages counted once; RSS where PSS cannot be
read), sampled every 0.2 s; mapped files count as far as they are in memory. FOLDER keeps the raw folders for the next
run. The exit status is 1 when a build failed or what was planted is not in the ledger.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from amplify import amplify

ROOT = Path(__file__).resolve().parents[2]
PROFILE = "full_a100"
# {how a phase's messages begin: its column}
PHASES = {
    "reading": "reading",
    "near-duplicates": "near-duplicates",
    "repeated substrings": "exact substrings",
    "writing": "writing",
}
SAMPLED_S = 0.2
GIB = 2**30


@dataclass
class Measured:
    """One finished process tree. `lines` are the lines of its standard output with the second each came."""

    seconds: float
    peak: int
    kind: str
    lines: list[tuple[float, str]]
    status: int
    errors: str


class Memory(threading.Thread):
    """Peak memory of a process and its descendants, as long as it runs."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.peak, self.kind = 0, "PSS"
        self._root, self._over = psutil.Process(process), threading.Event()

    def run(self) -> None:
        while not self._over.wait(SAMPLED_S):
            try:
                tree = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self.peak = max(self.peak, sum(map(self._of, tree)))

    def _of(self, process: psutil.Process) -> int:
        try:
            if self.kind == "PSS":
                return process.memory_full_info().pss
            return process.memory_info().rss
        except (psutil.AccessDenied, AttributeError):
            self.kind = "RSS"
            return self._of(process) if process.is_running() else 0
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return 0

    def stop(self) -> None:
        """End the sampling."""
        self._over.set()
        self.join()


def measured(command: list[str], **options: object) -> Measured:
    """Run a command to its end; the command is killed, with what it started, when we are interrupted."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, **options)
        memory = Memory(process.pid)
        memory.start()
        try:
            lines = [(time.perf_counter() - started, line.rstrip("\n")) for line in process.stdout]
            status = process.wait()
            seconds = time.perf_counter() - started
        finally:
            _end(process)
            memory.stop()
        errors.seek(0)
        return Measured(seconds, memory.peak, memory.kind, lines, status, errors.read())


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        for one in (*family, process):
            one.kill()
        process.wait()


def stop_cleanly() -> None:
    """Let a termination run the same clean-up as Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def child(raw: str, out: str, workers: int) -> None:
    """What the fresh process does: build, every progress message on a line of its own."""
    from qilin_lib import params
    from qilin_lib.chimed.build import build_sets

    given = params.load("01_build_chimed", {"profile": PROFILE, "workers": workers})
    build_sets(given, Path(raw), Path(out), lambda message: print(" ".join(message.split()), flush=True))


def phases(run: Measured) -> dict[str, float]:
    """{phase: seconds}: from the first message of a phase (of the second: from "reading: done") to that of the next."""
    starts: dict[str, float] = {}
    for moment, line in run.lines:
        name = next((name for begins, name in PHASES.items() if line.startswith(begins)), None)
        if line.startswith("reading: done"):
            name = "near-duplicates"
        if name is not None:
            starts.setdefault(name, moment)
    ends = [*list(starts.values())[1:], run.seconds]
    return {name: end - start for (name, start), end in zip(starts.items(), ends, strict=True)}


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def audit(ledger: dict, planted: dict) -> list[str]:
    """What the ledger must show of what was planted; one line a contradiction.

    A broken row must be rejected, a copy lost as a duplicate, a benchmark item as contaminated: each of these columns
    must reach 98 % of what was planted (an item too short to be told apart may stay).
    """
    # Each of our sources feeds exactly one of these three sets, so that they count a record once.
    rows = [row for row in ledger["sources"] if row["set"] in ("cpt", "dpo", "general")]
    found = {
        "broken row": sum(sum(row["rejected"].values()) for row in rows),
        "benchmark item": sum(row["contaminated"] for row in rows),
        "exact copy": sum(row["duplicate"] for row in rows),
    }
    return [
        f"{kind}: {planted['total'].get(kind, 0)} planted, only {count} found"
        for kind, count in found.items()
        if count < 0.98 * planted["total"].get(kind, 0)
    ]


def one_size(gigabytes: float, workers: int, folder: Path) -> dict | None:
    """Generate (unless it is there), build, measure; a row of the table, None when the build failed."""
    raw, out = folder / f"raw-{gigabytes:g}", folder / f"out-{gigabytes:g}"
    side = raw.with_name(raw.name + ".planted.json")
    if not side.exists():
        shutil.rmtree(raw, ignore_errors=True)
        amplify(raw, gigabytes * 1e9)
    planted = json.loads(side.read_text(encoding="utf-8"))
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(raw), str(out), str(workers)]
    print(f"building {gigabytes:g} GB, {planted['records']:,} records …", file=sys.stderr, flush=True)
    run = measured(command, cwd=ROOT)
    try:
        if run.status:
            print(f"{gigabytes:g} GB: the build failed ({run.status})\n{run.errors[-3000:]}", file=sys.stderr)
            return None
        ledger = json.loads((out / "ledger.json").read_text(encoding="utf-8"))
        return {"gigabytes": gigabytes, "planted": planted, "run": run, "ledger": ledger, "output": folder_size(out)}
    finally:
        shutil.rmtree(out, ignore_errors=True)


def kept_share(ledger: dict) -> float:
    """Records of set cpt that are kept, over those read."""
    rows = [row for row in ledger["sources"] if row["set"] == "cpt"]
    return sum(row["kept"] for row in rows) / max(sum(row["read"] for row in rows), 1)


def table(rows: list[dict]) -> str:
    """The Markdown table; the last column is time per GB relative to the first row.

    Start-up is everything before the first record is read: imports, and the index of the benchmarks. MinHash signatures
    are made while reading; "near-dup MB/s" is the text over the phase that compares them.
    """
    kind = rows[0]["run"].kind
    head = ["GB of text", "records", "wall s", "MB/s", "near-dup MB/s", f"peak GiB ({kind})", "kept share", "output GB"]
    lines = [[*head, "start-up s", *(f"{name} s" for name in PHASES.values()), "time per GB"]]
    lines.append(["---:"] * len(lines[0]))
    base = rows[0]["run"].seconds / rows[0]["gigabytes"]
    for row in rows:
        run, size, spent = row["run"], row["gigabytes"] * 1000, phases(row["run"])
        near = spent.get("near-duplicates")
        lines.append(
            [
                f"{row['gigabytes']:g}",
                f"{row['planted']['records']:,}",
                f"{run.seconds:.1f}",
                f"{size / run.seconds:.2f}",
                f"{size / near:.1f}" if near else "–",
                f"{run.peak / GIB:.2f}",
                f"{kept_share(row['ledger']):.3f}",
                f"{row['output'] / 1e9:.3f}",
                f"{run.seconds - sum(spent.values()):.1f}",
                *(f"{spent[name]:.1f}" if name in spent else "–" for name in PHASES.values()),
                f"{run.seconds / row['gigabytes'] / base:.2f}",
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> int:
    """Every size in turn, then the table."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return 0
    stop_cleanly()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.3, 1.0, 3.0], help="GB of UTF-8 text")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep-dir", type=Path, help="work here, and keep the raw folders for the next run")
    given = parser.parse_args()
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    folder = given.keep_dir or Path(tempfile.mkdtemp(prefix="bench-", dir=cache))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        rows = [one_size(size, given.workers, folder) for size in sorted(given.sizes)]
    finally:
        if given.keep_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
    done = [row for row in rows if row is not None]
    wrong = [f"{row['gigabytes']:g} GB: {line}" for row in done for line in audit(row["ledger"], row["planted"])]
    if done:
        print(
            f"ChiMed build, profile {PROFILE}, {given.workers} workers, {psutil.cpu_count()} cores\n\n{table(done)}\n"
        )
    print("\n".join(["", *wrong]) if wrong else "\nthe ledger holds what was planted")
    return 1 if wrong or len(done) < len(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
