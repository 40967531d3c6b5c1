"""Runs: a folder runs/<name>/ with one folder per stage.

manifest.json is written last, so a stage without one did not happen. A stage's key is the sha256 of the parameters that
move its result, the digests of its inputs and its declared VERSION. Equal key: nothing to do. A stage whose key differs
is moved to `<stage>.old-<digest>`, never deleted, and comes back when its key is asked for again. The digest of a
manifest covers output bytes; children name their parents' digests, a chain back to the raw files.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qilin_lib import chains, files
from qilin_lib.annotations import outside_key
from qilin_lib.errors import QilinError, nearest
from qilin_lib.params import ROOT
from qilin_lib.runs import environment, locks
from qilin_lib.runs.settings import LATER, result_settings
from qilin_lib.schema import Strict

# What each stage of the default chain reads from.
PARENTS = chains.graph(chains.DEFAULT)
# By notebook. Raise a number by hand in the commit that moves its results; golden and byte tests say when.
VERSION = dict.fromkeys(PARENTS, 2) | {
    "01_build_chimed": 10,
    "02_tokenize": 3,
    "05_dpo": 5,
    "06_eval": 10,
    "08_rlhf": 6,
    "09_bias": 10,
}
# Timings differ between two makings of the same bytes; equal bytes keep children valid.
UNSTABLE = (".log", "log.jsonl", "facts.json")
# Where a stage says what it was made from, or is being made from.
NOTES = ("manifest.json", "in_progress.json")


def runs_dir() -> Path:
    """Where runs live: QILIN_RUNS_DIR, or runs/ beside the notebooks. QilinError if that is a file."""
    return _folder("QILIN_RUNS_DIR", "runs")


def cache_dir() -> Path:
    """Where reusable artefacts (tiny base, endpoint answers) live: QILIN_CACHE_DIR, or .cache/ beside the notebooks."""
    return _folder("QILIN_CACHE_DIR", ".cache")


def _folder(variable: str, usual: str) -> Path:
    folder = Path(os.environ.get(variable) or ROOT / usual).expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise QilinError(f"{variable} = {str(folder)!r}: a file; nearest valid: a folder")
    return folder


def find(name: str, what: str = "run") -> Run:
    """The run of that name. QilinError, about `what`, with the nearest name if there is none."""
    there = sorted(path.name for path in runs_dir().glob("*") if path.is_dir())
    if name in there:
        return Run(runs_dir() / name)
    listed = f"there are {', '.join(there)}" if there else "there is none: run `make smoke` first"
    raise QilinError(f"{what} '{name}': no such run in {runs_dir()}{nearest(name, there)}; {listed}")


@dataclass(frozen=True)
class Run:
    """A run, for those who read it."""

    dir: Path

    @property
    def name(self) -> str:
        return self.dir.name

    def folder(self, stage: str) -> Path:
        """A stage's folder, finished or not; a stage shared with another run is a link to its folder there."""
        return self.dir / stage

    def finished(self, stage: str) -> bool:
        return (self.folder(stage) / "manifest.json").exists()

    def manifest(self, stage: str) -> dict[str, Any]:
        """The manifest of a finished stage; QilinError says which notebook to run when there is none."""
        path = self.folder(stage) / "manifest.json"
        if not path.exists():
            raise QilinError(
                f"run '{self.name}' has no finished {stage}: run {chains.shown_by(stage)} first "
                f"(or: python -m qilin_lib.pipeline PROFILE --run {self.name})"
            )
        manifest = _note(path.parent)
        if not {"key", "digest", "inputs", "outputs"} <= manifest.keys():
            raise QilinError(
                f"{path}: cut, or not a manifest of this kit (key, digest, inputs or outputs is missing); restore it, "
                f"or make the stage again: python -m qilin_lib.pipeline PROFILE --run {self.name} --force --only "
                f"{chains.short(stage)}"
            )
        return manifest

    @property
    def chain(self) -> list[str]:
        """The chain of what was made here last; the default one if nothing was."""
        notes = [path for name in NOTES for path in self.dir.glob(f"[0-9][0-9]_*/{name}")]
        own = [path for path in notes if ".old-" not in path.parent.name]
        # A stage that is shared with another run may stand in another chain there.
        newest = max(own, key=lambda path: (not path.parent.is_symlink(), path.stat().st_mtime_ns), default=None)
        parameters = _read(newest).get("parameters", {}) if newest else {}
        return parameters.get("chain", list(chains.DEFAULT))

    def parents(self, stage: str) -> tuple[str, ...]:
        """The stages that a stage was made from; those it would be made from if it was not."""
        inputs = _note(self.folder(stage)).get("inputs")
        if inputs is None:
            return chains.graph(self.chain).get(stage, ())
        return tuple(name for name, value in inputs.items() if isinstance(value, str))

    def acceptances(self, stage: str) -> list[dict[str, Any]]:
        """What `--accept` noted about a stage: [{stage, when, reason, key, inputs, files}], oldest first."""
        path = self.dir / f"{stage}.accepted.json"
        notes = files.read_json(path) if path.exists() else []
        known = {"stage", "when", "reason", "key", "inputs", "files"}
        if not isinstance(notes, list) or not all(isinstance(note, dict) and known <= note.keys() for note in notes):
            raise QilinError(f"{path}: not what --accept writes; restore it, or delete it and accept the stage again")
        return notes

    def old(self, stage: str = "[0-9][0-9]_*") -> list[Path]:
        """Folders of stages that were moved aside, oldest first."""
        return sorted(self.dir.glob(f"{stage}.old-*"), key=lambda path: (path.stat().st_mtime_ns, path.name))

    def digests(self, stage: str, graph: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
        """{parent: digest} of what `stage` stands on by `graph`, after checking that the whole chain above is there,
        fits, and is what its manifests say."""
        seen: dict[str, str] = {}
        return {parent: self._digest(parent, stage, seen, graph) for parent in graph[stage]}

    def line_of(self, stage: str, needed_by: str) -> dict[str, dict[str, Any]]:
        """{name: manifest} of `stage` and of all it stands on, first to last, checked as `digests` checks."""
        self._digest(stage, needed_by, seen := {}, {**chains.graph(self.chain), stage: self.parents(stage)})
        return {name: self.manifest(name) for name in sorted(seen)}

    def _digest(self, stage: str, needed_by: str, seen: dict[str, str], graph: Mapping[str, tuple[str, ...]]) -> str:
        if stage in seen:
            return seen[stage]
        if not self.finished(stage):
            first = stage
            while missing := [parent for parent in graph[first] if not self.finished(parent)]:
                first = missing[0]
            raise QilinError(
                f"{needed_by} needs {stage}, which run '{self.name}' does not have: run {chains.shown_by(first)} first"
            )
        manifest = self.manifest(stage)
        notes = [note["inputs"] for note in self.acceptances(stage)]
        accepted = {key for inputs in notes for key in inputs.items()}
        other = [name for name in self.parents(stage) if chains.trains(name) and name not in graph[stage]]
        why = f"{needed_by} needs {stage}, but {stage} of run '{self.name}'"
        again = f"run {chains.shown_by(stage)} again"
        if other and set(graph[stage]) not in map(set, notes):
            raise QilinError(f"{why} stands on {other[0]}, as another chain has it: {again}")
        for parent in graph[stage]:
            digest = self._digest(parent, needed_by, seen, graph)
            if digest != manifest["inputs"].get(parent) and (parent, digest) not in accepted:
                raise QilinError(f"{why} was made from an older {parent}: {again}")
        self.check(stage, manifest)
        seen[stage] = manifest["digest"]
        return seen[stage]

    def check(self, stage: str, manifest: dict[str, Any], every_byte: bool = False) -> None:
        """QilinError for the first output of a stage that is not what its manifest says.

        Size and time tell; a file whose time differs is hashed, with `every_byte` all are.
        """
        known = {name: sha for note in self.acceptances(stage) for name, sha in note["files"].items()}
        for name, entry in manifest["outputs"].items():
            path, problem = self.folder(stage) / name, "is gone"
            entry = {"sha256": known[name]} if name in known else entry
            if path.exists():
                state = path.stat()
                digest = files.sha256_file if every_byte else files.sha256_once
                untouched = not every_byte and state.st_mtime_ns == entry.get("mtime_ns")
                fits = state.st_size == entry.get("bytes", state.st_size)
                if fits and (untouched or digest(path) == entry["sha256"]):
                    continue
                problem = f"is not what {stage} wrote (sha256 {entry['sha256'][:12]})"
            raise QilinError(
                f"{path} {problem}: restore it, or make the stage again (--force --only {chains.short(stage)}), or "
                f"take what is there (--accept {chains.short(stage)})"
            )


@dataclass
class Stage:
    """One notebook's folder in a run. `up_to_date`: every product is there already, load it, do not make it again.

    `raw` is the folder of raw files (01). Work begins with `begin()` and ends with `finish()`.
    """

    parameters: Strict
    run_dir: Path
    key: str
    inputs: dict[str, Any]
    up_to_date: bool
    raw: Path | None = None
    read: dict[Path, tuple[int, int]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        return self.parameters.folder

    @property
    def run(self) -> Run:
        return Run(self.run_dir)

    @property
    def dir(self) -> Path:
        """The stage's own folder; everything the stage writes goes here."""
        return self.run_dir / self.name

    def parent(self, name: str) -> Path:
        """Folder of a parent stage, e.g. `stage.parent("02_tokenize")`."""
        parents = chains.graph(self.parameters.chain)[self.name]
        if name not in parents:
            raise QilinError(f"{self.name} does not stand on {name}; it stands on {list(parents)}")
        return self.run.folder(name)

    def facts(self, name: str) -> dict[str, Any]:
        """What a parent stage reported in its manifest under `facts`."""
        return self.run.manifest(name)["facts"]

    def begin(self, follow: Callable[[str], None] | None = None) -> None:
        """Become the stage's one writer, move aside what another key left, note what is being made.

        Nothing happens if the stage is up to date. Where another process works on it QilinError says who, since when;
        with `follow`, and the same key, its progress is shown until it ends, and what it left counts.
        """
        if self.up_to_date:
            return
        lock = self.run_dir / f".{self.name}.lock"
        locks.acquire(lock, self.key, follow)
        with files.naming(self.dir):
            # A link to another run's stage that is not up to date there is none here either.
            if self.dir.is_symlink() or _note(self.dir).get("key") != self.key or self.forced.exists():
                self._make_room()
            # Another process finished it while this one waited, or it was moved aside and is back.
            self.up_to_date = self.run.finished(self.name)
            if self.up_to_date:
                locks.release(lock)
            elif not (self.dir / "in_progress.json").exists():
                note = {"key": self.key, "parameters": self.parameters.model_dump(mode="json"), "inputs": self.inputs}
                files.write_json(self.dir / "in_progress.json", note)

    def _make_room(self) -> None:
        """Move aside what stands in the stage's place, and bring back unfinished work of this very key."""
        before = changes(self)
        if self.dir.is_symlink():
            self.dir.unlink()
        if self.dir.exists() and any(self.dir.iterdir()):
            note, number = _note(self.dir), 2
            old = target = f"{self.name}.old-{note.get('digest', note.get('key', 'unknown'))[:8]}"
            while (self.run_dir / target).exists():
                target, number = f"{old}+{number}", number + 1
            self.dir.rename(self.run_dir / target)
            print(f"{self.name}: {before or 'made again'}; what was there is now {target}")
        same = [] if self.forced.exists() else aside(self)
        self.forced.unlink(missing_ok=True)
        if same:
            if self.dir.exists():
                self.dir.rmdir()
            same[0].rename(self.dir)
            print(f"{self.name}: {same[0].name} was made with these parameters and is back")

    @property
    def forced(self) -> Path:
        """There if the stage is to be made again although it is up to date."""
        return self.run_dir / f".{self.name}.force"

    def finish(self, **facts: Any) -> dict[str, Any]:
        """Write manifest.json, last; returns the manifest. `facts` must be plain JSON. Does nothing if up to date.

        QilinError if a raw file changed since it was hashed: what was read is not what the key says.
        """
        if self.up_to_date:
            return self.run.manifest(self.name)
        self.begin()
        for path, state in self.read.items():
            if not path.exists() or (path.stat().st_size, path.stat().st_mtime_ns) != state:
                raise QilinError(
                    f"{path} changed while {self.name} was working: run {chains.shown_by(self.name)} again"
                )
        # Of a process that was killed while it wrote (`files.atomic`).
        for left in self.dir.rglob(".*.tmp"):
            if left.is_file():
                left.unlink()
        outputs = {}
        for path in sorted(self.dir.rglob("*")):
            name = path.relative_to(self.dir)
            if path.is_file() and name.name != "in_progress.json" and "checkpoints" not in name.parts:
                size, time_ns = path.stat().st_size, path.stat().st_mtime_ns
                outputs[str(name)] = {"sha256": files.sha256_file(path), "bytes": size, "mtime_ns": time_ns}
        # The digest leaves out training logs and facts: they hold timings, and equal bytes should keep children valid.
        lasting = {name: entry["sha256"] for name, entry in outputs.items() if not name.endswith(UNSTABLE)}
        manifest = {
            "stage": self.name,
            "digest": files.sha256_text(json.dumps([self.name, lasting], sort_keys=True)),
            "key": self.key,
            "version": VERSION[self.parameters.notebook],
            "parameters": self.parameters.model_dump(mode="json"),
            "inputs": self.inputs,
            "outputs": outputs,
            "facts": facts,
            "environment": environment.describe(),
            "wall_seconds": round(time.monotonic() - self.started, 1),
            "peak_memory_mb": environment.peak_memory_mb(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        files.write_json(self.dir / "manifest.json", manifest)
        shutil.rmtree(self.dir / "checkpoints", ignore_errors=True)
        (self.dir / "in_progress.json").unlink(missing_ok=True)
        locks.release(self.run_dir / f".{self.name}.lock")
        return manifest


def key(parameters: Strict, inputs: dict[str, Any]) -> str:
    """sha256 over what decides a stage's result: see the head of this file."""
    settings = result_settings(parameters.model_dump(mode="json"), outside_key(type(parameters)))
    return files.sha256_text(json.dumps([settings, inputs, VERSION[parameters.notebook]], sort_keys=True))


def changes(stage: Stage) -> str:
    """What differs between a stage and what stands in its place: "learning_rate was 0.006, is 0.003"; "" if nothing."""
    before, outside, notebook = _note(stage.dir), outside_key(type(stage.parameters)), stage.parameters.notebook
    if not before:
        return ""
    old = result_settings(stage.parameters.model_dump(mode="json") | before.get("parameters", {}), outside)
    new = result_settings(stage.parameters.model_dump(mode="json"), outside)
    old, new = LATER | old, {name: LATER[name] for name in LATER if name in old} | new
    told = [f"{name} was {old.get(name)!r}, is {new[name]!r}" for name in new if old.get(name) != new[name]]
    inputs = before.get("inputs", {})
    told += [f"its input {name} changed" for name in stage.inputs if inputs.get(name) != stage.inputs[name]]
    if before.get("version", VERSION[notebook]) != VERSION[notebook]:
        told.append(f"this version of the kit makes {stage.name} in another way")
    return ", ".join(told)


def aside(stage: Stage) -> list[Path]:
    """Folders of a stage that were moved aside and have its key, finished ones first, then the newest."""
    same = [path for path in reversed(stage.run.old(stage.name)) if _note(path).get("key") == stage.key]
    return sorted(same, key=lambda path: not (path / "manifest.json").exists())


def _note(folder: Path) -> dict[str, Any]:
    return next((_read(folder / name) for name in NOTES if (folder / name).exists()), {})


def _read(path: Path) -> dict[str, Any]:
    """A note; nothing of one that a copy or a full disk cut: who needs it says so, and --force makes another."""
    try:
        note = files.read_json(path)
    except QilinError:
        return {}
    return note if isinstance(note, dict) else {}


def read_manifest(run_dir: Path, name: str) -> dict[str, Any]:
    """`Run(run_dir).manifest(name)`."""
    return Run(Path(run_dir)).manifest(name)
