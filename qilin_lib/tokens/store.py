"""A token store: every text of a set tokenised once, in flat arrays that all processes map into memory.

ids.npy holds the token ids of all texts, one after the other. parts.npy says where each text starts and what it is: a
document, or the content of one turn. rows.npy says where the parts of each row start, and its source, split and part of
the mixture; row i is line i + 1 of the set's file. Both end with an entry for the end. There is no template in it: who
trains sets its tags around the texts, and cuts them (`tokens.template`), so a store serves every template and limit.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from qilin_lib import files
from qilin_lib.chimed.pool import Pool
from qilin_lib.errors import QilinError, sentence

# The fields of a row that hold turns; that of a document is "text".
TURNS = ("messages", "prompt", "chosen", "rejected")
PART = np.dtype([("start", np.int64), ("kind", np.uint8)])
ROW = np.dtype([("start", np.int64), ("source", np.uint16), ("split", np.uint8), ("part", np.uint8)])
COUNTED = ("samples", "tokens", "chars", "bytes")
# Bytes of lines that are tokenised at a time. A tokenizer takes some 150 bytes a token while it works.
BATCH = 1 << 19
# A file below this size is no work for processes, which take a second to start.
SMALL = 1 << 24


class Store(Sequence[dict[str, Any]]):
    """Rows as their file has them, but that contents are token ids: arrays, slices of a mapped file.

    With `values` (of source, split, part) only the rows that have them; `numbers` says which, 0 for the file's first.
    """

    def __init__(self, folder: Path, **values: str) -> None:
        self.folder = folder
        self.ids, self._parts, self._rows = (
            np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in ("ids", "parts", "rows")
        )
        self.names: dict[str, list[Any]] = files.read_json(folder / "names.json")
        chosen = np.ones(len(self._rows) - 1, dtype=bool)
        for name, value in values.items():
            known = self.names[name]
            chosen &= self._rows[name][:-1] == known.index(value) if value in known else False
        self.numbers = np.flatnonzero(chosen)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: Any) -> dict[str, Any]:
        number, names = self.numbers[place], self.names
        first, source, split, part = self._rows[number].item()
        row = {"source": names["source"][source], "split": names["split"][split], "part": names["part"][part]}
        row |= {field: [] for field in TURNS}
        parts = self._parts[first : self._rows[number + 1]["start"] + 1].tolist()
        for (start, kind), (end, _) in pairwise(parts):
            field, role = names["kind"][kind]
            content = self.ids[start:end]
            if role:
                row[field].append({"role": role, "content": content})
            else:
                row[field] = content
        return row

    def sources(self) -> np.ndarray:
        """The source of each row; strings, shape (n,)."""
        return np.array(self.names["source"], dtype=object)[self._rows["source"][self.numbers]]

    def lengths(self) -> np.ndarray:
        """Tokens of each row, of all its texts together; integers, shape (n,)."""
        return np.diff(self._starts())[self.numbers]

    def documents(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        """The token ids of the rows with these numbers, in their order. Read, not mapped: pages of a mapped file that
        were visited once would count as this process's memory."""
        starts, size = self._starts(), self.ids.itemsize
        with open(self.folder / "ids.npy", "rb") as handle:
            begin = os.fstat(handle.fileno()).st_size - size * len(self.ids)
            for number in numbers:
                start, end = starts[number : number + 2].tolist()
                data = os.pread(handle.fileno(), size * (end - start), begin + size * start)
                yield np.frombuffer(data, dtype=self.ids.dtype)

    def _starts(self) -> np.ndarray:
        return self._parts["start"][self._rows["start"]]


def rows(paths: Any, tokenizer: Any, **values: str) -> Store:
    """The rows of a job's file (`paths.data`) with these values: what 02 made of it (`paths.store`), or made now."""
    if folder := getattr(paths, "store", None):
        return Store(folder, **values)
    return temporary(files.read_jsonl(paths.data), tokenizer, **values)


def lines(path: Path, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
    """The rows of a set's file with these numbers, in the order of the file; no other line is parsed."""
    wanted = set(map(int, numbers))
    with open(path, "rb") as handle:
        yield from (json.loads(line) for number, line in enumerate(handle) if number in wanted)


class Growing:
    """A one-dimensional .npy file that is appended to; whole once its head was written again."""

    def __init__(self, handle: IO[bytes], kind: np.dtype) -> None:
        self.handle, self.kind, self.length = handle, kind, 0
        self.write_head()

    def append(self, values: np.ndarray) -> None:
        self.handle.write(values.tobytes())
        self.length += len(values)

    def write_head(self) -> None:
        # numpy's headers leave room for a larger length.
        self.handle.seek(0)
        described = {"descr": np.lib.format.dtype_to_descr(self.kind), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.handle, described)


def write(path: Path, folder: Path, tokenizer: Any) -> dict[str, dict[str, int]]:
    """Tokenise the set in the JSON-lines file `path` into `folder`, on all cores; returns what it counted.

    {source: {samples, tokens, chars, bytes}} of the texts alone, without template or end token. Special tokens that are
    written out in a text stay ordinary text. Memory does not grow with the set. QilinError names file and line of what
    is no row.
    """
    if not path.exists():
        raise QilinError(f"{path} does not exist")
    # {name: number}, numbered as they come.
    names: dict[str, dict[Any, int]] = {"source": {}, "split": {}, "part": {}, "kind": {}}
    counts = np.zeros((np.iinfo(np.uint16).max + 1, len(COUNTED)), np.int64)
    width = np.dtype(np.uint16 if max(tokenizer.get_vocab().values()) < 1 << 16 else np.uint32)
    with ExitStack() as stack:
        coder = tokenizer
        if tokenizer.is_fast:
            # A file of the Rust tokenizer: workers load it in a moment, and without transformers.
            coder = str(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "tokenizer.json")
            tokenizer.backend_tokenizer.save(coder)
        alone = not tokenizer.is_fast or path.stat().st_size < SMALL
        pool = stack.enter_context(Pool(1 if alone else None))
        ids, parts, rows = arrays = [
            Growing(stack.enter_context(files.atomic(folder / f"{name}.npy", binary=True)), kind)
            for name, kind in (("ids", width), ("parts", PART), ("rows", ROW))
        ]
        for coded, lengths, kinds, columns, sizes in pool.map(encode, _batches(path, coder, width)):
            table = np.empty(len(sizes), ROW)
            table["start"] = parts.length + np.cumsum([0, *columns.pop("parts")])[:-1]
            for name, values in columns.items():
                table[name] = [names[name].setdefault(value, len(names[name])) for value in values]
            rows.append(table)
            np.add.at(counts, table["source"], sizes)
            table = np.empty(len(kinds), PART)
            table["start"] = ids.length + np.cumsum([0, *lengths])[:-1]
            table["kind"] = [names["kind"].setdefault(kind, len(names["kind"])) for kind in kinds]
            parts.append(table)
            ids.append(coded)
        rows.append(np.array([(parts.length, 0, 0, 0)], ROW))
        parts.append(np.array([(ids.length, 0)], PART))
        for array in arrays:
            array.write_head()
    files.write_json(folder / "names.json", {name: list(known) for name, known in names.items()})
    return {source: dict(zip(COUNTED, counts[n].tolist(), strict=True)) for source, n in names["source"].items()}


def temporary(rows: Iterable[dict[str, Any]], tokenizer: Any, **values: str) -> Store:
    """A store of rows that 02 has not seen; its files go with the process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        files.write_jsonl(path, rows)
        write(path, path.parent, tokenizer)
        return Store(path.parent, **values)


def _batches(path: Path, *how: Any) -> Iterator[tuple[Any, ...]]:
    """Arguments of `encode`: some BATCH bytes of lines at a time."""
    number = 1
    with open(path, "rb") as handle:
        while some := handle.readlines(BATCH):
            yield path, number, some, *how
            number += len(some)


def encode(path: Path, first: int, some: list[bytes], coder: Any, width: np.dtype) -> tuple[Any, ...]:
    """Tokenise lines of a set, in a worker; `first` is the number of the first, `coder` a slow tokenizer or a fast
    one's file.

    Returns the ids of all parts as one array, the tokens of each part, its kind (field, role), {parts, source, split,
    part: the value of each row}, and the COUNTED of each row, shape (rows, 4).
    """
    columns: dict[str, list[Any]] = {"parts": [], "source": [], "split": [], "part": []}
    kinds: list[tuple[str, str]] = []
    texts: list[str] = []
    sizes: list[tuple[int, int]] = []
    for number, line in enumerate(some, start=first):
        try:
            row = json.loads(line.decode())
            own = list(contents(row))
            text = "".join([text for *_, text in own])
            sizes.append((len(text), len(text.encode())))
        except (ValueError, LookupError, TypeError, AttributeError) as reason:
            raise QilinError(f"{path}, line {number}: no row of a set ({sentence(reason)})") from None
        for name, values in columns.items():
            values.append(len(own) if name == "parts" else row.get(name, ""))
        kinds += [(field, role) for field, role, _ in own]
        texts += [text for *_, text in own]
    # As `template.text_ids` gives them.
    if isinstance(coder, str):
        coded = [one.ids for one in _backend(coder).encode_batch_fast(texts, add_special_tokens=False)]
    else:
        coded = coder(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []
    coded = [one if text else [] for text, one in zip(texts, coded, strict=True)]
    lengths = list(map(len, coded))
    ids = np.fromiter(chain.from_iterable(coded), width, sum(lengths))
    tokens = iter(lengths)
    counts = [(1, sum(islice(tokens, n)), *own) for n, own in zip(columns["parts"], sizes, strict=True)]
    return ids, lengths, kinds, columns, np.array(counts)


def contents(row: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(field, role, text) of every text of a ChiMed row: a document, which has no role, or turns."""
    if "text" in row:
        yield "text", "", row["text"]
    for field in TURNS:
        for turn in row.get(field, ()):
            yield field, turn["role"], turn["content"]


@functools.lru_cache(maxsize=1)
def _backend(path: str) -> Any:
    from tokenizers import Tokenizer

    if multiprocessing.parent_process() is not None:
        # There is a process for each core already.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    made = Tokenizer.from_file(path)
    made.no_truncation()
    made.no_padding()
    # What transformers sets for `split_special_tokens`: no record can forge a role tag or an end.
    made.encode_special_tokens = True
    return made
