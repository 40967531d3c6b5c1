"""One rendered sample for all tests of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from qilin_lib.sample.render import render


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("sample") / "raw"
    return folder, render(folder)
