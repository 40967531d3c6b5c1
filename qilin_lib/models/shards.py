"""A model's weights written file by file, so that no more than one file of them is in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.models.load import INDEX

FILE_BYTES = 2 * 2**30


def write_shards(folder: Path, tensors: Iterable[tuple[str, Any]]) -> tuple[int, int]:
    """Write (name, tensor) pairs in their order, with transformers' file names and index; (files, bytes) written."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    written, names = 0, []
    for part in _parts(tensors):
        save_file(part, folder / f"{len(names)}.tmp", metadata={"format": "pt"})
        names.append(list(part))
        written += sum(tensor.nbytes for tensor in part.values())
    places, count = {}, len(names)
    for number, part in enumerate(names):
        file = "model.safetensors" if count == 1 else f"model-{number + 1:05}-of-{count:05}.safetensors"
        (folder / f"{number}.tmp").rename(folder / file)
        places |= dict.fromkeys(part, file)
    if count > 1:
        files.write_json(folder / INDEX, {"metadata": {"total_size": written}, "weight_map": places})
    return count, written


def _parts(tensors: Iterable[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    """Tensors by name, no more than FILE_BYTES at a time; each dictionary is emptied before the next is filled."""
    part: dict[str, Any] = {}
    for name, tensor in tensors:
        if part and sum(one.nbytes for one in part.values()) + tensor.nbytes > FILE_BYTES:
            yield part
            part.clear()
        # A view would take the whole tensor it is a part of along.
        part[name] = tensor.contiguous().clone() if tensor._is_view() else tensor.contiguous()
    yield part
