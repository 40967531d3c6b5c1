"""Dialogues as notebook 01 numbers them, and what a model was trained on of them: 01's sets are read once for all.

What 01 makes training data of is known by its ids, what it dropped as a duplicate by the record that it is one of. A
test set ("test" instead of "unused") is known by the whole text, as 01 would have written it; a copy that differs in a
character is not noticed here. DPO: by the last exchange.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from qilin_lib.chimed.batches import encoded, identity
from qilin_lib.chimed.clean import clean
from qilin_lib.chimed.compose import compose
from qilin_lib.chimed.deidentify import deidentify_all
from qilin_lib.chimed.readers.stream import Reject, Stream
from qilin_lib.chimed.readers.turns import speaker_of, talk
from qilin_lib.chimed.records import Dialogue, Record, Rejection, excerpt, mapped
from qilin_lib.chimed.sources import BY_NAME, TRAINING_SETS, files_read, units
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.items import Unreadable, files_of, label, opened
from qilin_lib.files import read_json, read_jsonl, sha256_file

TRAIN, HELDOUT, UNUSED, TEST = "train", "heldout", "unused", "test"
SETS = ("cpt", "sft")
EVAL = ("eval",)
_LINE = re.compile(r'\{"id": "((.+)-\d+)"')
_BODY = {"cpt": '"text": ', "sft": '"messages": '}
_SPEAKERS = {"P": "patient", "D": "doctor"}
Unit = tuple[str, Record | Rejection]


class Lineage:
    """What was trained on of the dialogues in `folders`. `built`: 01's folder; None: nothing was trained on."""

    def __init__(self, built: Path | None, folders: Sequence[Path]) -> None:
        self.built, self.folders = built, list(folders)

    def splits(self, folder: Path) -> Callable[[str, Record], str]:
        """(id, record) -> "train" where CPT, SFT or DPO trains on it, "heldout" where CPT or SFT has it, else "unused",
        of a test set "test".

        QilinError for a folder of 01 that cannot say so, and other files than those that it read.
        """
        test = is_test(folder)
        if self.built is None:
            return lambda own, read: TEST if test else UNUSED
        manifest = self.built / "manifest.json"
        # Ids count the units of a folder, so they say nothing of other files than those that were counted. Without a
        # manifest 01 is still at work, or its build was called by itself.
        if not test and manifest.exists():
            recorded = read_json(manifest)["inputs"]["raw"]
            for place, path in files_read(folder.parent, [folder.name]).items():
                if place.startswith(f"{folder.name}/") and recorded.get(place) != sha256_file(path):
                    raise QilinError(f"{path} is not what 01_build_chimed read as {place}; run notebook 01 again")
        known, duplicates, copies, preferred = self._trained

        def split(own: str, read: Record) -> str:
            found = set()
            for name in SETS if not test else ():
                # A line can hold several dialogues; one that was not kept may be any of the duplicates found there.
                place = folder.name, read.file, read.line
                ids = {own} if own in known[name] else duplicates[name].get(place, set())
                found |= {known[name][other] for other in ids if other in known[name]}
            if TRAIN in found or (folder, own) in copies or written(read.payload).turns[-2:] in preferred:
                return TRAIN
            return TEST if test else HELDOUT if found else UNUSED

        return split

    @cached_property
    def _trained(self) -> tuple[dict[str, dict], dict[str, dict], set[tuple[Path, str]], set[tuple[str, str]]]:
        """What 01's files say: {set: {id: split}} of the sources asked about, and of records that their duplicates are
        duplicates of; {set: {(source, file, line): ids of those records}}; (folder, id) of the test dialogues that CPT
        or SFT trains on as they are; (question, answer) of DPO's training split, preferred and rejected answers alike.
        """
        for name in (*SETS, "dpo", "dropped"):
            if not (self.built / f"{name}.jsonl").is_file():
                raise QilinError(
                    f"{self.built} has no {name}.jsonl, so what was trained on is not known; run notebook 01 first"
                )
        sources = {folder.name for folder in self.folders}
        duplicates: dict[str, dict[tuple[str, str, int], set[str]]] = {name: {} for name in SETS}
        for row in read_jsonl(self.built / "dropped.jsonl"):
            if row["source"] in sources and row["reason"] == "duplicate" and row["set"] in SETS:
                place, keeper = (row["source"], row["file"], row["line"]), row["detail"].removeprefix("of ")
                duplicates[row["set"]].setdefault(place, set()).add(keeper)
        tests, splits, copies = [], {}, set()
        for folder in self.folders:
            # A test set that cannot be read tells it when it is asked.
            with contextlib.suppress(Unreadable):
                for own, read in dialogues(folder) if is_test(folder) else ():
                    if isinstance(read, Record):
                        tests.append((folder, own, written(read.payload)))
        for name in SETS:
            keepers = set().union(*duplicates[name].values())
            splits[name], found = self._read_set(name, sources, keepers, tests)
            copies |= found
        rows = (row for row in read_jsonl(self.built / "dpo.jsonl") if row["split"] == TRAIN)
        preferred = {
            (row["prompt"][-1]["content"], row[kind][0]["content"]) for row in rows for kind in ("chosen", "rejected")
        }
        return splits, duplicates, copies, preferred

    def _read_set(
        self, name: str, sources: set[str], keepers: set[str], tests: Sequence[tuple[Path, str, Dialogue]]
    ) -> tuple[dict[str, str], set[tuple[Path, str]]]:
        """({id: split} of the records of `sources` and of `keepers`, copies of the `tests`); only the former's lines
        are parsed."""
        path, key = self.built / f"{name}.jsonl", _BODY[name]
        wanted: dict[str, set[tuple[Path, str]]] = {}
        for folder, own, said in tests:
            wanted.setdefault(f'{encoded(compose(name, said))}, "split": "{TRAIN}"}}', set()).add((folder, own))
        splits, copies = {}, set()
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                begun = _LINE.match(line)
                if begun is None:
                    raise QilinError(
                        f"{path} has a line that does not begin with an id: {line[:40]}; run notebook 01 again"
                    )
                if begun[2] in sources or begun[1] in keepers:
                    splits[begun[1]] = json.loads(line)["split"]
                if wanted:
                    copies |= wanted.get(key + line.rstrip("\n").partition(f", {key}")[2], set())
        return splits, copies


def written(said: Dialogue) -> Dialogue:
    """The dialogue with the text that 01 writes: cleaned and de-identified."""
    return mapped(said, lambda turns: deidentify_all([clean(turn) for turn in turns])[0])


def dialogues(folder: Path) -> Iterator[Unit]:
    """(id, what was read) of a folder: by the readers and in the numbering of notebook 01 where it knows the folder."""
    if folder.name in BY_NAME:
        source, test = BY_NAME[folder.name], is_test(folder)
        found = units(source, folder.parent, EVAL if test else TRAINING_SETS, notes={})
        for number, unit in enumerate(found, start=1):
            yield identity(f"{source.name}-test" if test else source.name, number), unit.read
        return
    with files_of(folder, "*.txt", advice="dialogues stand in lines id, P and D") as files:
        for file in files:
            yield from mc(label(file), opened(folder, file))


def is_test(folder: Path) -> bool:
    """Whether the folder's dialogues are a test set for notebook 01 too, or a set that it does not know."""
    source = BY_NAME.get(folder.name)
    return source is None or next(units(source, folder.parent, EVAL), None) is not None


def mc(file: str, stream: Stream) -> Iterator[Unit]:
    """Chunyu's dialogues (COLING 2020, main.63): "id<TAB>…" begins one, "P<TAB>…" is the patient, "D<TAB>…" the doctor.

    Turns of one speaker that follow each other are joined. Rejection: any other line, turns before the first id, a
    dialogue in which the doctor speaks first or nobody answers.
    """
    blocks: list[tuple[int, str, list[tuple[str, str]]]] = []
    for number, line in stream.lines():
        if isinstance(line, Reject):
            tag, text = line.reason, line.detail
        else:
            tag, tab, text = line.strip().partition("\t")
            # A line without a tag is a turn by itself, so that it is noticed.
            tag, text = (tag, text.strip()) if tab or tag in ("id", *_SPEAKERS) else (tag[:20], tag)
        if tag == "id" or tag and not blocks:
            blocks.append((number, text if tag == "id" else "", []))
        if tag not in ("", "id"):
            blocks[-1][2].append((_SPEAKERS.get(tag, tag), text))
    for line, own, turns in blocks:
        shown = excerpt(" ".join(text for _, text in turns))
        try:
            if not own:
                raise Reject("no id", f"line {line}")
            yield own, Record("mc", file, line, talk((speaker_of(who), text) for who, text in turns))
        except Reject as no:
            yield own, Rejection("mc", file, line, no.reason, excerpt(no.detail), shown)
