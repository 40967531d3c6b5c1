"""What a bug report needs of a run, in one zip file: python -m qilin_lib.report.bundle RUN [TARGET] [--texts]

Parameters and manifests, the machine and its packages, numbers of the training logs, where errors arose, counts of the
ledger, tables. Never weights, training data or keys; names of raw files, sentences of errors, notebooks, records and
whole logs (which can hold texts of licensed data) only with --texts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from qilin_lib import files, runs
from qilin_lib.errors import QilinError, as_command, visible
from qilin_lib.runs import environment

HIDDEN = "[hidden]"
# Variables of the environment whose values are nobody's business, and what looks like a key wherever it stands.
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
_SECRET = r"\b(?:sk|pk|hf|gh[pousr]|github_pat|glpat|xox[abp]|AKIA|AIza)[-_]?[A-Za-z0-9_-]{12,}|(?<=Bearer )\S+|(?<=://)[^/\s@]+(?=@)"
_FRAME = re.compile(r'^\s*(?:\[rank\d+\]:\s*)?File "([^"]+)", line (\d+), in (\S+)|^File (\S+?):(\d+), in (\w+)')
_ERROR = re.compile(r"^(?:\[rank\d+\]:\s*)?((?:\w+\.)*\w*(?:Error|Exception|Interrupt|Failed))\b")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
# The data themselves, and weights, stay behind even with --texts.
_DATA = ("cpt.jsonl", "sft.jsonl", "dpo.jsonl", "general.jsonl")
_TEXTS = (".ipynb", ".log", ".json", ".jsonl", ".txt")
LARGEST = 20_000_000
LONGEST = 300
# Characters of a cell that is not ASCII: a department or a kind of entity.
LONGEST_CELL = 16


@as_command
def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code, 2 after an error (one sentence on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m qilin_lib.report.bundle", description=__doc__)
    parser.add_argument("run", help="name of a run, e.g. smoke")
    parser.add_argument("target", nargs="?", type=Path, help="file to write (default: RUN-bundle.zip here)")
    parser.add_argument("--texts", action="store_true", help="also notebooks, records, whole logs: texts of the data")
    options = parser.parse_args(arguments)
    path = write(options.run, options.target or Path(f"{options.run}-bundle.zip"), options.texts)
    with zipfile.ZipFile(path) as bundle:
        print(*(visible(name) for name in bundle.namelist()), sep="\n")
    print(f"{path}: {path.stat().st_size:,} bytes; look into it before you send it")
    return 0


def write(run: str, target: Path, texts: bool = False) -> Path:
    """Write the bundle of `run` to `target` and return it. QilinError: no such run, `target` exists."""
    found = runs.find(run)
    if target.exists():
        raise QilinError(f"target {target}: exists; choose a new file")
    members, secret = dict(_members(found, texts)), _secret(found)
    work = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with files.naming(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(work, "w", zipfile.ZIP_DEFLATED) as bundle:
                for name, content in sorted(members.items()):
                    bundle.writestr(name, secret.sub(HIDDEN, content))
            work.replace(target)
    finally:
        with contextlib.suppress(OSError):
            work.unlink()
    return target


def _members(run: runs.Run, texts: bool) -> Iterator[tuple[str, str]]:
    """(name, content) of what every bundle holds, of a file that cannot be read that it cannot; with `texts` everything
    of the run that is text, but the training data."""
    homes = (runs.runs_dir(), run.dir.resolve())
    # A stage of another run is a link, into which rglob does not go.
    found = sorted(path for own in run.dir.iterdir() for path in (own, *own.rglob("*")))
    names = {path: visible(path.relative_to(run.dir).as_posix()) for path in found}
    # None that a link would bring in from outside the runs.
    inside = [path for path in found if any(path.resolve().is_relative_to(home) for home in homes)]
    left = [
        f"{'left out':>14}  leads out of the runs: {names[path]}"
        for path in found
        if path.is_symlink() and path not in inside
    ]
    inside = [path for path in inside if path.is_file()]
    yield "environment.json", _json(environment.describe())
    yield "files.txt", "\n".join([*(f"{path.stat().st_size:>14,}  {names[path]}" for path in inside), *left])
    for path in inside:
        name = names[path]
        trained_on = path.parent.name == "01_build_chimed" and path.name in _DATA
        if texts and path.suffix in _TEXTS and not trained_on and path.stat().st_size < LARGEST:
            yield f"texts/{name}", path.read_text("utf-8", "replace")
        for suffix, shorten in (of for pattern, of in SHORT.items() if path.match(pattern)):
            try:
                content = shorten(path.read_text("utf-8", "replace"))
            except (ValueError, KeyError, TypeError, AttributeError) as reason:
                content = f"damaged: {type(reason).__name__}"
            if content:
                yield name + suffix, content


def _values(text: str) -> str:
    """A JSON file without long texts and without what is not ASCII; of raw files only how many there are."""
    content = json.loads(text)
    if isinstance(content, dict) and "inputs" in content:
        inputs = {name: f"{len(v)} files" if isinstance(v, dict) else v for name, v in content["inputs"].items()}
        content |= {"inputs": inputs}
    return _json(_short(content))


def _numbers(text: str) -> str:
    """The numbers of a training log, line by line."""
    rows = map(json.loads, text.splitlines())
    return "\n".join(json.dumps({k: v for k, v in row.items() if isinstance(v, int | float)}) for row in rows)


def _short(value: Any) -> Any:
    """`value` with long texts cut, those that are not ASCII left out, and of a path of this machine its last name."""
    if isinstance(value, dict):
        return {_short(name): _short(inner) for name, inner in value.items() if name != "unread"}
    if isinstance(value, list):
        return [_short(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "~", "./", "../")):
        value = Path(value).name
    return value[:LONGEST] if value.isascii() else "[text]"


def _cells(text: str) -> str:
    """A table without the wording of a scale's statements, which can be licensed, and without long Chinese texts."""
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    kept = table[[name for name in table if name.lower() != "statement"]]
    return kept.map(lambda cell: cell if cell.isascii() or len(cell) <= LONGEST_CELL else "[text]").to_csv(index=False)


def _errors(text: str) -> str:
    """Where errors arose, and of what kind: no line of them quotes anything."""
    told = []
    for line in _ANSI.sub("", text).splitlines():
        if frame := _FRAME.match(line):
            path, number, name = (one for one in frame.groups() if one is not None)
            place = re.search(r"(?:qilin_lib|site-packages|lib/python[\d.]+)/.*", path)
            told.append(f"  {place[0] if place else Path(path).name}:{number} {name}")
        elif error := _ERROR.match(line):
            told.append(error[1])
    return "\n".join(told)


def _failures(text: str) -> str:
    """The kind and place of each error in an executed notebook."""
    outputs = [(n, each) for n, cell in enumerate(json.loads(text)["cells"]) for each in cell.get("outputs", ())]
    failed = [(n, each) for n, each in outputs if each["output_type"] == "error"]
    return "\n".join(f"cell {n}: {each['ename']}\n{_errors(chr(10).join(each['traceback']))}" for n, each in failed)


# What of a file goes into every bundle: {pattern: (what is added to its name, what makes it short)}.
SHORT: dict[str, tuple[str, Callable[[str], str]]] = {
    "manifest.json": ("", _values),
    "in_progress.json": ("", _values),
    "ledger.json": ("", _values),
    "log.jsonl": ("", _numbers),
    "*.log": (".errors", _errors),
    "*.ipynb": (".errors", _failures),
    "table_*.csv": ("", _cells),
    "tables.txt": ("", str),
}


def _secret(run: runs.Run) -> re.Pattern:
    """What matches keys in a text: values of the environment's secrets, and whatever looks like one."""
    manifests = "".join(path.read_text("utf-8", "replace") for path in run.dir.glob("*/manifest.json"))
    named = re.findall(r'"api_key_env": "(\w+)"', manifests)
    values = {value for name, value in os.environ.items() if name in named or _SECRET_NAME.search(name)}
    known = sorted((value for value in values if len(value) >= 6), key=len, reverse=True)
    # In JSON a quotation mark or backslash of a key is escaped.
    forms = [re.escape(form) for value in known for form in (value, json.dumps(value)[1:-1])]
    return re.compile("|".join([*forms, _SECRET]))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    sys.exit(main())
