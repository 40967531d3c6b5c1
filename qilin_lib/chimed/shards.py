"""Many texts in one file: UTF-8 bytes end to end, and where each ends. What the build keeps on disk, not in memory.

A shard has a stem such as `work/00012`; its parts are files `00012.<part>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from qilin_lib import files


def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array atomically; `np.load(path, mmap_mode="r")` reads it back without holding it."""
    with files.atomic(path, binary=True) as handle:
        # np.save on a file that runs out of room forgets the system's reason; plain writes keep it.
        values = np.ascontiguousarray(values)
        np.lib.format.write_array_header_1_0(handle, np.lib.format.header_data_from_array_1_0(values))
        handle.write(values.view(np.uint8).data if values.size else b"")


def write_texts(stem: Path, texts: Sequence[str] | Sequence[bytes]) -> None:
    """Write <stem>.utf8 and <stem>.ends.npy (int64 byte offsets [len(texts)]); the second file is written last."""
    encoded = [text if isinstance(text, bytes) else text.encode("utf-8") for text in texts]
    with files.atomic(stem.with_suffix(".utf8"), binary=True) as handle:
        handle.writelines(encoded)
    write_array(stem.with_suffix(".ends.npy"), np.cumsum([len(raw) for raw in encoded], dtype=np.int64))


class Texts:
    """The texts of one shard, read one by one (`texts[3]`) or all (`list(texts)`)."""

    def __init__(self, stem: Path) -> None:
        self._ends = np.load(stem.with_suffix(".ends.npy"))
        self._path = stem.with_suffix(".utf8")

    @cached_property
    def _bytes(self) -> np.ndarray:
        mapped = np.memmap(self._path, dtype=np.uint8, mode="r") if self._path.stat().st_size else np.empty(0, np.uint8)
        # A plain view of the mapped pages: an np.memmap does more work at every slice taken of it.
        return np.asarray(mapped)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> str:
        return self.raw(number).decode("utf-8")

    def raw(self, number: int) -> bytes:
        """The bytes of one text."""
        if not 0 <= number < len(self._ends):
            raise IndexError(number)
        start = int(self._ends[number - 1]) if number else 0
        return self._bytes[start : int(self._ends[number])].tobytes()

    def some(self, numbers: np.ndarray) -> list[str]:
        """These texts; the file is open for as long as that takes, so that many shards can be held."""
        spans = zip(np.append(0, self._ends)[numbers].tolist(), self._ends[numbers].tolist(), strict=True)
        with open(self._path, "rb", buffering=0) as handle:
            return [handle.read(end - handle.seek(start)).decode("utf-8") for start, end in spans]

    def whole(self) -> str:
        """All texts in one string, much faster than joining them."""
        return self._bytes.tobytes().decode("utf-8")
