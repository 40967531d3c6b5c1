"""Answers of a server kept on disk, one JSON file a request: what was paid for once is not asked again.

A file is renamed into place whole, so processes may share the folder; one that is torn all the same (a full disk, an
edit) fails its checksum and is asked again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.errors import QilinError


class Responses:
    """A folder of answers; `damaged` names the files that could not be used and were asked again."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.damaged: list[str] = []

    def get(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a request, or None. Raises QilinError when its file cannot be read at all."""
        path = self._path(request)
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["request"] == request and kept["sha256"] == _digest(kept["answer"]):
                return kept["answer"]
        except FileNotFoundError:
            return None
        except OSError as reason:
            raise QilinError(f"{path} cannot be read: {reason.strerror}; mend its rights or delete it") from None
        except (ValueError, KeyError, TypeError):
            pass
        self.damaged.append(path.name)
        return None

    def put(self, request: dict[str, Any], answer: dict[str, Any]) -> None:
        """Keep an answer. Raises QilinError when the folder cannot be written."""
        path = self._path(request)
        try:
            files.write_json(path, {"request": request, "answer": answer, "sha256": _digest(answer)})
        except OSError as reason:
            raise QilinError(
                f"{path} cannot be written ({reason.strerror}), and answers are asked for only where they can be kept"
            ) from None

    def _path(self, request: dict[str, Any]) -> Path:
        return self.folder / f"{_digest(request)}.json"


def _digest(value: dict[str, Any]) -> str:
    return files.sha256_text(json.dumps(value, ensure_ascii=False, sort_keys=True))
