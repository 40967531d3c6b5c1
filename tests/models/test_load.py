"""Loading: safetensors only, the precision asked for, NF4 where asked for."""

from __future__ import annotations

import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import add_lora
from qilin_lib.models.examine import why_unusable
from qilin_lib.models.load import load_model, made_once, write_shards


def test_precision_is_the_one_asked_for(tiny_model_dir: Path) -> None:
    """bfloat16, or NF4 with double quantisation for all linear layers but the head."""
    plain = load_model(tiny_model_dir, "bfloat16")
    assert {str(p.dtype) for p in plain.parameters()} == {"torch.bfloat16"} and plain.config.use_cache is False
    import bitsandbytes as bnb

    model = load_model(tiny_model_dir, quantised=True)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}
    assert len(layers) == 2 * 7 and "lm_head" not in layers
    states = [layer.weight.quant_state for layer in layers.values()]
    assert all(state.quant_type == "nf4" and state.nested for state in states)


def test_an_evaluation_does_not_change_quantised_weights(tiny_model_dir: Path) -> None:
    """bitsandbytes would round the scales for its own CPU kernel, and DPO evaluates before it trains."""
    import torch

    model, ids = load_model(tiny_model_dir, quantised=True), torch.arange(40)[None]
    before = model.train()(input_ids=ids).logits.detach()
    with torch.no_grad():
        evaluated = model.eval()(input_ids=ids).logits
    assert torch.equal(evaluated, before)
    assert torch.equal(model.train()(input_ids=ids).logits.detach(), before)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 100,000 bytes."""
    usual, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_is_full_is_a_sentence(full_disk: None, tmp_path: Path) -> None:
    """A merge writes gigabytes after days of training."""
    import torch

    with pytest.raises(QilinError, match="merged cannot be written: .*File too large.*make room"):
        write_shards(tmp_path / "merged", [("a", torch.zeros(100_000))])
    with pytest.raises(QilinError, match="cannot be written: File too large; make room"):
        made_once(tmp_path / "cache" / "tiny", lambda folder: folder.write_text("a" * 1_000_000))
    with pytest.raises(QilinError, match=r"scores\.json cannot be written: File too large; make room"):
        files.write_text(tmp_path / "scores.json", "a" * 1_000_000)
    with pytest.raises(QilinError, match="/sys/qilin.* cannot be written"):
        made_once(Path("/sys/qilin/tiny"), lambda folder: None)


@pytest.mark.parametrize("quantised", [False, True])
def test_a_weight_that_the_files_lack_is_an_error_and_not_drawn_by_chance(
    quantised: bool, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(QilinError, match=r"lack model\.layers\.1\.mlp\.down_proj\.weight \(1 ") as refused:
        load_model(folder, quantised=quantised)
    assert str(refused.value) == why_unusable(folder)
    with pytest.raises(QilinError, match="down_proj"):
        load_model(folder, rewards=True)


def test_the_head_of_a_reward_model_may_be_drawn_and_takes_the_place_of_lm_head(
    tiny_model_dir: Path, training: Callable
) -> None:
    model = load_model(tiny_model_dir, rewards=True)
    assert model.score.out_features == 1
    assert add_lora(model, training("03_dcpt", modules_to_save=["lm_head"]), False, rewards=True)
