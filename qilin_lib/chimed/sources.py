"""The registry: one `Source` a raw folder, with its licence, citation, home, row in the paper's tables, and reader.

The facts stand in sources.yaml. `python -m qilin_lib.chimed.sources RAW_DIR` shows what is there, what is missing and
where to get it.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qilin_lib.chimed.readers import dialogue, exam, general, kg, preference, qa, text
from qilin_lib.chimed.readers.decode import Reader, Reject
from qilin_lib.chimed.readers.find import Found, found
from qilin_lib.chimed.records import Record, Rejection, plainly
from qilin_lib.errors import QilinError, nearest
from qilin_lib.files import sha256_file

SETS = ("cpt", "sft", "dpo", "general", "eval")
TRAINING_SETS = SETS[:4]
READERS: dict[str, Reader] = {
    "dialogue.chimed_release": dialogue.chimed_release,
    "dialogue.cmtmedqa": dialogue.cmtmedqa,
    "dialogue.conversations": dialogue.conversations,
    "dialogue.meddialog": dialogue.meddialog,
    "dialogue.remedi": dialogue.remedi,
    "dialogue.toyhom": dialogue.toyhom,
    "exam.ceval": exam.ceval,
    "exam.cmexam": exam.cmexam,
    "exam.cmmlu": exam.cmmlu,
    "exam.medqa": exam.medqa,
    "general.instructions": general.instructions,
    "general.safety_prompts": general.safety_prompts,
    "kg.cpubmed": kg.cpubmed,
    "kg.health39": kg.health39,
    "kg.xywy": kg.xywy,
    "preference.medicalgpt_reward": preference.medicalgpt_reward,
    "preference.pairs": preference.pairs,
    "preference.zhongjing_rlhf": preference.zhongjing_rlhf,
    "qa.huatuo": qa.huatuo,
    "text.documents": text.documents,
    "text.medqa_textbook": text.medqa_textbook,
    "text.prose": text.prose,
    "text.textbook": text.textbook,
}


@dataclass(frozen=True, slots=True)
class Feed:
    """Files of a source and what they feed: {set: row title in the paper's Table 1 (cpt), 2 (sft) or 3 (dpo)}.

    `licence`: that of these files, "" for the source's.
    """

    glob: str
    rows: dict[str, str]
    reader: Reader
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Expected:
    """A file whose size in bytes or sha256 is known; None where it is not."""

    file: str
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """One raw folder.

    standing: "original" = the data set that the paper names; "stand-in" = takes its row, other or partial data;
    "addition" = not in the paper. part: what its SFT and DPO records count as, "medical" or "general".
    """

    name: str
    type: str
    licence: str
    citation: str
    home: str
    feeds: tuple[Feed, ...]
    standing: str = "original"
    part: str = "medical"
    files: tuple[Expected, ...] = ()

    def licences(self) -> list[str]:
        """The licences of its files."""
        return list(dict.fromkeys(feed.licence or self.licence for feed in self.feeds))


# What a key of a source may hold; None = any text.
_KEYS: dict[str, tuple[str, ...] | None] = {
    "name": None,
    "type": ("qa", "text", "kg", "dialogue", "general", "preference", "mixed"),
    "licence": None,
    "citation": None,
    "home": None,
    "standing": ("original", "stand-in", "addition"),
    "part": ("medical", "general"),
}


def load(path: Path) -> tuple[tuple[Source, ...], dict[str, str]]:
    """The sources of a registry file in corpus order, and {folder: why it feeds nothing}.

    QilinError naming the file and the entry: no YAML, an unknown or missing key, a value of the wrong kind, an unknown
    reader or set, a source that stands there twice.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as reason:
        raise QilinError(f"{path.name} is no YAML: {' '.join(str(reason).split())}") from None
    _keys(content, ("sources", "not_used"), ("sources",), path.name)
    found: dict[str, Source] = {}
    for number, entry in enumerate(_listed(content["sources"], f"{path.name}: sources"), start=1):
        where = f"{path.name}, source {number}"
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            where += f" ({entry['name']})"
        source = _source(entry, where)
        if source.name in found:
            raise QilinError(f"{where}: there is a source of that name already")
        found[source.name] = source
    return tuple(found.values()), dict(content.get("not_used") or {})


def _source(entry: Any, where: str) -> Source:
    _keys(entry, (*_KEYS, "feeds", "files"), ("name", "type", "licence", "citation", "home", "feeds"), where)
    values = {key: _text(entry[key], f"{where}: {key}", choices) for key, choices in _KEYS.items() if key in entry}
    listed = _listed(entry["feeds"], f"{where}: feeds")
    feeds = tuple(_feed(feed, f"{where}, feed {number}") for number, feed in enumerate(listed, start=1))
    known = entry.get("files", {})
    if not isinstance(known, dict):
        raise QilinError(f"{where}: files: a {type(known).__name__} where file names with facts were expected")
    files = tuple(_expected(name, facts, where) for name, facts in known.items())
    return Source(**values, feeds=feeds, files=files)


def _feed(entry: Any, where: str) -> Feed:
    _keys(entry, ("glob", "reader", "rows", "licence"), ("glob", "reader", "rows"), where)
    reader = READERS[_text(entry["reader"], f"{where}: reader", tuple(READERS))]
    _keys(entry["rows"], SETS, (), f"{where}: rows")
    if not entry["rows"]:
        raise QilinError(f"{where}: rows: no set, expected at least one of {', '.join(SETS)}")
    rows = {name: _text(title, f"{where}: rows, {name}") for name, title in entry["rows"].items()}
    licence = _text(entry["licence"], f"{where}: licence") if "licence" in entry else ""
    return Feed(_text(entry["glob"], f"{where}: glob"), rows, reader, licence)


def _expected(name: str, facts: Any, where: str) -> Expected:
    _keys(facts, ("bytes", "sha256"), (), f"{where}, file {name}")
    size, digest = facts.get("bytes"), facts.get("sha256")
    if size is not None and type(size) is not int:
        raise QilinError(f"{where}, file {name}: bytes is {size!r}, expected a whole number")
    if digest is not None and not re.fullmatch("[0-9a-f]{64}", str(digest)):
        raise QilinError(f"{where}, file {name}: sha256 is {digest!r}, expected 64 hexadecimal digits in quotes")
    return Expected(name, size, digest)


def _keys(entry: Any, known: tuple[str, ...], needed: tuple[str, ...], where: str) -> None:
    if not isinstance(entry, dict):
        raise QilinError(f"{where}: a {type(entry).__name__} where {', '.join(known)} were expected")
    for key in entry:
        if key not in known:
            raise QilinError(f"{where}: '{key}' is none of {', '.join(known)}{nearest(key, known)}")
    if missing := [key for key in needed if key not in entry]:
        raise QilinError(f"{where}: {missing[0]} is missing")


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise QilinError(f"{where}: a {type(value).__name__} where a list with entries was expected")
    return value


def _text(value: Any, where: str, choices: tuple[str, ...] | None = None) -> str:
    if not isinstance(value, str) or not value.strip():
        raise QilinError(f"{where} is {value!r}, expected a text in quotes")
    if choices and value not in choices:
        raise QilinError(f"{where}: '{value}' is none of {', '.join(choices)}{nearest(value, choices)}")
    return value


REGISTRY, NOT_USED = load(Path(__file__).with_name("sources.yaml"))
BY_NAME = {source.name: source for source in REGISTRY}


@dataclass(frozen=True, slots=True)
class Unit:
    """A record or rejection on its way through the build, with the sets that its file feeds.

    `licence`: that of its file, "" for its source's.
    """

    sets: tuple[str, ...]
    read: Record | Rejection
    licence: str = ""
    __reduce__ = plainly


def units(source: Source, raw_dir: Path, sets: tuple[str, ...] = SETS) -> Iterator[Unit]:
    """Everything that a source's files hold for `sets`, files in name order, compressed ones and archives among them.

    Lazy, and its memory does not grow with the files. A file feeds once: one that fits several patterns, by the last of
    them. What cannot be read of a file or archive is one Rejection with line 0; a fault of a whole archive or folder
    comes with the source's first feed.
    """
    folder = raw_dir / source.name
    with contextlib.ExitStack() as archives:
        files = found(folder, [feed.glob for feed in source.feeds], archives) if folder.exists() else []
        for number, feed in enumerate(source.feeds):
            wanted = tuple(name for name in feed.rows if name in sets)
            for file in files if wanted else ():
                if number == (0 if file.always else _feed_of(source, file)):
                    for read in _reads(source.name, file, feed.reader):
                        yield Unit(wanted, read, feed.licence)


def _feed_of(source: Source, file: Found) -> int | None:
    return next((n for n, feed in reversed([*enumerate(source.feeds)]) if file.fits(feed.glob)), None)


def _reads(source: str, file: Found, reader: Reader) -> Iterator[Record | Rejection]:
    try:
        stream = file.stream()
    except Reject as fault:
        yield Rejection(source, file.file, 0, fault.reason, fault.detail)
        return
    nothing = True
    for read in reader(source, file.file, stream):
        nothing = False
        yield read
    if stream.broken:
        yield Rejection(source, file.file, 0, stream.broken.reason, stream.broken.detail)
    elif nothing:
        yield Rejection(source, file.file, 0, "empty file", "no rows")


def inventory(raw_dir: Path) -> dict[str, str]:
    """{folder: "present" | "missing" | "not used by this profile" | "unknown"}, registry order first."""
    there = {path.name for path in raw_dir.iterdir() if path.is_dir()} if raw_dir.is_dir() else set()
    state = {source.name: "present" if source.name in there else "missing" for source in REGISTRY}
    state |= {name: "not used by this profile" for name in NOT_USED if name in there}
    return state | {name: "unknown" for name in sorted(there - set(state)) if not name.startswith(".")}


def checked(source: Source, raw_dir: Path) -> str:
    """Whether the files whose bytes or sha256 the registry knows are those: "ok", "differs: file", or "not known"."""
    for known in source.files:
        path = raw_dir / source.name / known.file
        if not path.is_file():
            return f"absent: {known.file}"
        size_differs = known.bytes is not None and path.stat().st_size != known.bytes
        if size_differs or known.sha256 and sha256_file(path) != known.sha256:
            return f"differs: {known.file}"
    return "ok" if source.files else "not known"


def unread(source: Source, raw_dir: Path) -> list[str]:
    """Files of a source's folder that fit none of its patterns."""
    patterns = [feed.glob for feed in source.feeds]
    with contextlib.ExitStack() as archives:
        files = found(raw_dir / source.name, patterns, archives)
        return [file.file for file in files if not (file.fault or any(map(file.fits, patterns)))]


def files_read(raw_dir: Path, chosen: list[str] | None = None) -> dict[str, Path]:
    """{path below `raw_dir`: file} of what a build reads: training sources (those in `chosen`, or all) and benchmarks.

    An archive counts as a whole, a link by what it leads to; files that fit no pattern are not among them.
    """
    read: dict[str, Path] = {}
    for source in REGISTRY:
        folder, patterns = raw_dir / source.name, [feed.glob for feed in source.feeds]
        benchmark = any("eval" in feed.rows for feed in source.feeds)
        if not folder.exists() or not (benchmark or chosen is None or source.name in chosen):
            continue
        with contextlib.ExitStack() as archives:
            for file in found(folder, patterns, archives):
                if file.fault or any(map(file.fits, patterns)):
                    # A member of an archive is read from the archive.
                    parts = [part for part in (Path(file.file), *Path(file.file).parents) if (folder / part).is_file()]
                    path = parts[0] if parts else Path(file.file)
                    read[f"{source.name}/{path}"] = folder / path
    return read


def counted(source: Source, raw_dir: Path) -> tuple[int, int, int]:
    """Files, records and rejections of a source; reads everything."""
    files, kinds = set(), Counter()
    for unit in units(source, raw_dir):
        files.add(unit.read.file)
        kinds[type(unit.read)] += 1
    return len(files), kinds[Record], kinds[Rejection]


def overview(raw_dir: Path, count: bool = True) -> Iterator[str]:
    """Lines of a table of all sources and of the folders that are none; `count` reads every file to count."""
    form = "{:8}  {:26}  {:>6}  {:>9}  {:>8}  {:12}  {:13}  {}"
    yield form.format("state", "folder", "files", "records", "rejected", "sha256", "feeds", "licence")
    for name, state in inventory(raw_dir).items():
        if name not in BY_NAME:
            yield f"{'unused' if name in NOT_USED else 'unknown':8}  {name:26}  {NOT_USED.get(name, 'no source')}"
            continue
        source = BY_NAME[name]
        feeds = ",".join(dict.fromkeys(kind for feed in source.feeds for kind in feed.rows))
        if state == "missing":
            yield form.format(state, name, "", "", "", "", feeds, source.licence)
            yield f"{'':8}  get it: {source.home}"
            continue
        numbers = counted(source, raw_dir) if count else ("-", "-", "-")
        yield form.format(state, name, *numbers, checked(source, raw_dir), feeds, source.licence)
        if left := unread(source, raw_dir):
            yield f"{'':8}  not read: {', '.join(left[:5])}{f' and {len(left) - 5} more' if len(left) > 5 else ''}"


def main(arguments: list[str]) -> int:
    """Print the overview of a raw folder; 2 when the arguments are wrong."""
    folders = [argument for argument in arguments if argument != "--fast"]
    if len(folders) != 1 or not Path(folders[0]).is_dir():
        print("usage: python -m qilin_lib.chimed.sources [--fast] RAW_DIR")
        print("RAW_DIR: an existing folder with one folder a source; --fast: do not count what is in the files")
        return 2
    for line in overview(Path(folders[0]), count="--fast" not in arguments):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
