"""05: direct preference optimisation (paper §3.3.2, §4.2; Rafailov et al. 2023, Eq. 7).

The reference is the SFT policy itself. Under LoRA it is the same model with the fresh adapter off, so there is one copy
of the weights; full training needs a second, unless its log-probabilities were computed beforehand. A wrong reference
is the commonest fault of SFT-LoRA to DPO-LoRA hand-overs (hiyouga/LLaMA-Factory#8459, #8974); it is checked before
step 1, pair by pair.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib import files, runs
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.runs import Stage
from qilin_lib.tokens import store
from qilin_lib.tokens.template import IGNORE, Message, Template
from qilin_lib.train import behaviour, construction, methods, numerics, pairs
from qilin_lib.train import fit as shared
from qilin_lib.train import job as jobs
from qilin_lib.train.alarms import alarms
from qilin_lib.train.heldout import label_count, moments, sequence_logprobs

Pair = dict[str, list[int]]
# Largest difference (nats an answer) of policy and reference before step 1. Same weights and arithmetic give 0 on most
# machines, but one gave 0.0014 in float32 (two threads): what rounding can add up to over an answer is allowed, and a
# wrong reference is off by several nats.
GAP = {"float32": 1e-2, "bfloat16": 0.25, "float16": 0.25}


def train(stage: Stage) -> dict[str, Any]:
    """Align the SFT model on ChiMed-DPO by the stage's `method` in a child process; returns its facts."""
    paths = pairs.inputs(stage) | {"cache": runs.cache_dir()}
    if stage.parameters.constructed:
        # Pairs that 02 has not seen.
        del paths["store"]
        paths["data"] = construction.prepare(stage)
    return jobs.train_stage(stage, methods.of(stage.parameters), paths)


def pair(row: dict[str, Any], template: Template, tokenizer: Any, parameters: Any) -> Pair:
    """{prompt_ids, chosen_ids, rejected_ids} of one triplet, in the SFT template; long turns are cut inside."""
    prompt = pairs.encoded(row["prompt"], template, tokenizer, parameters, opened=True)
    whole = {side: pairs.encoded(row["prompt"] + row[side], template, tokenizer, parameters) for side in pairs.SIDES}
    return {"prompt_ids": prompt, **{f"{side}_ids": ids[len(prompt) :] for side, ids in whole.items()}}


def arguments(parameters: Any, out: Path) -> dict[str, Any]:
    """Keyword arguments for TRL's DPOConfig: Eq. 7 with `beta`.

    `label_smoothing` is the share of flipped labels that robust DPO assumes (Chowdhury et al. 2024, arXiv 2403.00409),
    not cDPO's. `rpo_alpha` adds that multiple of the mean negative log-likelihood of a batch's chosen tokens (after
    Pang et al. 2024, arXiv 2404.19733, Eq. 1). TRL's default would switch off `lora_dropout` without a word.
    """
    preference = "robust" if parameters.label_smoothing else "sigmoid"
    return {
        **shared.arguments(parameters, out),
        "beta": parameters.beta,
        "label_smoothing": parameters.label_smoothing,
        "max_length": None,
        "loss_type": [preference, "sft"] if parameters.rpo_alpha else [preference],
        "loss_weights": [1.0, parameters.rpo_alpha] if parameters.rpo_alpha else None,
        "disable_dropout": False,
        "precompute_ref_log_probs": parameters.precompute_ref_log_probs,
    }


def make_trainer(job: SimpleNamespace, model: Any, tokenizer: Any, training: list[Any], held: list[Pair]) -> Any:
    """TRL's DPOTrainer on tokenised pairs; `held` are evaluated. RuntimeError for a policy with adapters of its own."""
    from datasets import Dataset
    from trl import DPOConfig

    parameters = job.parameters
    refuse_adapters(model, parameters.finetuning)
    # Before DPOConfig: once a ZeRO-3 configuration exists, transformers loads no model onto a device of our choice.
    second = second_model(job, model)
    trainer = _trainer_class(job)(
        model=model,
        ref_model=second,
        args=DPOConfig(**arguments(parameters, job.out)),
        train_dataset=Dataset.from_list(training),
        eval_dataset=Dataset.from_list(held) if held else None,
        processing_class=tokenizer,
    )
    without_copy(model, parameters)
    return trainer


def without_copy(model: Any, parameters: Any) -> None:
    """Undo what TRL's trainers do to a `model` with an adapter when they are made: they cast a quantised model's, and
    keep a frozen copy of the fresh one, which would go into every checkpoint. Without it they switch the adapter off.
    """
    if parameters.finetuning != "full":
        model.delete_adapter("ref")
    numerics.full_precision(model, parameters)


def refuse_adapters(model: Any, finetuning: str) -> None:
    """RuntimeError unless `model` is what the reference is derived from: one adapter on merged weights, or none. An SFT
    adapter below the new one would be off in the reference too (hiyouga/LLaMA-Factory#8459)."""
    found = sorted(getattr(model, "peft_config", {}))
    expected = [] if finetuning == "full" else ["default"]
    if found != expected:
        raise RuntimeError(
            f"the policy carries the adapters {found}, expected {expected} on merged SFT weights: with the adapter off "
            "it would not be the SFT model; merge the SFT adapter first"
        )


def second_model(job: SimpleNamespace, model: Any) -> Any:
    """The frozen SFT model that full training compares with, in the policy's precision; None where none is needed."""
    if job.parameters.finetuning != "full" or job.parameters.precompute_ref_log_probs:
        return None
    return load_model(job.paths.weights, str(model.dtype).removeprefix("torch."), device=str(model.device))


def _trainer_class(job: SimpleNamespace) -> type:
    from trl import DPOTrainer

    class TokenisedDPOTrainer(shared.EvenPairs, DPOTrainer):
        """DPOTrainer for pairs that our template has tokenised already; TRL would render them again with its own.
        `gaps`: largest |log π - log π_ref| of each evaluated batch."""

        def __init__(self, **settings: Any) -> None:
            self.gaps: list[float] = []
            super().__init__(**settings)

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            import torch

            folder = job.paths.cache / "reference"
            folder.mkdir(parents=True, exist_ok=True)
            # TRL's key is a hash of weights and pairs; a dataset in memory has no folder of its own for it.
            dataset._get_cache_file_path = lambda key: str(folder / f"{key}.arrow")
            self.model.eval()
            # Its loader draws from the global generator, and dropout in training would differ from a run without it.
            with torch.random.fork_rng(devices=[]):
                dataset = super()._precompute_ref_logps(dataset, name, self.args.per_device_eval_batch_size)
            self.model.train()
            return dataset

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            heard: list[Any] = []

            def policy(*a: Any, **k: Any) -> Any:
                heard.append(model(*a, **k))
                return heard[-1]

            # Before training starts nothing has put policy and reference under autocast.
            with self.accelerator.autocast():
                loss = super().compute_loss(policy, inputs, *args, **kwargs)
            _log_lengths(self, inputs)
            if not self.model.training:
                self.gaps.append(_gap(self, heard[0], inputs))
            return loss

    return TokenisedDPOTrainer


def _log_lengths(trainer: Any, inputs: Any) -> None:
    """Mean tokens of the chosen and the rejected answers of a batch (all processes), beside what TRL logs."""
    lengths = inputs["completion_mask"].sum(1).float().chunk(2)
    metrics = trainer._metrics["train" if trainer.model.training else "eval"]
    for side, values in zip(("chosen", "rejected"), lengths, strict=True):
        metrics[f"lengths/{side}"].append(trainer.accelerator.gather(values).mean().item())


def _gap(trainer: Any, outputs: Any, inputs: Any) -> float:
    """Largest |log π - log π_ref| over the answers of a batch, all processes."""
    import torch

    policy = outputs.log_probs.sum(1)
    sides = [inputs[name] for name in ("ref_chosen_logps", "ref_rejected_logps") if name in inputs]
    sides = sides or trainer.compute_ref_log_probs(trainer.ref_model or _placed(trainer), inputs)
    return trainer.accelerator.gather((policy - torch.cat(tuple(sides))).abs().max()).max().item()


def work(job: SimpleNamespace) -> None:
    """The child's part, of every method of 05: its `make_trainer`, what its `step_zero` checks before step 1, training;
    facts.json last."""
    parameters, method = job.parameters, methods.of(job.parameters)
    module = method.load()
    model, tokenizer = shared.prepare_model(parameters, job.paths.weights)
    rows = store.rows(job.paths, tokenizer, split="train")
    training = [pairs.compact(pair(row, job.template, tokenizer, parameters)) for row in rows]
    _, held, apart = heldout_pairs(job, tokenizer)
    trainer = module.make_trainer(job, model, tokenizer, training, held)
    facts = module.step_zero(trainer, held)
    facts |= shared.fit(trainer, job, job.paths.weights) | {
        **pairs.facts(rows, training, parameters.max_target_length),
        "method": parameters.method,
        "pairs_heldout": len(held),
        "pairs_heldout_apart": apart,
        "beta": parameters.beta,
        "reference": ("cached" if parameters.precompute_ref_log_probs else "live") if method.reference else "none",
    }
    if parameters.constructed:
        facts["constructed"] = files.read_json(job.out / "constructed.json")
    if trainer.is_world_process_zero():
        files.write_json(job.out / "facts.json", facts)


def heldout_pairs(job: SimpleNamespace, tokenizer: Any) -> tuple[list[list[Message]], list[Pair], int]:
    """(prompts, tokenised pairs, how many are set apart) of the held-out split, at most `max_heldout`."""
    rows, apart = pairs.heldout(job.paths, tokenizer)
    rows.numbers = rows.numbers[: job.parameters.max_heldout]
    prompts = [row["prompt"] for row in store.lines(job.paths.data, rows.numbers)]
    return prompts, [pair(row, job.template, tokenizer, job.parameters) for row in rows], apart


def step_zero(trainer: Any, held: list[Pair]) -> dict[str, Any]:
    """{step_zero_loss, step_zero_expected, step_zero_gap} on held-out pairs before training.

    RuntimeError unless policy ≡ reference. The loss is ln 2 then, but ln 2 in the mean can come about with wrong
    weights: the log-probability of each single answer must be the same. With an SFT term (`rpo_alpha`) the loss is
    that of the mean margin alone.
    """
    facts = {"step_zero_loss": None, "step_zero_expected": math.log(2), "step_zero_gap": None}
    if not held:
        return facts
    losses, margins = evaluated(trainer, "rewards/margins")
    for gap in trainer.gaps:
        what = "before step 1 the distance of policy and reference on a held-out answer"
        numerics.check_finite(gap, what, Path(trainer.model.config.name_or_path))
    gap, allowed = max(trainer.gaps), GAP[str(trainer.model.dtype).removeprefix("torch.")]
    if not gap < allowed:
        raise RuntimeError(
            f"before step 1 the policy gives a held-out answer a log-probability {gap:.2g} nats away from the "
            f"reference's (at most {allowed:g} allowed): the reference is not the SFT policy"
        )
    with_sft = "sft" in trainer.loss_types
    loss = math.log1p(math.exp(-sum(margins) / len(margins))) if with_sft else sum(losses) / len(losses)
    if not abs(loss - math.log(2)) < 1e-3:
        raise RuntimeError(f"DPO loss before step 1 is {loss:.4f}, not ln 2 = 0.6931")
    return facts | {"step_zero_loss": loss, "step_zero_gap": gap}


def evaluated(trainer: Any, *names: str) -> tuple[list[float], list[float]]:
    """(losses, what the trainer logs under `names`) of the held-out batches of this process.

    Not `trainer.evaluate()`: before training it marks the model as prepared, accelerate then leaves it without DDP, and
    the processes train apart.
    """
    import torch

    model = _placed(trainer)
    trainer.model.eval()
    # Before training starts nothing has put policy and reference under autocast.
    with torch.no_grad(), trainer.accelerator.autocast():
        losses = [trainer.compute_loss(model, batch).item() for batch in trainer.get_eval_dataloader()]
    logged = [value for name in names for value in trainer._metrics["eval"][name]]
    trainer._metrics["eval"].clear()
    return losses, logged


def _placed(trainer: Any) -> Any:
    """The policy where it can compute before training; DeepSpeed has not placed the weights yet (as in TRL)."""
    if not trainer.is_deepspeed_enabled:
        return trainer.model
    from trl.models import prepare_deepspeed

    if trainer._precompute_engine is None:
        trainer._precompute_engine = prepare_deepspeed(trainer.model, trainer.accelerator)
    return trainer._precompute_engine


def score(job: SimpleNamespace) -> None:
    """Score and sample reference and policy on held-out pairs: behaviour.json, alarms in facts.json, heldout.json."""
    parameters, tokenizer = job.parameters, load_tokenizer(job.paths.weights)
    prompts, held, _ = heldout_pairs(job, tokenizer)
    scores, sampled = compare(job, held, tokenizer)
    if parameters.constructed:
        scores["strategy"] = strategies(job, tokenizer)
    if parameters.sampled_prompts:
        prompts = prompts[: len(sampled["policy"]["texts"])]
        files.write_json(job.out / "behaviour.json", {"prompts": prompts, "method": parameters.method, **sampled})
    facts, answered = files.read_json(job.out / "facts.json"), sampled if parameters.sampled_prompts else None
    # What the alarms on rewards know is how DPO fails.
    log = shared.read_log(job.out) if parameters.method == "dpo" else []
    told = alarms(log, parameters, facts["steps_planned"], answered)
    # A second scoring tells nothing twice.
    facts["alarms"] = told + [one for one in facts["alarms"] if one not in told]
    files.write_json(job.out / "facts.json", facts)
    files.write_json(job.out / "heldout.json", scores)


def strategies(job: SimpleNamespace, tokenizer: Any) -> list[str]:
    """The strategy of each pair of `heldout_pairs`, in its order."""
    rows, _ = pairs.heldout(job.paths, tokenizer)
    numbers = rows.numbers[: job.parameters.max_heldout]
    return [row["strategy"] for row in store.lines(job.paths.data, numbers)]


# What `heldout.moments` calls before and after training is here the reference and the policy.
WHO = {"before": "reference", "after": "policy"}


def compare(job: SimpleNamespace, held: list[Pair], tokenizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(log-probabilities of held-out answers, {reference|policy}_{chosen|rejected}, also unquantised_..., and tokens;
    greedy answers of both to the first `sampled_prompts` prompts).

    The reference is the model that training compared with: under LoRA the policy with its adapter off.
    """
    limit = job.parameters.max_target_length
    asked = [one["prompt_ids"] for one in held[: job.parameters.sampled_prompts]]
    sides = {s: [labelled(one["prompt_ids"], one[f"{s}_ids"]) for one in held] for s in pairs.SIDES}
    sampled: dict[str, Any] = {"max_new_tokens": limit}

    def measure(model: Any, moment: str) -> dict[str, list[float]]:
        if moment in WHO and job.parameters.sampled_prompts:
            sampled[WHO[moment]] = behaviour.answers(model, tokenizer, asked, limit)
        return {side: sequence_logprobs(model, own).round(6).tolist() for side, own in sides.items()}

    scores = {f"tokens_{side}": [label_count(labels) for _, labels in own] for side, own in sides.items()}
    found = moments(job, measure) if held else {moment: measure(None, moment) for moment in WHO}
    for moment, values in found.items():
        kind, _, plain = moment.rpartition("_")
        who = f"{kind}_{WHO[plain]}".strip("_")
        scores |= {f"{who}_{side}": own for side, own in values.items()}
    return scores, sampled


def labelled(prompt: list[int], answer: list[int]) -> tuple[list[int], list[int]]:
    """(ids, labels) with loss on the answer alone."""
    return prompt + answer, [IGNORE] * len(prompt) + answer
