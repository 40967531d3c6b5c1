"""KTO and ORPO in 05: losses by their papers, the reference before step 1, what is refused, what it is called."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.trainings import job as job_of
from helpers.trainings import shifted, token_logprobs, triplets

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.models import names
from qilin_lib.models.load import load_model
from qilin_lib.train import methods
from qilin_lib.train.fit import prepare_model
from qilin_lib.train.methods import dpo

pytestmark = pytest.mark.slow
BETA = 0.3


@pytest.fixture(scope="module")
def rows(sentences: Callable) -> list[dict[str, Any]]:
    """Twelve triplets, four held out; their rejected answers are longer and longer."""
    made = triplets(sentences(36, 18), 12, held=4)
    for i, row in enumerate(made):
        row["rejected"][0]["content"] = row["rejected"][0]["content"][: 6 + 3 * i]
    return made


@pytest.fixture
def job(tiny_model_dir: Path, training: Callable, tmp_path: Path, rows: list) -> Callable[..., SimpleNamespace]:
    files.write_jsonl(tmp_path / "dpo.jsonl", rows)
    small = {"beta": BETA, "per_device_train_batch_size": 2, "max_steps": 2}

    def make(**overrides: Any) -> SimpleNamespace:
        return job_of(training("05_dpo", **small | overrides), tmp_path, tiny_model_dir, data=tmp_path / "dpo.jsonl")

    return make


def trainer_and_batch(
    job: SimpleNamespace, rows: list[dict[str, Any]], shift: float = 0.2, seed: int = 3
) -> tuple[Any, Any, list[dpo.Pair]]:
    """A trainer whose policy went away from the reference, its first batch, the pairs."""

    model, tokenizer = prepare_model(job.parameters, job.paths.weights)
    pairs = [dpo.pair(row, job.template, tokenizer, job.parameters) for row in rows[:8]]
    trainer = methods.of(job.parameters).load().make_trainer(job, model, tokenizer, pairs, pairs)
    shifted(trainer.model, shift, seed).train()
    (batch,), _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    return trainer, batch, pairs


def answer(model: Any, prompt: list[int], ids: list[int]) -> Any:
    return token_logprobs(model, prompt + ids)[-len(ids) :]


@pytest.mark.parametrize(("finetuning", "shift", "seed"), [("lora", 0.1, 3), ("full", 0.03, 5)])
def test_kto_loss_is_equation_7(
    finetuning: str, shift: float, seed: int, job: Callable, rows: list, tiny_model_dir: Path
) -> None:
    """Ethayarajh et al. 2024 (arXiv 2402.01306): z0 is the mean log-ratio of answers to other prompts of the batch."""
    import torch

    trainer, batch, pairs = trainer_and_batch(job(method="kto", finetuning=finetuning), rows, shift, seed)
    reference, policy = load_model(tiny_model_dir), trainer.model
    known = {
        tuple(one["prompt_ids"] + one[f"{side}_ids"]): (one["prompt_ids"], one[f"{side}_ids"], side == "chosen")
        for one in pairs
        for side in ("chosen", "rejected")
    }
    examples = [
        known[tuple(ids[mask.bool()].tolist())]
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert len(examples) == 4, "two pairs' worth of answers"
    with torch.no_grad():
        other = [examples[-1], *examples[:-1]]
        ratio = lambda prompt, ids: (answer(policy, prompt, ids) - answer(reference, prompt, ids)).sum()  # noqa: E731
        kl = sum(ratio(one[0], two[1]) for one, two in zip(examples, other, strict=True)) / len(examples)
        assert (kl > 0.1) == (finetuning == "full"), "below zero it counts as zero: both are seen"
        kl = kl.clamp(min=0)
        losses = [
            1 - torch.sigmoid(BETA * (ratio(prompt, ids) - kl) * (1 if good else -1)) for prompt, ids, good in examples
        ]
        loss = trainer.compute_loss(policy, batch)
    assert loss.item() == pytest.approx(sum(losses).item() / len(losses), rel=1e-5)
    assert max(losses) - min(losses) > 0.05, "the policy is not the reference"


def test_orpo_loss_is_equation_6(job: Callable, rows: list) -> None:
    """Hong et al. 2024 (arXiv 2403.07691): likelihood of the chosen conversation, minus β log σ of the log odds ratio,
    the odds of the mean log-probability of an answer's token."""
    import torch

    trainer, batch, pairs = trainer_and_batch(job(method="orpo"), rows)
    policy = trainer.model
    known = {tuple(one["prompt_ids"] + one["chosen_ids"]): one for one in pairs}
    chosen = [
        known[tuple(ids[mask.bool()].tolist())]
        for ids, mask in zip(batch["chosen_input_ids"], batch["chosen_attention_mask"], strict=True)
    ]
    assert len(chosen) == 2
    with torch.no_grad():
        tokens = torch.cat([token_logprobs(policy, one["prompt_ids"] + one["chosen_ids"]) for one in chosen])
        terms = []
        for one in chosen:
            good, bad = (
                answer(policy, one["prompt_ids"], one[f"{side}_ids"]).mean() for side in ("chosen", "rejected")
            )
            odds = (good - torch.log1p(-good.exp())) - (bad - torch.log1p(-bad.exp()))
            terms.append(torch.nn.functional.logsigmoid(odds))
        loss = trainer.compute_loss(policy, batch)
    assert loss.item() == pytest.approx((-tokens.mean() - BETA * sum(terms) / len(terms)).item(), rel=1e-5)


@pytest.mark.parametrize(("method", "start"), [("dpo", math.log(2)), ("kto", 0.5), ("orpo", None)])
@pytest.mark.parametrize("finetuning", ["lora", "qlora"])
def test_each_method_trains_and_is_scored(method: str, start: float | None, finetuning: str, job: Callable) -> None:
    one = job(method=method, finetuning=finetuning, learning_rate=1e-3, allow_high_lr=True, sampled_prompts=2)
    module = methods.of(one.parameters).load()
    module.work(one)
    facts = files.read_json(one.out / "facts.json")
    assert facts["method"] == method and facts["reference"] == ("none" if method == "orpo" else "live")
    assert facts["steps_done"] == 2 and facts["pairs"] == 8 and facts["pairs_heldout"] == 4
    assert facts["step_zero_expected"] == start
    assert facts["step_zero_loss"] == (None if start is None else pytest.approx(start, abs=1e-4))
    module.score(one)
    scores = files.read_json(one.out / "heldout.json")
    assert len(scores["policy_chosen"]) == 4 and scores["policy_chosen"] != scores["reference_chosen"]
    assert json.loads((one.out / "behaviour.json").read_text())["policy"]["texts"]


def test_a_wrong_reference_stops_kto_before_step_1(job: Callable, rows: list) -> None:
    one = job(method="kto")
    trainer, _, pairs = trainer_and_batch(one, rows)
    with pytest.raises(RuntimeError, match="before step 1"):
        dpo.step_zero(trainer, pairs, 0.5)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ({"method": "kto", "label_smoothing": 0.1}, "label_smoothing: 0.0"),
        ({"method": "orpo", "rpo_alpha": 1.0}, "rpo_alpha: null"),
        ({"method": "kto", "precompute_ref_log_probs": True}, "precompute_ref_log_probs: false"),
        ({"method": "orpo", "precompute_ref_log_probs": True}, "precompute_ref_log_probs: false"),
        ({"method": "ktoo"}, "did you mean 'kto'"),
    ],
)
def test_what_only_dpo_has_is_refused(given: dict[str, Any], nearest: str) -> None:
    with pytest.raises(QilinError) as error:
        params.load("05_dpo", given)
    assert nearest in str(error.value)


def test_a_row_is_called_by_its_method() -> None:
    paper = {"name": "baichuan-inc/Baichuan-7B", "source": "hub", **names.PAPER_SIZE}
    told = names.describe(paper, {"dpo": {"method": "kto"}})
    assert told["names"]["dpo"].endswith("+ DCPT + SFT + KTO")
    assert "dpo" not in told["as_paper"] and "sft" in told["as_paper"]
    assert names.describe(paper)["names"]["dpo"].endswith("+ DPO") and "dpo" in names.describe(paper)["as_paper"]
