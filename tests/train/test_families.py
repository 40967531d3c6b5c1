"""Every published family trains as it stands: packed rows, labelled positions, and 02 to 05 in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import families

from qilin_lib.errors import QilinError
from qilin_lib.models.load import load_model
from qilin_lib.tokens.template import IGNORE
from qilin_lib.train import sft
from qilin_lib.train.fit import prepare_model

# Of a loss in float32. Wrong isolation, windows, caps or scales move it by more than a hundredth.
TOLERANCE = 2e-5
LENGTHS = (23, 5, 11, 17, 3, 30)


@pytest.fixture(scope="module")
def base(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`base(family)`: folder of its scaled-down model, made once."""
    made: dict[str, Path] = {}

    def make(family: str, **changes: Any) -> Path:
        name = "-".join([family, *changes])
        if name not in made:
            made[name] = families.base(family, tiny_tokenizer, tmp_path_factory.mktemp(name) / "base", **changes)
        return made[name]

    return make


def conversations(vocabulary: int) -> list[sft.Example]:
    """Made-up ids, the second half of each with loss; some longer than a window, some shorter."""
    import torch

    draw = torch.Generator().manual_seed(11)
    rows = [torch.randint(6, vocabulary, (length,), generator=draw).tolist() for length in LENGTHS]
    return [(ids, [IGNORE] * (len(ids) // 2) + ids[len(ids) // 2 :]) for ids in rows]


def loss_apart(folder: Path, examples: list[sft.Example]) -> float:
    """Mean loss of all labelled tokens: each conversation alone, every logit, by transformers' own attention."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for ids, labels in examples:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
            target = torch.tensor(labels[1:])
            total += torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum").item()
            count += int((target != IGNORE).sum())
    return total / count


def packed_trainer(folder: Path, parameters: Any, out: Path) -> tuple[Any, list[sft.Example]]:
    """SFT's trainer on `conversations`, all in one batch of rows of 48 tokens."""
    parameters.max_length, parameters.per_device_train_batch_size = 48, len(LENGTHS)
    model, tokenizer = prepare_model(parameters, folder)
    examples = conversations(model.config.vocab_size)
    job = SimpleNamespace(parameters=parameters, out=out)
    return sft.make_trainer(job, model, tokenizer, examples), examples


def first_loss(trainer: Any) -> tuple[float, dict[str, Any]]:
    """(loss of the first batch, the batch), by the model and the batches that would be trained with."""
    import torch

    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        return trainer.model.eval()(**batch).loss.item(), batch


# Soft caps: not by sdpa.
BACKENDS = [
    (family, kernel)
    for family in families.FAMILIES
    for kernel in ("auto", "sdpa", "eager")
    if (family, kernel) != ("gemma2", "sdpa")
]


@pytest.mark.parametrize(("family", "kernel"), BACKENDS)
def test_packed_conversations_have_the_loss_that_each_has_alone(
    family: str, kernel: str, base: Callable, training: Callable, tmp_path: Path
) -> None:
    """Soft caps, windows and scales of logits included; and only labelled positions reach the vocabulary."""
    parameters = training("04_sft", packing=True, attn_implementation=kernel)
    trainer, examples = packed_trainer(base(family), parameters, tmp_path)
    used = "eager" if family == "gemma2" else "documents" if kernel == "auto" else kernel
    assert trainer.model.config._attn_implementation == used
    found, batch = first_loss(trainer)
    assert (batch["position_ids"][:, 1:] == 0).any(), "nothing shares a row: this would prove nothing"
    assert found == pytest.approx(loss_apart(base(family), examples), abs=TOLERANCE)


@pytest.mark.parametrize("family", families.ONE_TEXT)
def test_a_model_that_reads_a_row_as_one_text_is_not_packed(
    family: str, base: Callable, training: Callable, tmp_path: Path
) -> None:
    """Its neighbours would show in every loss; a row each is right."""
    with pytest.raises(QilinError, match="nearest valid: packing: false"):
        packed_trainer(base(family), training("04_sft", packing=True, finetuning="full"), tmp_path)
    trainer, examples = packed_trainer(base(family), training("04_sft", packing=False, finetuning="full"), tmp_path)
    assert first_loss(trainer)[0] == pytest.approx(loss_apart(base(family), examples), abs=TOLERANCE)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_model_that_is_only_asked_loads(family: str, base: Callable) -> None:
    """Held-out scoring, samples and evaluation name no attention."""
    assert load_model(base(family)).config.model_type == families.configuration(family, 700).model_type
