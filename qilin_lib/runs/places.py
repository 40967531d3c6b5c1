"""Where runs and what may be used again lie."""

from __future__ import annotations

import os
from pathlib import Path

from qilin_lib.errors import QilinError
from qilin_lib.params import ROOT


def runs_dir() -> Path:
    """Where runs live: QILIN_RUNS_DIR, or runs/ beside the notebooks. QilinError if that is a file."""
    return _folder("QILIN_RUNS_DIR", "runs")


def cache_dir() -> Path:
    """Where reusable artefacts (tiny base, endpoint answers) live: QILIN_CACHE_DIR, or .cache/ beside the notebooks."""
    return _folder("QILIN_CACHE_DIR", ".cache")


def _folder(variable: str, usual: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT / usual)).expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise QilinError(f"{variable} = {str(folder)!r}: a file; nearest valid: a folder")
    return folder
