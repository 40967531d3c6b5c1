"""A raw folder of any size from the embedded sample and, where QILIN_RAW_DIR names it, real text: benchmark input.

Model of duplication. Real records are cut into clauses of at most 40 characters, pooled by kind (what patients ask,
what doctors answer, facts of a knowledge graph, books, general text). A new record draws its clauses independently
from all over the pool; then 2 % of its characters are swapped for others, drawn by their frequency, and half of its
digits for random ones. So two new records share clauses (as real ones share phrases) but no sentence, and no window of
75 characters comes twice unless it was planted. Of all records

- 10 % are exact copies and 15 % near copies (aimed at a Jaccard similarity of character 5-grams spread evenly over
  0.7 to 0.98, two thirds by scattered substitutions, one third by cutting a stretch out) of an earlier record, which
  may stand in another source. An original is copied 1, 2, 3-10 or 50 times (60, 20, 18, 2 %), at every size;
- 3 % carry one of 200 boilerplates of 100-400 characters, never more than 60 % of the record;
- 0.5 % ask a benchmark item word for word;
- 2 % carry an invented telephone number or name;
- 0.2 % are broken rows: JSON lines cut in half, CSV rows without half of their cells (none in plain text).

The same texts, seed and size give the same bytes. The benchmarks' own folders are copied unchanged.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qilin_lib.chimed import sources
from qilin_lib.chimed.records import Dialogue, Disease, Exam, Passage, Payload, Preference, Record, strings
from qilin_lib.sample import raw_dir

PLANTED = {"exact copy": 0.1, "near copy": 0.15, "boilerplate": 0.03, "benchmark item": 0.005, "identifiers": 0.02,
           "broken row": 0.002}  # fmt: skip
NEAR = (0.7, 0.98)
SWAPPED = 0.02
PIECE = 40
BOILERPLATES = 200
BATCH_CHARS = 200_000
FILE_BYTES = 64 << 20
WAITING = 20_000
# The block of numbers was never issued to mobile customers.
IDENTIFIERS = (
    "我的手机号是1540000{number:04d}。",
    "主治医生：{name}，他让我再问问。",
    "我叫{name}，麻烦您了。",
)
SURNAMES, GIVEN = "赵钱孙李周吴郑王冯陈卫蒋沈韩杨", "明溪 若谷 思远 静姝 云帆 雨桐 景行 书瑶 知白 怀瑾".split()
NGRAM = 5
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode
# Where a turn ends while a record is being edited; no text holds it.
_END = "\x1f"
_NOT_WORD = re.compile(r"[\W_]+")
# Characters of four bytes (and lone surrogates) would make every string of a batch twice as wide.
_WIDE = re.compile("[\ud800-\udfff\U00010000-\U0010ffff]")
_CLAUSE = re.compile(r"[^，。；！？：,;!?\s]+[，。；！？：,;!?]*")


@dataclass(frozen=True)
class Shape:
    """How one source's new records look: fields are (pool, mean characters); records of one `group` copy each other.

    `share` is the source's part of all text.
    """

    source: str
    share: float
    group: str
    fields: tuple[tuple[str, int], ...]
    name: str


# Lengths as published for Huatuo-26M (arXiv 2305.01526, Table 1), else as measured on public excerpts of each source.
SHAPES = (
    Shape("huatuo_encyclopedia_qa", 0.25, "qa", (("ask", 15), ("answer", 540)), "train_{:03d}.jsonl"),
    Shape("huatuo_knowledge_graph_qa", 0.06, "kg", (("ask", 16), ("fact", 36)), "train_{:03d}.jsonl"),
    Shape("plain_text", 0.15, "text", (("book", 8), ("book", 520)), "books/{:03d}-医书汇编.txt"),
    Shape("toyhom_dialogue", 0.24, "qa", (("ask", 70), ("answer", 155)), "IM_内科/内科_{:03d}.csv"),
    Shape("medicalgpt_sft", 0.12, "qa", (("ask", 40), ("answer", 205)), "medical_sft_{:03d}.jsonl"),
    Shape("cmtmedqa", 0.08, "talk", (("ask", 30), ("answer", 110)) * 3, "CMtMedQA_{:03d}.json"),
    Shape("general_zh", 0.08, "general", (("general ask", 40), ("general", 260)), "belle_{:03d}.jsonl"),
    Shape("medicalgpt_reward", 0.02, "reward", (("ask", 45), ("answer", 190), ("answer", 120)), "reward_{:03d}.json"),
)
POOLS = ("ask", "answer", "fact", "book", "general ask", "general")


@dataclass
class Pool:
    """Clauses end to end as code points; clause i is codes[starts[i] : starts[i] + sizes[i]]."""

    codes: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    letters: np.ndarray
    mean: float

    @classmethod
    def of(cls, pieces: list[str]) -> Pool:
        codes = np.frombuffer("".join(pieces).encode("utf-32-le"), dtype=np.uint32)
        sizes = np.array([len(piece) for piece in pieces], dtype=np.int64)
        return cls(codes, np.cumsum(sizes) - sizes, sizes, codes[_han(codes)], float(sizes.mean()))


@dataclass
class Material:
    """What everything is made from: clause pools, boilerplates, benchmark questions with their folders."""

    pools: dict[str, Pool]
    boilerplates: list[str]
    items: list[str]
    folders: list[Path] = field(default_factory=list)


def _han(codes: np.ndarray) -> np.ndarray:
    return (codes >= 0x4E00) & (codes <= 0x9FFF)


def _parts(part: str, payload: Payload) -> Iterator[tuple[str, str]]:
    """(pool, text) of a payload."""
    ask, answer, book = ("ask", "answer", "book") if part == "medical" else ("general ask", "general", "general")
    match payload:
        case Dialogue(turns):
            yield from ((answer if number % 2 else ask, text) for number, text in enumerate(turns))
        case Preference(prompt, chosen, rejected):
            yield from ((ask, text) for text in prompt[::2])
            yield from ((answer, text) for text in (chosen, rejected))
        case Exam(_, _, _, explanation):
            yield answer, explanation
        case Disease():
            yield from (("fact", text) for text in strings(payload))
        case Passage(_, body):
            yield book, body


def pieces_of(text: str) -> list[str]:
    """The clauses of a text with their punctuation, none longer than PIECE characters."""
    found: list[str] = []
    for clause in _CLAUSE.findall(_WIDE.sub("", text)):
        found.extend(clause[at : at + PIECE] for at in range(0, len(clause), PIECE))
    return [piece for piece in found if len(piece) > 1]


def gather(folders: list[Path], seed: int) -> Material:
    """Pools from every training record of raw folders; each benchmark's questions from the first that has it."""
    dice = random.Random(f"{seed} boilerplate")
    pieces: dict[str, list[str]] = {name: [] for name in POOLS}
    items: list[str] = []
    taken: dict[str, Path] = {}
    for raw in folders:
        for source in sources.REGISTRY:
            for unit in sources.units(source, raw, sources.TRAINING_SETS):
                if isinstance(unit.read, Record):
                    for pool, text in _parts(source.part, unit.read.payload):
                        pieces[pool].extend(pieces_of(text))
            if source.name in taken:
                continue
            for unit in sources.units(source, raw, ("eval",)):
                taken[source.name] = raw / source.name
                if isinstance(unit.read, Record) and 20 <= len(text := strings(unit.read.payload)[0]) <= 120:
                    items.append(text.replace("\n", " "))
    prose = pieces["answer"]
    starts = [dice.randrange(len(prose) - 200) for _ in range(BOILERPLATES)]
    boilerplates = ["".join(prose[at : at + 200])[: dice.randint(100, 400)] for at in starts]
    pools = {name: Pool.of(found) for name, found in pieces.items()}
    return Material(pools, boilerplates, items, list(taken.values()))


def compose(pool: Pool, mean: int, count: int, least: np.ndarray, rng: np.random.Generator) -> list[str]:
    """`count` new texts of about `mean` characters (log-normal, sigma 0.5; at least `least` [count])."""
    wanted = np.maximum(mean * np.exp(rng.normal(-0.125, 0.5, count)), least)
    numbers = np.maximum(np.rint(wanted / pool.mean).astype(np.int64), 1)
    drawn = rng.integers(len(pool.sizes), size=numbers.sum())
    sizes = pool.sizes[drawn]
    ends = np.cumsum(sizes)
    codes = pool.codes[np.repeat(pool.starts[drawn] - (ends - sizes), sizes) + np.arange(ends[-1])]
    digits = np.flatnonzero((codes >= 48) & (codes <= 57))
    digits = digits[rng.random(len(digits)) < 0.5]
    codes[digits] = rng.integers(48, 58, size=len(digits))
    swapped = rng.integers(len(codes), size=int(len(codes) * SWAPPED))
    swapped = swapped[_han(codes[swapped])]
    codes[swapped] = pool.letters[rng.integers(len(pool.letters), size=len(swapped))]
    text = codes.tobytes().decode("utf-32-le")
    stops = [0, *ends[np.cumsum(numbers) - 1].tolist()]
    return [text[start:stop] for start, stop in zip(stops, stops[1:], strict=False)]


class Waiting:
    """Records that later ones will copy, each with the number of copies that it is still due."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._held: list[tuple[tuple[str, ...], int]] = []

    def offer(self, turns: tuple[str, ...]) -> None:
        """Take in about a tenth of what is offered, all at the beginning, so that there is always something to copy."""
        few = len(self._held) < WAITING // 20
        if len(self._held) < WAITING and (few or self._dice.random() < 0.1):
            pick = self._dice.random()
            due = 1 if pick < 0.6 else 2 if pick < 0.8 else self._dice.randint(3, 10) if pick < 0.98 else 50
            self._held.append((turns, due))

    def take(self, least: int) -> tuple[str, ...] | None:
        """One record of at least `least` characters, None when ten draws found none."""
        for _ in range(10 if self._held else 0):
            place = self._dice.randrange(len(self._held))
            turns, due = self._held[place]
            if sum(map(len, turns)) < least:
                continue
            self._held[place] = (turns, due - 1)
            if due == 1:
                self._held[place] = self._held[-1]
                self._held.pop()
            return turns
        return None


def near_copy(turns: tuple[str, ...], target: float, letters: str, dice: random.Random) -> tuple[str, ...]:
    """A copy whose character 5-grams have about Jaccard similarity `target` with the original's.

    With N grams, k far-apart substitutions leave (N - 5k) / (N + 5k); a stretch cut out leaves the rest, over N.
    """
    text = _END.join(turns)
    grams = max(len(_NOT_WORD.sub("", text)) - NGRAM + 1, 1)
    longest = max(range(len(turns)), key=lambda number: len(turns[number]))
    cut = round(grams * (1 - target))
    if dice.random() < 1 / 3 and 0 < cut < len(turns[longest]) // 2:
        at = dice.randrange(len(turns[longest]) - cut)
        shorter = turns[longest][:at] + turns[longest][at + cut :]
        return (*turns[:longest], shorter, *turns[longest + 1 :])
    changes = max(round(grams * (1 - target) / (NGRAM * (1 + target))), 1)
    # One change in each of equal stretches, so that few 5-grams are hit twice.
    step, done, parts = len(text) / changes, 0, []
    for number in range(changes):
        at = max(int((number + dice.random()) * step), done)
        while at < len(text) and not text[at].isalnum():
            at += 1
        parts += text[done:at], letters[int(dice.random() * len(letters))] if at < len(text) else ""
        done = at + 1
    return tuple(("".join(parts) + text[done:]).split(_END))


class Amplifier:
    """Batches of records, one source each, sources in turn by their share. `planted` counts what has been made."""

    def __init__(self, material: Material, seed: int = 17) -> None:
        self.planted: dict[str, Counter[str]] = {shape.source: Counter() for shape in SHAPES}
        self._material = material
        self._dice = random.Random(f"{seed} amplify")
        self._rng = np.random.default_rng(seed)
        self._waiting = {shape.group: Waiting(self._dice) for shape in SHAPES}
        self._letters = material.pools["answer"].letters[:20_000].tobytes().decode("utf-32-le")

    def batches(self, size: float) -> Iterator[tuple[Shape, list[tuple[str, tuple[str, ...]]]]]:
        """(shape, [(kind, turns)]) until the texts hold `size` bytes, within 1 %; kind is "new" or a key of PLANTED."""
        written = {shape.source: 0 for shape in SHAPES}
        # At least 300 batches, so that a small folder has the sources in their shares too.
        most = min(BATCH_CHARS, int(size / 3 / 300))
        while (total := sum(written.values())) < size:
            shape = max(SHAPES, key=lambda shape: shape.share * (total + 1) - written[shape.source])
            records = self._batch(shape, min(most, int((size - total) / 3) + 1))
            written[shape.source] += _bytes(records)
            self.planted[shape.source].update(kind for kind, _ in records)
            yield shape, records

    def _batch(self, shape: Shape, characters: int) -> list[tuple[str, tuple[str, ...]]]:
        count = characters // sum(mean for _, mean in shape.fields) + 1
        kinds = self._dice.choices([*PLANTED, "new"], [*PLANTED.values(), 1 - sum(PLANTED.values())], k=count)
        # A boilerplate needs room: at most 60 % of the record.
        least = np.where(np.array(kinds) == "boilerplate", 170, 0)
        longest = max(range(len(shape.fields)), key=lambda number: shape.fields[number][1])
        columns = [
            compose(self._material.pools[pool], mean, count, least * (number == longest), self._rng)
            for number, (pool, mean) in enumerate(shape.fields)
        ]
        return [self._record(shape, kind, turns) for kind, turns in zip(kinds, zip(*columns, strict=True), strict=True)]

    def _record(self, shape: Shape, kind: str, turns: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        dice = self._dice
        if shape.group == "talk":
            turns = turns[: 2 * dice.randint(1, 3)]
        if kind == "broken row" and shape.group == "text":
            kind = "new"
        if kind in ("exact copy", "near copy"):
            original = self._waiting[shape.group].take(0 if kind == "exact copy" else 40)
            if original is None:
                kind = "new"
            elif kind == "exact copy":
                return kind, original
            else:
                return kind, near_copy(original, dice.uniform(*NEAR), self._letters, dice)
        if kind == "new":
            self._waiting[shape.group].offer(turns)
        elif kind == "benchmark item":
            turns = (dice.choice(self._material.items), *turns[1:])
            if shape.group == "text":
                turns = (turns[0][:8], turns[0] + turns[1])
        elif kind == "identifiers":
            name = dice.choice(SURNAMES) + dice.choice(GIVEN)
            sentence = dice.choice(IDENTIFIERS).format(number=dice.randrange(10_000), name=name)
            turns = (*turns[:-1], turns[-1] + sentence)
        elif kind == "boilerplate":
            turns = self._with_boilerplate(turns)
        return kind, turns

    def _with_boilerplate(self, turns: tuple[str, ...]) -> tuple[str, ...]:
        place = max(range(len(turns)), key=lambda number: len(turns[number]))
        text, inserted = turns[place], self._dice.choice(self._material.boilerplates)
        inserted = inserted[: max(100, int(0.6 * len(text)))]
        at = self._dice.randrange(len(text) + 1)
        return (*turns[:place], text[:at] + inserted + text[at:], *turns[place + 1 :])


def _json(shape: Shape, turns: tuple[str, ...]) -> dict:
    match shape.source:
        case "huatuo_encyclopedia_qa":
            return {"questions": [[turns[0]]], "answers": [turns[1]]}
        case "huatuo_knowledge_graph_qa":
            return {"questions": [turns[0]], "answers": [turns[1]]}
        case "medicalgpt_sft":
            pairs = zip(("human", "gpt"), turns, strict=True)
            return {"conversations": [{"from": who, "value": said} for who, said in pairs]}
        case "cmtmedqa":
            history = [list(turns[at : at + 2]) for at in range(0, len(turns) - 2, 2)]
            return {"instruction": turns[-2], "input": "", "output": turns[-1], "history": history}
        case "general_zh":
            return {"instruction": turns[0], "input": "", "output": turns[1]}
    return {"question": turns[0], "response_chosen": turns[1], "response_rejected": turns[2]}


def rendered(shape: Shape, records: list[tuple[str, tuple[str, ...]]]) -> str:
    """The records as rows of their source's format."""
    if shape.name.endswith(".txt"):
        return "".join(f"<篇名>{turns[0]}\n\n内容：{turns[1]}。\n\n" for _, turns in records)
    if shape.name.endswith(".csv"):
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        for kind, (ask, answer) in records:
            # The title repeats the question's beginning, which the reader notices; so a copy stays a copy.
            row = ("内科", ask[:12], ask, answer)
            rows.writerow(row[:2] if kind == "broken row" else row)
        return text.getvalue()
    lines = []
    for kind, turns in records:
        line = _ENCODE(_json(shape, turns))
        lines.append(line[: len(line) // 2] if kind == "broken row" else line)
    return "\n".join(lines) + "\n" if shape.name.endswith("l") else ",\n".join(lines)


def _bytes(records: list[tuple[str, tuple[str, ...]]]) -> int:
    # Exact for every 16th record, taken for all: counting costs as much as writing.
    some = sum(len(text.encode()) / len(text) for _, turns in records[::16] for text in turns[-1:])
    return int(some / len(records[::16]) * sum(len(text) for _, turns in records for text in turns))


class Files:
    """The files of one source, a new one every `limit` bytes."""

    def __init__(self, folder: Path, shape: Shape, limit: int) -> None:
        self._folder, self._shape, self._limit = folder, shape, limit
        self._number, self._left = 0, 0
        self._handle: io.BufferedWriter | None = None

    def write(self, text: str) -> None:
        """Append rows."""
        raw = text.encode("gb18030" if self._shape.name.endswith(".csv") else "utf-8")
        if self._left <= 0:
            self.close()
            path = self._folder / self._shape.source / self._shape.name.format(self._number)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle, self._number, self._left = open(path, "xb"), self._number + 1, self._limit
            self._handle.write(self._edges()[0])
        elif self._shape.name.endswith(".json"):
            raw = b",\n" + raw
        self._handle.write(raw)
        self._left -= len(raw)

    def _edges(self) -> tuple[bytes, bytes]:
        kind = self._shape.name.rpartition(".")[2]
        return {"json": (b"[\n", b"\n]\n"), "csv": (b"department,title,ask,answer\n", b"")}.get(kind, (b"", b""))

    def close(self) -> None:
        """Finish the open file."""
        if self._handle is not None:
            self._handle.write(self._edges()[1])
            self._handle.close()


def amplify(target: Path, size: float, seed: int = 17) -> dict:
    """Write a raw folder with `size` bytes (within 1 %) of UTF-8 text into the new folder `target`; returns the counts.

    The planted counts also stand beside it in <target>.planted.json: records of each kind, by source and in all.
    """
    target.mkdir(parents=True)
    real = os.environ.get("QILIN_RAW_DIR")
    found = gather([*([Path(real)] if real else []), raw_dir()], seed)
    for folder in found.folders:
        # A training split beside the benchmark's would be real text among ours.
        shutil.copytree(folder, target / folder.name, ignore=shutil.ignore_patterns("train*"))
    maker = Amplifier(found, seed)
    files = {
        shape.source: Files(target, shape, min(FILE_BYTES, max(int(size * shape.share / 3), 1))) for shape in SHAPES
    }
    try:
        for shape, records in maker.batches(size):
            files[shape.source].write(rendered(shape, records))
    finally:
        for one in files.values():
            one.close()
    total: Counter[str] = sum(maker.planted.values(), Counter())
    counts = {"bytes": int(size), "seed": seed, "records": total.total(), "total": dict(total)}
    counts["by_source"] = {name: dict(found) for name, found in maker.planted.items()}
    target.with_name(target.name + ".planted.json").write_text(
        json.dumps(counts, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    return counts
