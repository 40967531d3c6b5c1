"""Runs: a folder runs/<name>/ with one stage folder a notebook.

manifest.json is written last, so a stage without one did not happen. A stage's key is the sha256 of its parameters,
its inputs and the code it uses. Equal key: nothing to do. The digest of a manifest covers key and output bytes;
children name their parents' digests, a chain back to the raw files.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from qilin_lib import closure, files
from qilin_lib.errors import QilinError
from qilin_lib.params import ROOT
from qilin_lib.schema import Strict

# Which stages a stage reads from. 06 and 07 read everything: the report shows the whole chain.
PARENTS: dict[str, tuple[str, ...]] = {
    "01_build_chimed": (),
    "02_tokenize": ("01_build_chimed",),
    "03_dcpt": ("02_tokenize",),
    "04_sft": ("01_build_chimed", "02_tokenize", "03_dcpt"),
    "05_dpo": ("01_build_chimed", "02_tokenize", "04_sft"),
    "06_eval": ("01_build_chimed", "02_tokenize", "03_dcpt", "04_sft", "05_dpo"),
    "07_case_study": ("01_build_chimed", "02_tokenize", "03_dcpt", "04_sft", "05_dpo", "06_eval"),
    "08_rlhf": ("01_build_chimed", "02_tokenize", "04_sft", "05_dpo"),
    "09_bias": ("02_tokenize", "03_dcpt", "04_sft", "05_dpo", "08_rlhf"),
}
# These parameters do not change what a stage makes: names, the number of workers, where training is reported.
OUTSIDE_KEY = frozenset({"run", "profile", "workers", "processes", "dry_run", "report_to"})
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "bitsandbytes",
    "deepspeed",
    "tokenizers",
    "numpy",
    "pandas",
    "sacrebleu",
    "rouge-score",
    "papermill",
)


def runs_dir() -> Path:
    """Where runs live: QILIN_RUNS_DIR, or runs/ beside the notebooks."""
    return Path(os.environ.get("QILIN_RUNS_DIR", ROOT / "runs")).resolve()


def cache_dir() -> Path:
    """Where reusable artefacts (sample data, tiny base) live: QILIN_CACHE_DIR, or .cache/ beside the notebooks."""
    return Path(os.environ.get("QILIN_CACHE_DIR", ROOT / ".cache")).resolve()


@dataclass
class Stage:
    """One notebook's folder in a run. `up_to_date`: every product is there already, load it, do not make it again."""

    parameters: Strict
    run_dir: Path
    key: str
    inputs: dict[str, Any]
    up_to_date: bool
    started: float = field(default_factory=time.time)

    @property
    def name(self) -> str:
        return self.parameters.notebook

    @property
    def dir(self) -> Path:
        """The stage's own folder; everything the stage writes goes here."""
        return self.run_dir / self.name

    def parent(self, name: str) -> Path:
        """Folder of a parent stage, e.g. `stage.parent("02_tokenize")`."""
        if name not in PARENTS[self.name]:
            raise QilinError(f"{self.name} does not stand on {name}; it stands on {list(PARENTS[self.name])}")
        return self.run_dir / name

    def facts(self, name: str) -> dict[str, Any]:
        """What a parent stage reported in its manifest under `facts`."""
        return read_manifest(self.run_dir, name)["facts"]

    def finish(self, **facts: Any) -> dict[str, Any]:
        """Write manifest.json, last; returns the manifest. `facts` must be plain JSON. Does nothing if up to date."""
        if self.up_to_date:
            return read_manifest(self.run_dir, self.name)
        outputs = {
            str(path.relative_to(self.dir)): {"sha256": files.sha256_file(path), "bytes": path.stat().st_size}
            for path in sorted(self.dir.rglob("*"))
            if path.is_file()
            and path.name != "in_progress.json"
            and "checkpoints" not in path.relative_to(self.dir).parts
        }
        # The digest leaves out training logs and facts: they hold timings, and equal bytes should keep children valid.
        lasting = {name: entry["sha256"] for name, entry in outputs.items() if not name.endswith((".log", "log.jsonl"))}
        manifest = {
            "stage": self.name,
            "digest": files.sha256_text(json.dumps([self.key, lasting], sort_keys=True)),
            "key": self.key,
            "parameters": self.parameters.model_dump(mode="json"),
            "inputs": self.inputs,
            "outputs": outputs,
            "facts": facts,
            "environment": _environment(),
            "wall_seconds": round(time.time() - self.started, 1),
            "peak_memory_mb": _peak_memory_mb(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        files.write_json(self.dir / "manifest.json", manifest)
        shutil.rmtree(self.dir / "checkpoints", ignore_errors=True)
        (self.dir / "in_progress.json").unlink(missing_ok=True)
        return manifest


def open_stage(parameters: Strict, raw: Path | None = None) -> Stage:
    """Open a notebook's stage: find its parents, decide whether there is anything to do, keep or clear partial work.

    `raw` is the raw folder (01 only); its files are hashed. A parent that is missing or stale raises QilinError with
    one sentence that says which notebook to run. Partial work of the same key is kept (training resumes from it).
    """
    stage = inspect_stage(parameters, raw)
    if stage.up_to_date:
        return stage
    note = stage.dir / "in_progress.json"
    if not (note.exists() and files.read_json(note)["key"] == stage.key):
        shutil.rmtree(stage.dir, ignore_errors=True)
    files.write_json(note, {"key": stage.key, "parameters": parameters.model_dump(mode="json"), "inputs": stage.inputs})
    return stage


def inspect_stage(parameters: Strict, raw: Path | None = None) -> Stage:
    """Like `open_stage`, but touches nothing on disk."""
    run_dir = runs_dir() / parameters.run
    inputs: dict[str, Any] = {
        name: _digest(run_dir, name, needed_by=parameters.notebook) for name in PARENTS[parameters.notebook]
    }
    if raw is not None:
        inputs["raw"] = raw_hashes(raw)
    base = getattr(parameters, "base", None)
    if base is not None and (ROOT / base).is_dir():
        inputs["base"] = raw_hashes(ROOT / base)
    if deepspeed := getattr(parameters, "deepspeed", None):
        inputs["deepspeed"] = files.sha256_file(ROOT / "params" / "deepspeed" / f"{deepspeed}.json")
    if scales := getattr(parameters, "scales", None):
        inputs["scales"] = _scale_hashes(scales)
    settings = parameters.model_dump(mode="json", exclude=set(OUTSIDE_KEY))
    key = files.sha256_text(json.dumps([settings, inputs, closure.code_hash(parameters.notebook)], sort_keys=True))
    path = run_dir / parameters.notebook / "manifest.json"
    return Stage(parameters, run_dir, key, inputs, path.exists() and files.read_json(path)["key"] == key)


def _scale_hashes(names: list[str]) -> dict[str, str]:
    """sha256 of each scale's file; one that is not there is left to its reader, which says so."""
    shipped = ROOT / "qilin_lib" / "evaluate" / "data" / "scales"
    paths = {name: (shipped / f"{name}.yaml", ROOT / name) for name in names}
    found = {name: next((path for path in both if path.is_file()), None) for name, both in paths.items()}
    return {name: files.sha256_file(path) for name, path in found.items() if path}


def read_manifest(run_dir: Path, name: str) -> dict[str, Any]:
    """The manifest of a finished stage; QilinError says which notebook to run when there is none."""
    path = run_dir / name / "manifest.json"
    if not path.exists():
        raise QilinError(
            f"run '{run_dir.name}' has no finished {name}: run notebooks/{name}.ipynb first "
            f"(or: python -m qilin_lib.pipeline PROFILE --run {run_dir.name})"
        )
    return files.read_json(path)


def remove_stage(run: str, name: str) -> None:
    """Forget a stage, so that it is made again (--force)."""
    shutil.rmtree(runs_dir() / run / name, ignore_errors=True)


def _digest(run_dir: Path, name: str, needed_by: str) -> str:
    """Digest of a parent, after checking that the parent itself stands on what is there now."""
    path = run_dir / name / "manifest.json"
    if not path.exists():
        raise QilinError(
            f"{needed_by} needs {name}, which run '{run_dir.name}' does not have: "
            f"run notebooks/{_first_missing(run_dir, name)}.ipynb first"
        )
    manifest = files.read_json(path)
    for grandparent in PARENTS[name]:
        if _digest(run_dir, grandparent, needed_by) != manifest["inputs"][grandparent]:
            raise QilinError(
                f"{needed_by} needs {name}, but {name} of run '{run_dir.name}' was made from an older "
                f"{grandparent}: run notebooks/{name}.ipynb again"
            )
    return manifest["digest"]


def _first_missing(run_dir: Path, name: str) -> str:
    for parent in PARENTS[name]:
        if not (run_dir / parent / "manifest.json").exists():
            return _first_missing(run_dir, parent)
    return name


def raw_hashes(raw: Path) -> dict[str, str]:
    """sha256 of every file below `raw`, by relative path; QilinError if the folder does not exist or is empty.

    A file that cannot be read has its reason instead: the build counts it as a rejection.
    """
    if not raw.is_dir():
        raise QilinError(f"raw_dir = {str(raw)!r}: no such folder")
    found = {str(p.relative_to(raw)): _hash_or_reason(p) for p in sorted(raw.rglob("*")) if p.is_file()}
    if not found:
        raise QilinError(f"raw_dir = {str(raw)!r}: the folder holds no file")
    return found


def _hash_or_reason(path: Path) -> str:
    try:
        return files.sha256_file(path)
    except OSError as reason:
        return f"unreadable: {reason.strerror}"


def _peak_memory_mb() -> float:
    """Largest resident set (MB) of this process or of any child that ended."""
    return round(
        max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024, 1
    )


@cache
def _environment() -> dict[str, Any]:
    """Versions, hardware and git state; a version of None means the package is not installed."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader").splitlines(),
        "git_commit": _output("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "git_dirty": bool(_output("git", "-C", str(ROOT), "status", "--porcelain")),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    """Standard output of a command, or the empty string where the program is missing or says no."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
