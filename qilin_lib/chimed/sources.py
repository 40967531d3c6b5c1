"""The registry: one `Source` a raw folder, with its licence, citation, home, row in the paper's tables, and reader.

The facts stand in sources.yaml. `python -m qilin_lib.chimed.sources RAW_DIR` shows what is there, what is missing and
where to get it.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import yaml
from pydantic import BaseModel

from qilin_lib.chimed import readers
from qilin_lib.chimed.readers import preference
from qilin_lib.chimed.readers.find import ROWS, Found, files_below, found, is_archive, printable
from qilin_lib.chimed.readers.stream import Reject
from qilin_lib.chimed.records import Payload, Record, Rejection, excerpt
from qilin_lib.errors import nearest

SETS = ("cpt", "sft", "dpo", "general", "eval")
TRAINING_SETS = SETS[:4]


class Feed(BaseModel, extra="forbid", frozen=True, strict=True):
    """Files of a source and what they feed: {set: row title in the paper's Table 1 (cpt), 2 (sft) or 3 (dpo)}.

    reader: "module.function" of qilin_lib/chimed/readers. licence: that of these files, "" for the source's.
    """

    glob: str
    reader: str
    rows: dict[Literal[SETS], str]
    licence: str = ""


class Place(BaseModel, extra="forbid", frozen=True, strict=True):
    """Where `chimed.fetch` gets files of a source: "hub:owner/name" (a data set) or "github:owner/name".

    under: the folder there that becomes the source's own, or its sub-folder `into`. files: patterns of names below it;
    no star is a slash.
    """

    repository: str
    under: str = ""
    into: str = ""
    files: list[str]


class Source(BaseModel, extra="forbid", frozen=True, strict=True):
    """One raw folder.

    standing: "original" = the data set that the paper names; "stand-in" = takes its row, other or partial data;
    "addition" = not in the paper. part: what its SFT and DPO records count as. beside: {file: what other part of the
    kit reads it}.
    """

    name: str
    type: Literal["qa", "text", "kg", "dialogue", "general", "preference", "mixed"]
    licence: str
    citation: str
    home: str
    feeds: list[Feed]
    standing: Literal["original", "stand-in", "addition"] = "original"
    part: Literal["medical", "general"] = "medical"
    beside: dict[str, str] = {}
    fetch: list[Place] = []

    def licences(self) -> list[str]:
        """The licences of its files."""
        return list(dict.fromkeys(feed.licence or self.licence for feed in self.feeds))


_FILE = yaml.load(Path(__file__).with_name("sources.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)
# In corpus order; and {folder: why it feeds nothing}.
REGISTRY, NOT_USED = tuple(map(Source.model_validate, _FILE["sources"])), _FILE["not_used"]
BY_NAME = {source.name: source for source in REGISTRY}
_words = re.compile(r"[^\W_]+").findall


class Unit(NamedTuple):
    """A record or rejection with the sets that its file feeds, and its file's `licence`, "" for its source's."""

    sets: tuple[str, ...]
    read: Record | Rejection
    licence: str = ""


def excluded(licence: str, words: Iterable[str]) -> bool:
    """Does one of `words` stand in `licence`? "CC BY-NC" stands in "CC BY-NC-SA 4.0", "MIT" in "MIT for the code"."""
    plain, *others = (f" {' '.join(_words(text.lower()))} " for text in (licence, *words))
    return any(word in plain for word in others)


def forbids_derivatives(licence: str) -> bool:
    """Does the licence allow copies only, as CC BY-ND does?"""
    return excluded(licence, ("ND", "NoDerivatives", "NoDerivs"))


def units(
    source: Source,
    raw_dir: Path,
    sets: tuple[str, ...] = SETS,
    ranked_answers: preference.Ranked = "best_two",
    notes: dict[str, dict[str, str]] | None = None,
) -> Iterator[Unit]:
    """Everything that a source's files hold for `sets`, lazily, files in name order, members of archives among them.

    A note goes into `notes`, {source: {file: what is noted}}, where that is given, and is no unit then. A file that
    fits several patterns feeds by the last of them. What cannot be read of a file or archive is one Rejection with line
    0; a fault of a whole archive or folder comes with the source's first feed.
    """
    feeds = [tuple(name for name in feed.rows if name in sets) for feed in source.feeds]
    with contextlib.ExitStack() as archives:
        files = _fed(source, raw_dir, archives) if any(feeds) else []
        for number, (feed, wanted) in enumerate(zip(source.feeds, feeds, strict=True)):
            for file in (file for file, fed in files if wanted and fed == number):
                for line, one in _reads(file, feed.reader):
                    if notes is not None and isinstance(one, Reject) and one.note:
                        notes.setdefault(source.name, {})[file.file] = f"{one.reason}: {excerpt(one.detail)}"
                        continue
                    for own in preference.pairs_of(one, ranked_answers):
                        yield Unit(wanted, _placed((source.name, file.file, line), own), feed.licence)


def _placed(place: tuple[str, str, int], one: Payload | Reject) -> Record | Rejection:
    if not isinstance(one, Reject):
        return Record(*place, one)
    # What is said of a whole file is the kit's own words.
    detail = excerpt(one.detail) if place[2] or one.note else one.detail
    return Rejection(*place, one.reason, detail, excerpt(one.shown), one.note)


def _fed(source: Source, raw_dir: Path, archives: contextlib.ExitStack) -> list[tuple[Found, int | None]]:
    """(file of a source's folder, number of the feed that reads it, or that reports its fault)."""
    files = found(raw_dir / source.name, archives) if (raw_dir / source.name).is_dir() else []
    return [(file, 0 if file.always else _feed_of(source, file)) for file in files]


def _feed_of(source: Source, file: Found) -> int | None:
    return next((n for n, feed in reversed([*enumerate(source.feeds)]) if file.fits(feed.glob)), None)


def _reads(file: Found, reader: str) -> Iterator[tuple[int, Payload | Reject]]:
    """(line, payload or Reject) of all that a reader, "module.function", finds in a file."""
    module, _, function = reader.partition(".")
    try:
        stream = file.stream()
    except Reject as fault:
        yield 0, fault
        return
    found = None
    for found in getattr(importlib.import_module(f"{readers.__name__}.{module}"), function)(file.file, stream):
        yield found
    if stream.broken:
        yield 0, stream.broken
    elif found is None:
        yield 0, Reject("empty file", "no rows", note=True)


def inventory(raw_dir: Path) -> dict[str, str]:
    """{folder: "present", "nothing read", "missing", "not used by this profile" or "unknown"}, registry order first."""
    there = {path.name for path in raw_dir.iterdir() if path.is_dir()} if raw_dir.is_dir() else set()
    state = {source.name: "missing" for source in REGISTRY}
    with contextlib.ExitStack() as archives:
        for name in there & set(state):
            fed = any(feed is not None for _, feed in _fed(BY_NAME[name], raw_dir, archives))
            state[name] = "present" if fed else "nothing read"
    state |= {name: "not used by this profile" for name in NOT_USED if name in there}
    return state | {name: "unknown" for name in sorted(there - set(state)) if not name.startswith(".")}


def unread(source: Source, raw_dir: Path) -> dict[str, str]:
    """{file: why it is not read} of a source's folder; an archive of which no member is read is one entry."""
    with contextlib.ExitStack() as archives:
        files = _fed(source, raw_dir, archives)
    used = {file.path for file, feed in files if feed is not None}
    patterns = " or ".join(dict.fromkeys(feed.glob for feed in source.feeds))
    wanted = f"not {patterns}"
    if not all(feed.glob.endswith(".txt") for feed in source.feeds):
        wanted += f" (rows: {', '.join(ROWS)}, also packed)"
    reasons: dict[str, str] = {}
    # A folder is no file; what is in it is.
    for file in (file for file, feed in files if feed is None and not file.path.is_dir()):
        if file.archive and is_archive(file.file):
            reasons[file.file] = "an archive in an archive; unpack the outer one"
        elif any(file.fits(f"**/{feed.glob}") for feed in source.feeds):
            reasons[file.file] = f"too deep: {patterns}, or one folder below"
        elif file.archive and file.path not in used:
            reasons[file.archive] = f"an archive with no file for it: {wanted}"
        else:
            reasons[file.file] = file.fault.detail if file.fault else source.beside.get(file.path.name, wanted)
    return reasons


def all_unread(raw_dir: Path) -> dict[str, dict[str, str]]:
    """{source: its `unread`} of all sources whose folder holds something that is not read; "." is the raw folder."""
    beside = {".": stray} if (stray := _stray(raw_dir)) else {}
    return beside | {source.name: left for source in REGISTRY if (left := unread(source, raw_dir))}


def _stray(raw_dir: Path) -> dict[str, str]:
    files = (path.name for path in sorted(raw_dir.glob("[!.]*")) if path.is_file())
    return dict.fromkeys(map(printable, files), "in no source's folder")


def files_read(raw_dir: Path, chosen: list[str] | None = None) -> dict[str, Path]:
    """{path below `raw_dir`: file} of what a build reads: training sources (those in `chosen`, or all) and benchmarks.

    An archive counts as a whole, a link by what it leads to.
    """
    read: dict[str, Path] = {}
    for source in REGISTRY:
        folder = raw_dir / source.name
        benchmark = any("eval" in feed.rows for feed in source.feeds)
        if folder.is_dir() and (benchmark or chosen is None or source.name in chosen):
            for file in sorted(files_below(folder), key=lambda file: file.file):
                if file.path.is_file() and (is_archive(file.file) or _feed_of(source, file) is not None):
                    read[f"{source.name}/{file.file}"] = file.path
    return read


def overview(raw_dir: Path) -> Iterator[str]:
    """Lines of a table of all sources and of the folders that are none; reads every file to count."""
    form = "{:12}  {:26}  {:>6}  {:>9}  {:>8}  {:13}  {}"
    yield form.format("state", "folder", "files", "records", "rejected", "feeds", "licence")
    for name, state in inventory(raw_dir).items():
        if name not in BY_NAME:
            unknown = f"no source{nearest(name.lower(), BY_NAME)}"
            state, why = ("unused", NOT_USED[name]) if name in NOT_USED else ("unknown", unknown)
            yield f"{state:12}  {printable(name):26}  {why}"
            continue
        source, notes = BY_NAME[name], {}
        files, kinds = set(), Counter()
        for unit in units(source, raw_dir, notes=notes):
            files.add(unit.read.file)
            kinds[type(unit.read)] += 1
        numbers = len(files | notes.get(name, {}).keys()), kinds[Record], kinds[Rejection]
        feeds = ",".join(dict.fromkeys(kind for feed in source.feeds for kind in feed.rows))
        yield form.format(state, name, *(("",) * 3 if state == "missing" else numbers), feeds, source.licence)
        if left := unread(source, raw_dir) | notes.get(name, {}):
            yield f"{'':12}  not read: {listed(left)}"
        elif state == "missing":
            yield f"{'':12}  get it: {source.home}"
    if stray := _stray(raw_dir):
        yield f"not read: {listed(stray)}"


def listed(reasons: dict[str, str]) -> str:
    """The first five files with the reason why each is not read, and how many more there are."""
    first = "; ".join(f"{file} ({why})" for file, why in list(reasons.items())[:5])
    return f"{first}; and {len(reasons) - 5} more" if len(reasons) > 5 else first


def main(arguments: list[str]) -> int:
    """Print the overview of a raw folder; 2 when the arguments are wrong."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m qilin_lib.chimed.sources RAW_DIR, an existing folder with one folder per source")
        return 2
    for line in overview(Path(arguments[0])):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
