"""A model's weights written file by file, so that no more than one file of them is in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.models.load import INDEX

FILE_BYTES = 2 * 2**30


class ShardWriter:
    """Writes tensors in the order they are given; `close` names the files as transformers does and writes the index."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.pending: dict[str, Any] = {}
        self.names: list[list[str]] = []
        self.written = 0

    def add(self, name: str, tensor: Any) -> None:
        """A file is written before it would grow beyond FILE_BYTES."""
        if self.pending and sum(one.nbytes for one in self.pending.values()) + tensor.nbytes > FILE_BYTES:
            self._write()
        # A view would take the whole tensor it is a part of along.
        self.pending[name] = tensor.contiguous().clone() if tensor._is_view() else tensor.contiguous()

    def close(self) -> list[Path]:
        """The files, in their order."""
        self._write()
        count, paths = len(self.names), []
        for number in range(1, count + 1):
            name = "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"
            paths.append(self._temporary(number).rename(self.folder / name))
        if count > 1:
            places = {name: path.name for path, names in zip(paths, self.names, strict=True) for name in names}
            files.write_json(self.folder / INDEX, {"metadata": {"total_size": self.written}, "weight_map": places})
        return paths

    def _write(self) -> None:
        from safetensors.torch import save_file

        self.names.append(list(self.pending))
        self.written += sum(one.nbytes for one in self.pending.values())
        save_file(self.pending, self._temporary(len(self.names)), metadata={"format": "pt"})
        self.pending = {}

    def _temporary(self, number: int) -> Path:
        return self.folder / f"model-{number:05}.tmp"
