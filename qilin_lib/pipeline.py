"""The notebooks in order, headless.

python -m qilin_lib.pipeline PROFILE [--run NAME] [--from-run OTHER] [--from 04] [--only 06] [--force] [--strict]
    [-p name value]
python -m qilin_lib.pipeline PROFILE --plan | --verify | --accept NN | --old [NAME ...]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qilin_lib import chains, files, params, runs, stages
from qilin_lib.errors import QilinError, nearest, visible
from qilin_lib.schema import SECTIONS, Strict

# Applied to every notebook that has them; any other name found in several notebooks must say which one it means.
COMMON = ("seed", "gpus", "chain")


def main(arguments: list[str] | None = None) -> int:
    """Run the pipeline; returns the exit code. 1: a notebook failed; 2: the call was wrong; 3: a baseline did, with
    --strict; 130: interrupted."""
    options = _parser().parse_args(arguments)
    try:
        run = options.run or options.profile
        overrides = split_overrides(options.profile, options.p, run, options.from_run)
        chosen = choose(options.only, options.start, overrides)
        if _looked(options, run, overrides):
            return 0
        if options.force:
            stages.force(run, chosen)
        results = [run_notebook(stage, options.profile, run, overrides[stage]) for stage in chosen]
    except QilinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues from here", file=sys.stderr)
        return 130
    except NotebookFailed as failure:
        print(f"error: {visible(failure)}", file=sys.stderr)
        return 1
    _close(run, chosen, all(result == "up to date" for result in results))
    failed = _failed_baselines(run, chosen)
    for line in failed:
        print(visible(line))
    return 3 if failed and options.strict else 0


def _looked(options: argparse.Namespace, run: str, overrides: dict[str, dict[str, Any]]) -> bool:
    """Answer the options that run nothing: --plan, --verify, --old, --accept; False if none was given."""
    lines: Iterable[str] = ()
    if options.plan:
        from qilin_lib.train.plan import plan

        lines = [str(plan({name: _load(name, options.profile, run, own) for name, own in overrides.items()}))]
    elif options.verify:
        lines = stages.verify(run)
    elif options.old is not None:
        lines = stages.remove_old(run, options.old)
    elif options.accept:
        name = _named(options.accept, overrides)
        reason = stages.accept(_load(name, options.profile, run, overrides[name]))
        lines = [f"{name} is taken as it is: {reason}" if reason else f"{name} is up to date: nothing to accept"]
    else:
        return False
    for line in lines:
        print(line, flush=True)
    return True


def _failed_baselines(run: str, chosen: list[str]) -> list[str]:
    """What 06 and 09 say of baselines that could not answer everything."""
    written = [runs.runs_dir() / run / name / "scores.json" for name in ("06_eval", "09_bias") if name in chosen]
    told = [files.read_json(path).get("failed") for path in written if path.exists()]
    return [line for line in told if line]


class NotebookFailed(Exception):
    """A cell raised; the executed notebook holds the evidence."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m qilin_lib.pipeline", description=__doc__)
    parser.add_argument("profile", help="a file of params/, e.g. smoke")
    parser.add_argument("--run", help="name of the run folder (default: the profile's name)")
    parser.add_argument("--from", dest="start", metavar="NN", help="first notebook, e.g. 04")
    parser.add_argument("--only", metavar="NN", action="append", help="just this notebook; may be said again")
    parser.add_argument("--from-run", metavar="RUN", help="stand on the finished stages of another run")
    parser.add_argument("--force", action="store_true", help="make the chosen stages again; what is there moves aside")
    parser.add_argument("--strict", action="store_true", help="exit with 3 if a baseline could not answer")
    parser.add_argument("--plan", action="store_true", help="disk, memory and hours of the whole run; runs nothing")
    parser.add_argument("--accept", metavar="NN", help="take a finished stage as it is, whatever changed")
    parser.add_argument("--verify", action="store_true", help="compare every byte of the run with its manifests")
    parser.add_argument("--old", nargs="*", metavar="NAME", help="stages moved aside; with names: remove them")
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="override a parameter: NAME or SECTION.NAME, e.g. dpo.learning_rate",
    )
    return parser


def choose(only: list[str] | None, start: str | None, stages: Iterable[str] = params.NOTEBOOKS) -> list[str]:
    """Those of `stages` to run, in order. QilinError for a number that names none."""
    names = list(stages)
    if only:
        wanted = {_named(one, names) for one in only}
        return [name for name in names if name in wanted]
    return names[names.index(_named(start, names)) :] if start else names


def _named(prefix: str, names: Iterable[str]) -> str:
    """The stage that a number or a name stands for; 04 is the first SFT, 04_sft2 the second."""
    found = [name for name in names if name.startswith(prefix)]
    exact = [name for name in found if name == prefix] or [name for name in found if name in params.NOTEBOOKS] or found
    if len(exact) != 1:
        raise QilinError(f"notebook '{prefix}': expected one of {[chains.short(name) for name in names]}")
    return exact[0]


def split_overrides(
    profile: str, pairs: list[list[str]], run: str | None = None, from_run: str | None = None
) -> dict[str, dict[str, Any]]:
    """{stage of the chain: {parameter: value}} from `-p NAME VALUE` pairs, in the order in which stages are made.

    QilinError for unknown and ambiguous names, and for bad values.
    """
    shared = {"from_run": from_run} if from_run else {}
    given = {name: value for name, value in pairs if name == "chain"}
    chain = _load(chains.BUILD, profile, run, given).chain
    # What is called by a stage's name: section, class of its parameters.
    known = {stage: SECTIONS[_notebook(stage)] for stage in chains.graph(chain)}
    known |= {chains.folder(name): (name, model) for name in chain for _, model in [known[chains.folder(name)]]}
    # What tells the notebook of several trainings which one it is to make.
    which = {stage: {} if stage in SECTIONS else {"stage": chains.name_of(stage)} for stage in known}
    overrides: dict[str, dict[str, Any]] = {stage: shared | own for stage, own in which.items()}
    for name, value in pairs:
        section, _, field = name.rpartition(".")
        if field in ("notebook", "profile", "run", "from_run", "stage"):
            raise QilinError(
                f"-p {name}: not a parameter here; say: python -m qilin_lib.pipeline PROFILE --run NAME "
                "[--from-run OTHER]"
            )
        homes = [n for n, (s, model) in known.items() if field in model.model_fields and section in ("", s, n[:2])]
        if not homes:
            fields = {f for _, model in known.values() for f in model.model_fields}
            raise QilinError(f"-p {name}: no notebook has this parameter{nearest(field, fields)}")
        if len(homes) > 1 and field not in COMMON and section not in {n[:2] for n in homes}:
            choices = [f"{known[n][0]}.{field}" for n in homes]
            raise QilinError(f"-p {name}: several notebooks have it; say which: {', '.join(choices)}")
        for stage in homes:
            overrides[stage][field] = value
    for stage, own in overrides.items():
        _load(stage, profile, run, own)
    return overrides


def _notebook(stage: str) -> str:
    """The notebook that makes a stage."""
    return stage.rstrip("0123456789") if chains.trains(stage) else stage


def _load(stage: str, profile: str, run: str | None, overrides: dict[str, Any]) -> Strict:
    return params.load(_notebook(stage), {"profile": profile, "run": run, **overrides})


def run_notebook(name: str, profile: str, run: str, overrides: dict[str, Any]) -> str:
    """Execute one stage's notebook unless it is up to date; one line of output. Returns 'done' or 'up to date'."""
    parameters = _load(name, profile, run, overrides)
    print(f"{name:<16} ", end="", flush=True)
    if shared := stages.share(parameters):
        print(shared, flush=True)
        return "up to date"
    stage = stages.inspect_stage(parameters)
    if stage.up_to_date:
        print("up to date", flush=True)
        return "up to date"
    if told := runs.changes(stage):
        print(f"({told}) ", end="", flush=True)
    started = time.monotonic()
    _execute(name, {"profile": profile, "run": run, **overrides}, runs.runs_dir() / run)
    manifest = runs.Run(runs.runs_dir() / run).manifest(name)
    print(f"done in {time.monotonic() - started:5.0f} s, peak {manifest['peak_memory_mb'] / 1024:.1f} GiB", flush=True)
    return "done"


def _execute(stage: str, values: dict[str, Any], run_dir: Path) -> None:
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    import papermill

    # papermill warns about names that the parameters cell does not list; `params.load` has checked them all.
    logging.getLogger("papermill").setLevel(logging.ERROR)

    try:
        with files.naming(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
            papermill.execute_notebook(
                params.ROOT / "notebooks" / f"{_notebook(stage)}.ipynb",
                run_dir / f"{stage}.ipynb",
                parameters=values,
                kernel_name="python3",
                progress_bar=False,
                cwd=params.ROOT,
                extra_arguments=["--IPKernelApp.log_level=50"],
            )
    except RuntimeError as error:
        # nbclient's DeadKernelError, which papermill lets through.
        if str(error) != "Kernel died":
            raise
        print("FAILED", flush=True)
        raise NotebookFailed(
            f"{stage}: its Python process was killed, most often because memory ran out; the same command goes on from "
            "what is finished"
        ) from None
    except papermill.PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from None
        print("FAILED", flush=True)
        raise NotebookFailed(
            f"{stage}: {error.ename}: {error.evalue}\n(whole story: {run_dir / stage}.ipynb)"
        ) from None


def _close(run: str, chosen: list[str], nothing_done: bool) -> None:
    run_dir = runs.runs_dir() / run
    tables = run_dir / "07_case_study" / "tables.txt"
    if "07_case_study" in chosen and tables.exists():
        print("\n" + tables.read_text(encoding="utf-8"))
        print(f"Report: {run_dir / '07_case_study' / 'report.html'}")
    second = run_dir / "09_bias" / "report.html"
    if second.exists():
        print(f"Reward model, policies, attitude scales: {second}")
    if nothing_done:
        print("Nothing to do: every notebook is up to date (--force runs them again).")


if __name__ == "__main__":
    sys.exit(main())
