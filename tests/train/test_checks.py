"""What a training is refused for before anything is touched, with the reason that 01's ledger gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.train import checks

LOST = {"rejected": {"too short": 3}, "duplicate": 2, "contaminated": 1, "excluded": 0, "merged": 0}


@pytest.fixture
def stage(tmp_path: Path, training: Callable, tiny_model_dir: Path) -> Callable[..., Any]:
    """`stage(notebook, splits, ledger rows, **parameters)`: an unfinished stage on a run with rows of these splits."""

    def make(notebook: str, splits: list[str], rows: list[dict[str, Any]], **overrides: Any) -> Any:
        for name in ("sft", "dpo"):
            files.write_jsonl(tmp_path / "01_build_chimed" / f"{name}.jsonl", ({"split": split} for split in splits))
        files.write_json(tmp_path / "01_build_chimed" / "ledger.json", {"sources": rows, "hits": {}})
        files.write_json(tmp_path / "02_tokenize" / "base.json", {"path": str(tiny_model_dir)})
        parameters = training(notebook, run="mine", **overrides)
        return SimpleNamespace(name=notebook, parameters=parameters, parent=lambda name: tmp_path / name)

    return make


@pytest.mark.parametrize(
    ("splits", "rows", "why"),
    [
        ([], [], "no source of its raw folder feeds sft"),
        ([], [{"set": "dpo", "read": 5, "kept": 5, **LOST}], "no source of its raw folder feeds sft"),
        (
            [],
            [{"set": "sft", "read": 6, "kept": 0, **LOST}],
            "of 6 read none was kept (3 rejected, 2 duplicate, 1 contaminated)",
        ),
        (["heldout"] * 2, [{"set": "sft", "read": 2, "kept": 2, **LOST}], "all 2 records that were kept are held out"),
    ],
)
def test_an_empty_set_is_named_with_its_reason(stage: Callable, splits: list, rows: list, why: str) -> None:
    with pytest.raises(QilinError) as error:
        checks.check(stage("04_sft", splits, rows))
    assert str(error.value).startswith("04_sft: sft.jsonl of run 'mine' has nothing to train on: ")
    assert why in str(error.value) and "nearest valid" in str(error.value)


def test_one_row_is_enough_and_03_needs_none(stage: Callable) -> None:
    assert checks.check(stage("04_sft", ["heldout", "train"], [])) is None
    assert checks.check(stage("03_dcpt", [], [])) is None


@pytest.mark.parametrize("notebook", ["03_dcpt", "04_sft", "05_dpo"])
def test_a_misspelt_module_is_found_before_anything_starts(stage: Callable, notebook: str) -> None:
    asked = stage(notebook, ["train"], [], target_modules=["q_proj", "gate_porj"])
    with pytest.raises(QilinError, match=rf"{notebook}: target_modules: 'gate_porj' .*'gate_proj'"):
        checks.check(asked)
    asked.parameters.finetuning = "full"
    checks.check(asked)


@pytest.mark.parametrize(
    ("layers", "overrides", "refused"),
    [
        (40, {"deepspeed": "zero3"}, True),
        (40, {"deepspeed": "zero3_offload"}, True),
        (40, {"deepspeed": "zero2"}, False),
        (32, {"deepspeed": "zero3"}, False),
        (32, {"deepspeed": "zero3", "dtype": "float32"}, True),
    ],
)
def test_zero3_is_refused_where_a_card_cannot_hold_the_whole_model(
    stage: Callable, tiny_model_dir: Path, tmp_path: Path, layers: int, overrides: dict[str, Any], refused: bool
) -> None:
    """Each process loads all weights before DeepSpeed splits them: LLaMA's 13B in bfloat16 are 24 GiB, 7B are 12.6."""
    width, inner = {40: (5120, 13824), 32: (4096, 11008)}[layers]
    asked = stage("03_dcpt", ["train"], [], **{"finetuning": "full", "gpus": 8, "dtype": "bfloat16"} | overrides)
    shape = files.read_json(tiny_model_dir / "config.json") | {"num_hidden_layers": layers, "vocab_size": 32000}
    shape |= {"hidden_size": width, "intermediate_size": inner, "head_dim": 128}
    shape |= dict.fromkeys(("num_attention_heads", "num_key_value_heads"), layers)
    files.write_json(tmp_path / "big" / "config.json", shape)
    files.write_json(tmp_path / "02_tokenize" / "base.json", {"path": str(tmp_path / "big")})
    if not refused:
        assert checks.check(asked) is None
        return
    with pytest.raises(
        QilinError, match=rf"03_dcpt: deepspeed: {overrides['deepspeed']}: .*GiB.*nearest valid: .*zero2"
    ):
        checks.check(asked)
