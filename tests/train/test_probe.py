"""Two steps at the largest batch: the real trainer, on made-up rows as long as any may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.train import methods, probe

pytestmark = pytest.mark.slow

SETTINGS = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_source_length": 40}
SETTINGS |= {"max_target_length": 24, "max_length": 96, "finetuning": "lora"}


@pytest.fixture
def job(training: Callable, tiny_model_dir: Path, tmp_path: Path) -> Callable[[str], SimpleNamespace]:
    def make(notebook: str) -> SimpleNamespace:
        chosen = {name: value for name, value in SETTINGS.items() if name in vars(params.load(notebook))}
        return probe.job_of(vars(training(notebook, **chosen)), tiny_model_dir, tmp_path)

    return make


@pytest.mark.parametrize(
    ("notebook", "row", "method"),
    [
        ("03_dcpt", 48, {}),
        ("04_sft", 96, {}),
        ("05_dpo", 64, {}),
        ("05_dpo", 64, {"method": "kto"}),
        ("05_dpo", 64, {"method": "orpo"}),
    ],
)
def test_every_row_is_full_and_the_peak_lies_below_the_bound(
    notebook: str, row: int, method: dict, job: Callable
) -> None:
    work = job(notebook)
    vars(work.parameters).update(method)
    rows, length = methods.batch(work.parameters, 48)
    assert length == row
    facts = probe.measure(work, block_size=48)
    assert facts["tokens_input"] == 2 * 2 * rows * row and facts["peak_memory_gib"] > 0.1
    assert facts["input_tokens_per_second"] > 0 and facts["loss"] == facts["loss"]
    seen = probe.trainer_of(work, 48, 2)
    assert seen.args.max_steps == 2
    batch: dict[str, Any] = next(iter(seen.get_train_dataloader()))
    entering = [batch[name] for name in batch if name.endswith("input_ids") and not name.startswith("KL")]
    assert sum(len(ids) for ids in entering) == rows and {ids.shape[1] for ids in entering} == {row}


def test_a_probe_runs_as_its_training_would(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a child process, from the base that 02 left; nothing is written into the run."""
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    files.write_json(tmp_path / "smoke" / "02_tokenize" / "base.json", {"path": str(tiny_model_dir)})
    before = sorted(tmp_path.rglob("*"))
    shown = probe.start("05_dpo", "smoke")
    assert shown["peak_memory_gib"] > 0.1 and sorted(tmp_path.rglob("*")) == before


def test_a_probe_without_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    with pytest.raises(QilinError, match="run 02_tokenize of 'smoke' first"):
        probe.start("04_sft", "smoke")
