"""The code cells of notebooks 01-05 on raw folders that leave a set empty: what can run runs, what cannot says why.

The cells run in this process, as a kernel runs them; trainings are child processes as always.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

from qilin_lib import files
from qilin_lib.errors import QilinError

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NONE_HELD = {f"heldout_share_{name}": 0.0 for name in ("cpt", "sft", "dpo", "general")}
# Fewer steps than logging_steps, too.
SHORT = {"max_steps": 2, "logging_steps": 5, "lora_r": 4}
Cells = Callable[..., str]


@pytest.fixture
def cells(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Cells:
    """`cells(notebook, **parameters)`: run them, show the value of each; returns what was printed and shown."""
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("QILIN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(notebook: str, **parameters: Any) -> str:
        parameters |= {"profile": "smoke", "run": "r"}
        if notebook == "02_tokenize":
            parameters |= {"base": str(tiny_model_dir), "block_size": 64}
        shell = InteractiveShell()
        shell.run_cell("\n".join(f"{key} = {value!r}" for key, value in parameters.items()), store_history=True)
        for cell in nbformat.read(FOLDER / f"{notebook}.ipynb", as_version=4).cells:
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
                done = shell.run_cell(cell.source, store_history=True, silent=False)
                if reason := done.error_before_exec or done.error_in_exec:
                    raise reason
                for name in ("_repr_html_", "_repr_png_"):
                    getattr(done.result, name, str)()
        return capsys.readouterr().out

    return run


def raw_folder(folder: Path, sentences: Callable, pairs: int) -> Path:
    """One source of conversations and, with `pairs`, one of preference pairs; no general-domain text."""
    texts = iter(sentences(400, 31))
    turns = [[{"from": who, "value": f"{i}，{next(texts)}"} for who in ("human", "gpt")] for i in range(30)]
    files.write_jsonl(folder / "medicalgpt_sft" / "a.jsonl", [{"conversations": pair} for pair in turns])
    rows = [
        {"conversations": [{"from": "human", "value": f"{i}，{next(texts)}"}]}
        | {side: f"{i}，{next(texts)}" for side in ("chosen", "rejected")}
        for i in range(pairs)
    ]
    if rows:
        files.write_jsonl(folder / "dpo_zh" / "a.jsonl", rows)
    return folder


def test_nothing_general_and_nothing_held_out(cells: Cells, sentences: Callable, tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw", sentences, pairs=12)
    assert re.search(r"(?m)^.*empty.*general", cells("01_build_chimed", raw_dir=str(raw), **NONE_HELD))
    cells("02_tokenize")
    cells("03_dcpt", **SHORT)
    cells("04_sft", **SHORT)
    assert "12" in cells("05_dpo", **SHORT)
    for stage in ("03_dcpt", "04_sft", "05_dpo"):
        folder = tmp_path / "runs" / "r" / stage
        assert (folder / "manifest.json").exists(), stage
        assert files.read_json(folder / "facts.json")["train_loss"] > 0


def test_a_source_of_general_conversations_alone(cells: Cells, sentences: Callable, tmp_path: Path) -> None:
    """No text for DCPT, no medical conversation, no pair: 03 hands the base on, 04 trains, 05 says what is missing."""
    texts = iter(sentences(80, 32))
    rows = [{"instruction": f"{i}，{next(texts)}", "input": "", "output": next(texts)} for i in range(30)]
    files.write_jsonl(tmp_path / "raw" / "general_zh" / "a.jsonl", rows)
    run = tmp_path / "runs" / "r"
    said = cells("01_build_chimed", raw_dir=str(tmp_path / "raw"))
    assert re.search(r"(?m)^.*empty.*cpt.*dpo", said) and (run / "01_build_chimed" / "manifest.json").exists()
    cells("02_tokenize")
    cells("03_dcpt", **SHORT)
    assert "unchanged" in files.read_json(run / "03_dcpt" / "facts.json")["note"]
    cells("04_sft", **SHORT)
    assert (run / "04_sft" / "manifest.json").exists()
    with pytest.raises(QilinError, match=r"05_dpo: dpo\.jsonl .*no source .*feeds dpo"):
        cells("05_dpo", **SHORT)
    assert not (run / "05_dpo" / "train.log").exists()
