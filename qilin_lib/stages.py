"""Opening a notebook's stage: what it reads, whether it is there already, what must be refused before work begins."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qilin_lib import chains, files, runs, sample
from qilin_lib.errors import QilinError, nearest
from qilin_lib.params import ROOT
from qilin_lib.runs import Run, Stage, environment
from qilin_lib.schema import Strict, Trained


def open_stage(parameters: Strict) -> Stage:
    """The stage of a notebook, checked: parents there and whole, machine and settings possible.

    Nothing is written but links to stages of `from_run`, and a finished stage of this key that was moved aside comes
    back. Raises QilinError with one sentence: a missing, stale or damaged parent, too few GPUs, a missing package.
    """
    share(parameters)
    stage = inspect_stage(parameters)
    if not stage.up_to_date:
        check(stage)
        if not stage.forced.exists() and any((path / "manifest.json").exists() for path in runs.aside(stage)):
            # What was finished under this key takes its place again, and what stands there moves aside.
            stage.begin()
    if stage.up_to_date:
        manifest = stage.run.manifest(stage.name)
        told = [
            f"{stage.name}: finished {manifest['finished']}",
            environment.provenance(manifest),
            _unmoved(stage, manifest),
        ]
        print(", ".join(text for text in told if text))
    return stage


def inspect_stage(parameters: Strict) -> Stage:
    """Like `open_stage`, but checks nothing beyond the chain and touches nothing on disk."""
    run = Run(runs.runs_dir() / parameters.run)
    stage = _keyed(parameters, run, run.digests(parameters.folder, _graph(parameters)))
    if run.finished(stage.name) and not stage.forced.exists():
        manifest = run.manifest(stage.name)
        keys = {manifest["key"], *(note["key"] for note in run.acceptances(stage.name))}
        if stage.key in keys:
            run.check(stage.name, manifest)
            stage.up_to_date = True
    return stage


def _graph(parameters: Strict) -> dict[str, tuple[str, ...]]:
    """{stage: its parents} of the run; QilinError if the parameters are of a training that its chain lacks."""
    graph = chains.graph(parameters.chain)
    if parameters.folder not in graph:
        raise QilinError(
            f"{parameters.folder}: chain {parameters.chain} has no such training; nearest valid: {list(graph)}"
        )
    return graph


def _keyed(parameters: Strict, run: Run, parents: dict[str, str]) -> Stage:
    """The stage with the key that its parameters, the digests of its `parents` and the files it reads give."""
    raw = raw_folder(parameters) if parameters.notebook == chains.BUILD else None
    read = _files_read(parameters, raw)
    inputs = parents | {kind: files.hashes(paths) for kind, paths in read.items()}
    return Stage(parameters, run.dir, runs.key(parameters, inputs), inputs, False, raw, dict(_states(read)))


def raw_folder(parameters: Strict) -> Path:
    """The raw folder of 01: `raw_dir`, or the embedded sample. QilinError if the folder is not there or empty."""
    named = parameters.raw_dir
    raw = sample.raw_dir() if named is None else (ROOT / Path(named).expanduser()).resolve()
    if not raw.is_dir():
        raise QilinError(f"raw_dir = '{named}': {raw} is not a folder; null takes the embedded sample")
    if not any(path.is_file() for path in _below(raw)):
        raise QilinError(f"raw_dir = {str(raw)!r}: the folder holds no file")
    return raw


def _below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (Path(parent) / name for name in names)


def _files_read(parameters: Strict, raw: Path | None) -> dict[str, dict[str, Path]]:
    """{kind of input: {name: path}} of the files that a notebook reads from outside the run."""
    read: dict[str, dict[str, Path]] = {}
    if raw is not None:
        from qilin_lib.chimed import sources

        read["raw"] = sources.files_read(raw, parameters.sources)
    base = getattr(parameters, "base", None)
    if base is not None and (ROOT / base).is_dir():
        from qilin_lib.models import base as bases

        read["base"] = bases.files_read(bases.local(base))
    if constructed := getattr(parameters, "constructed", None):
        from qilin_lib.train import construction

        read |= construction.outside(constructed)
    if unified := getattr(getattr(parameters, "one_stage", None), "unified", None):
        read["unified"] = {Path(unified).name: ROOT / unified}
    if scales := getattr(parameters, "scales", None):
        # One that is not there is left to its reader, which says so.
        shipped = ROOT / "qilin_lib" / "evaluate" / "data" / "scales"
        paths = {name: (shipped / f"{name}.yaml", ROOT / name) for name in scales}
        read["scales"] = {name: path for name, both in paths.items() for path in both if path.is_file()}
    return read


def _states(read: dict[str, dict[str, Path]]) -> Iterator[tuple[Path, tuple[int, int]]]:
    for paths in read.values():
        for path in paths.values():
            if path.exists():
                yield path, (path.stat().st_size, path.stat().st_mtime_ns)


def check(stage: Stage) -> None:
    """What can be refused before anything is moved or made. Raises QilinError."""
    parameters = stage.parameters
    if stage.name == chains.BUILD:
        from qilin_lib.chimed import build

        build.chosen_sources(parameters, stage.raw)
    if hasattr(parameters, "gpus"):
        from qilin_lib.train import checkpoints, checks, launch

        launch.check_gpus(parameters)
        if isinstance(parameters, Trained):
            launch.check_compiler(parameters)
            checks.check(stage)
            checkpoints.refuse_other_layout(stage)


def _unmoved(stage: Stage, manifest: dict[str, Any]) -> str:
    """Parameters that differ from the finished stage's and do not move its result."""
    before, now = manifest["parameters"], stage.parameters.model_dump(mode="json")
    quiet = {"run", "profile", "from_run", "chain", "stage", "dry_run", "workers", "processes"}
    told = [f"{name} {before[name]!r} (now {now[name]!r})" for name in now if name in before and name not in quiet
            and before[name] != now[name]]  # fmt: skip
    return f"made with {', '.join(told)}: no result moves" if told else ""


# --- stages of another run --------------------------------------------------------------------------------------------


def share(parameters: Strict) -> str:
    """Let the run stand on the finished stages of `from_run`: parents that it lacks, and this one if its key is equal.

    Returns "shared with run 'a'" if this stage itself is a link now, else "". A link takes no room, and what is remade
    in the other run shows by its digest.
    """
    source, target = parameters.from_run, Run(runs.runs_dir() / parameters.run)
    if not source or source == parameters.run:
        return ""
    other = runs.find(source, "from_run")
    for name in _ancestors(parameters.folder, _graph(parameters)):
        if not target.folder(name).exists() and other.finished(name):
            _link(target, other, name)
    name = parameters.folder
    if target.folder(name).exists() or not other.finished(name):
        return ""
    if inspect_stage(parameters).key != other.manifest(name)["key"]:
        return ""
    _link(target, other, name)
    return f"shared with run '{source}'"


def _ancestors(name: str, graph: dict[str, tuple[str, ...]]) -> list[str]:
    above = {name for parent in graph[name] for name in (*_ancestors(parent, graph), parent)}
    return sorted(above)


def _link(target: Run, other: Run, name: str) -> None:
    target.dir.mkdir(parents=True, exist_ok=True)
    link = target.folder(name)
    link.unlink(missing_ok=True)
    # A run's folder may itself be a link to another disk.
    link.symlink_to(os.path.relpath(other.folder(name), target.dir.resolve()))


# --- what the command does to stages ----------------------------------------------------------------------------------


def force(run: str, names: list[str]) -> None:
    """Have finished stages made again: each is moved aside when its notebook begins to work."""
    folder = Run(runs.runs_dir() / run)
    for name in names:
        if folder.folder(name).exists():
            files.write_text(folder.dir / f".{name}.force", "")


def accept(parameters: Strict) -> str:
    """Take a finished stage for what these parameters and inputs ask for; returns the reason that was noted.

    The manifest stays. The note, `<stage>.accepted.json` beside the folder, stands under every table that rests on it.
    """
    run, name = Run(runs.runs_dir() / parameters.run), parameters.folder
    manifest, outputs = run.manifest(name), {}
    for file, entry in manifest["outputs"].items():
        path = run.folder(name) / file
        if not path.exists():
            raise QilinError(
                f"{path} is gone: nothing to accept; make the stage again (--force --only {chains.short(name)})"
            )
        if (sha := files.sha256_file(path)) != entry["sha256"]:
            outputs[file] = sha
    parents = {parent: run.manifest(parent)["digest"] for parent in _graph(parameters)[name]}
    stage = _keyed(parameters, run, parents)
    told = runs.changes(stage)
    reason = "; ".join(text for text in (told, f"changed by hand: {', '.join(outputs)}" if outputs else "") if text)
    if not reason:
        return ""
    note = {"stage": name, "when": time.strftime("%F %T"), "reason": reason}
    note |= {"key": stage.key, "inputs": parents, "files": outputs}
    files.write_json(run.dir / f"{name}.accepted.json", [*run.acceptances(name), note])
    return reason


def verify(run: str) -> Iterator[str]:
    """One line per finished stage, after hashing every file; QilinError at the first that differs, or without any."""
    folder = runs.find(run)
    paths = sorted(folder.dir.glob("[0-9][0-9]_*/manifest.json"))
    names = [path.parent.name for path in paths if ".old-" not in path.parent.name]
    if not names:
        raise QilinError(f"run '{run}' has no finished stage, so there is nothing to verify; run 01_build_chimed first")
    for name in names:
        manifest = folder.manifest(name)
        folder.check(name, manifest, every_byte=True)
        yield f"{name}: {len(manifest['outputs'])} files are what the manifest says"


def remove_old(run: str, names: list[str]) -> Iterator[str]:
    """Without names a line per old stage of a run with its size; with names those are removed for good."""
    folder = runs.find(run)
    old = {path.name: path for path in folder.old()}
    for name in names:
        if name not in old:
            raise QilinError(f"--old {name}: no such stage{nearest(name, old)}; there are {sorted(old)}")
    for name, path in old.items():
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and file.stat().st_nlink == 1)
        if name in names:
            shutil.rmtree(path)
        if not names or name in names:
            yield f"{name:32} {size / 1e9:8.3f} GB{'  removed' if name in names else ''}"
