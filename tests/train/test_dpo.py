"""DPO: pairs in the SFT template, the loss of Rafailov et al. 2023 (Eq. 7), and its reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib.models.load import load_model
from qilin_lib.tokens.template import BAICHUAN, PLAIN
from qilin_lib.train import dpo
from qilin_lib.train.fit import prepare_model

# Far enough for the loss to leave ln 2; the product of two small LoRA matrices needs more than a whole weight.
SHIFT = {"lora": 0.1, "qlora": 0.1, "full": 0.03}


@pytest.fixture(scope="module")
def rows(sentences: Callable) -> list[dict[str, Any]]:
    """Seven triplets with answers of different lengths; every other one asks twice."""
    texts = sentences(35, 8)
    made = []
    for i in range(7):
        first, answer, second, good, bad = texts[5 * i : 5 * i + 5]
        earlier = [{"role": "user", "content": first}, {"role": "assistant", "content": answer}] if i % 2 else []
        made.append(
            {
                "prompt": [*earlier, {"role": "user", "content": second}],
                "chosen": [{"role": "assistant", "content": good}],
                "rejected": [{"role": "assistant", "content": bad}],
            }
        )
    return made


@pytest.fixture
def job(tiny_model_dir: Path, training: Callable, tmp_path: Path) -> Callable[..., SimpleNamespace]:
    def make(**overrides: Any) -> SimpleNamespace:
        return SimpleNamespace(
            parameters=training("05_dpo", beta=0.3, **overrides),
            out=tmp_path,
            template=BAICHUAN,
            paths=SimpleNamespace(weights=tiny_model_dir),
        )

    return make


def set_up(job: SimpleNamespace, rows: list[dict[str, Any]], shift: float = 0.0) -> tuple[Any, list[dpo.Pair]]:
    """A trainer whose policy went `shift` away from where it was made."""
    import torch

    model, tokenizer = prepare_model(job.parameters, job.paths.weights)
    pairs = [dpo.pair(row, job.template, tokenizer, job.parameters) for row in rows]
    trainer = dpo.make_trainer(job, model, tokenizer, pairs[:4], pairs)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            if weight.requires_grad:
                # TRL casts the adapter of a quantised model to bfloat16; `fit` undoes that before it trains.
                weight.data = weight.data.float() + shift * torch.randn(weight.shape)
    return trainer, pairs


def answer_logprob(model: Any, prompt: list[int], answer: list[int]) -> float:
    import torch

    with torch.no_grad():
        table = model(input_ids=torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
    return sum(table[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))


def loss_by_the_book(policy: Any, reference: Any, pairs: list[dpo.Pair], beta: float, flipped: float = 0.0) -> float:
    """-log σ(β [log π/π_ref (chosen) - log π/π_ref (rejected)]), mean over pairs; `flipped`: noise (robust DPO)."""
    losses = []
    for p in pairs:
        ratio = {
            side: answer_logprob(policy, p["prompt_ids"], p[f"{side}_ids"])
            - answer_logprob(reference, p["prompt_ids"], p[f"{side}_ids"])
            for side in ("chosen", "rejected")
        }
        margin = beta * (ratio["chosen"] - ratio["rejected"])
        clean, wrong = math.log1p(math.exp(-margin)), math.log1p(math.exp(margin))
        losses.append(((1 - flipped) * clean - flipped * wrong) / (1 - 2 * flipped))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("template", [BAICHUAN, PLAIN])
def test_pair_is_the_templates_encoding(template: Any, rows: list[dict[str, Any]], tiny_tokenizer: Any) -> None:
    parameters = SimpleNamespace(max_source_length=500, max_target_length=500)
    for row in rows:
        found = dpo.pair(row, template, tiny_tokenizer, parameters)
        assert found["prompt_ids"] == template.encode(row["prompt"], tiny_tokenizer, add_generation_prompt=True)
        for side in ("chosen", "rejected"):
            whole = template.encode(row["prompt"] + row[side], tiny_tokenizer)
            assert found["prompt_ids"] + found[f"{side}_ids"] == whole
            assert found[f"{side}_ids"][-1] == tiny_tokenizer.eos_token_id


def test_long_turns_of_a_pair_are_cut_inside(rows: list[dict[str, Any]], tiny_tokenizer: Any) -> None:
    found = dpo.pair(rows[0], BAICHUAN, tiny_tokenizer, SimpleNamespace(max_source_length=3, max_target_length=2))
    user, assistant = tiny_tokenizer.convert_tokens_to_ids(["<reserved_102>", "<reserved_103>"])
    assert found["prompt_ids"][0] == user and found["prompt_ids"][-1] == assistant and len(found["prompt_ids"]) == 5
    assert len(found["chosen_ids"]) == 3 and found["chosen_ids"][-1] == tiny_tokenizer.eos_token_id


@pytest.mark.parametrize("kind, flipped", [("lora", 0.0), ("lora", 0.1), ("qlora", 0.0), ("full", 0.0)])
def test_loss_is_the_papers(
    kind: str, flipped: float, job: Callable, rows: list[dict[str, Any]], tiny_model_dir: Path
) -> None:
    trainer, pairs = set_up(job(finetuning=kind, label_smoothing=flipped), rows, SHIFT[kind])
    reference = load_model(tiny_model_dir, quantised=kind == "qlora").eval()
    expected = loss_by_the_book(trainer.model.eval(), reference, pairs, 0.3, flipped)
    assert abs(expected - math.log(2)) > 0.01
    # One batch of all pairs: a mean over unequal batches would not be the mean over pairs.
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(pairs)).item()
    assert loss == pytest.approx(expected, abs=1e-4)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-4)


def test_precomputed_reference_gives_the_same_loss(job: Callable, rows: list[dict[str, Any]]) -> None:
    losses = []
    for precompute in (False, True):
        trainer, _ = set_up(job(precompute_ref_log_probs=precompute), rows, SHIFT["lora"])
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] != pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
def test_loss_before_step_one_is_ln_2(kind: str, job: Callable, rows: list[dict[str, Any]]) -> None:
    trainer, pairs = set_up(job(finetuning=kind), rows)
    assert dpo.step_zero_loss(trainer, pairs) == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_wrong_reference_stops_the_training(kind: str, job: Callable, rows: list[dict[str, Any]]) -> None:
    """LLaMA-Factory#8459: the reference was silently another model than the policy."""
    trainer, pairs = set_up(job(finetuning=kind), rows, SHIFT[kind])
    with pytest.raises(RuntimeError, match="not ln 2 = 0.6931: the reference is not the SFT policy"):
        dpo.step_zero_loss(trainer, pairs)


def test_without_heldout_pairs_there_is_no_loss_to_check() -> None:
    assert dpo.step_zero_loss(None, []) is None


def test_labelled_puts_loss_on_the_answer() -> None:
    assert dpo.labelled([1, 2], [3, 4]) == ([1, 2, 3, 4], [-100, -100, 3, 4])
