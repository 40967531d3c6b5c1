"""05: direct preference optimisation (paper §3.3.2, §4.2; Rafailov et al. 2023, Eq. 7).

The reference is the SFT policy itself. Under LoRA it is the same model with the fresh adapter off, so there is one copy
of the weights; full training needs a second, unless its log-probabilities were computed beforehand. A wrong reference
is the commonest fault of SFT-LoRA to DPO-LoRA hand-overs (hiyouga/LLaMA-Factory#8459, #8974); it is checked before
step 1.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from qilin_lib import files, runs
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.runs import Stage
from qilin_lib.tokens import store
from qilin_lib.tokens.template import Template
from qilin_lib.train import behaviour, checkpoints, construction, methods, pairs
from qilin_lib.train import fit as shared
from qilin_lib.train import job as jobs
from qilin_lib.train.alarms import alarms
from qilin_lib.train.heldout import label_count, labelled, moments, sequence_logprobs
from qilin_lib.train.methods import sft

Pair = dict[str, list[int]]
# What `heldout.moments` calls before and after training is here the reference and the policy.
WHO = {"before": "reference", "after": "policy"}
# Fields of TRL's configurations that weigh the loss, which is then another before step 1, with their defaults.
WEIGHTS = {"use_weighting": False, "desirable_weight": 1.0, "undesirable_weight": 1.0}
# Largest difference (nats per answer) of policy and reference before step 1: what rounding can add up to over an answer
# (one machine gave 0.0014 in float32). A wrong reference is off by several nats.
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
    Pang et al. 2024, arXiv 2404.19733, Eq. 1). TRL's defaults would switch off `lora_dropout` without a word, and add
    what balances the experts of a mixture, which no stage before learned.
    """
    preference = "robust" if parameters.label_smoothing else "sigmoid"
    return {
        **shared.arguments(parameters, out),
        "beta": parameters.beta,
        "label_smoothing": parameters.label_smoothing,
        "max_length": None,
        "router_aux_loss_coef": 0.0,
        "loss_type": [preference, "sft"] if parameters.rpo_alpha else [preference],
        "loss_weights": [1.0, parameters.rpo_alpha] if parameters.rpo_alpha else None,
        "disable_dropout": False,
        "precompute_ref_log_probs": parameters.precompute_ref_log_probs,
    }


def make_trainer(job: SimpleNamespace, model: Any, tokenizer: Any, training: list[Any], held: list[Pair]) -> Any:
    """TRL's DPOTrainer on tokenised pairs; `held` are evaluated."""
    import torch
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class TokenisedDPOTrainer(shared.EvenPairs, DPOTrainer):
        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
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
            # Before training starts nothing has put policy and reference under autocast.
            with self.accelerator.autocast():
                loss = super().compute_loss(model, inputs, *args, **kwargs)
            # Mean tokens of the answers (all processes), beside what TRL logs.
            metrics = self._metrics["train" if self.model.training else "eval"]
            lengths = inputs["completion_mask"].sum(1).float().chunk(2)
            for side, values in zip(pairs.SIDES, lengths, strict=True):
                metrics[f"lengths/{side}"].append(self.accelerator.gather(values).mean().item())
            return loss

    # Before DPOConfig: once a ZeRO-3 configuration exists, transformers loads no model onto a device of our choice.
    second = second_model(job, model)
    trainer = TokenisedDPOTrainer(
        model=model,
        ref_model=second,
        args=DPOConfig(**arguments(job.parameters, job.out)),
        train_dataset=Dataset.from_list(training),
        eval_dataset=Dataset.from_list(held) if held else None,
        processing_class=tokenizer,
    )
    shared.without_copy(model, job.parameters)
    return trainer


def second_model(job: SimpleNamespace, model: Any) -> Any:
    """The frozen SFT model that full training compares with, in the policy's precision; None where none is needed."""
    if job.parameters.finetuning != "full" or job.parameters.precompute_ref_log_probs:
        return None
    return load_model(job.paths.weights, str(model.dtype).removeprefix("torch."), device=str(model.device))


def work(job: SimpleNamespace) -> None:
    """The child's part, of every method of 05: its `make_trainer`, `step_zero`, training; facts.json last."""
    parameters, method = job.parameters, methods.of(job.parameters)
    model, tokenizer = shared.prepare_model(parameters, job.paths.weights)
    training, counts = pairs.training(job, tokenizer, pair)
    _, held, left_out = heldout_pairs(job, tokenizer)
    trainer = method.load().make_trainer(job, model, tokenizer, training, held)
    start = step_zero(trainer, held, method.start)
    facts = counts | {
        **left_out,
        "method": parameters.method,
        "pairs_heldout": len(held),
        "beta": parameters.beta,
        "reference": ("cached" if parameters.precompute_ref_log_probs else "live") if method.start else "none",
    }
    if parameters.constructed:
        facts["constructed"] = files.read_json(job.out / "constructed" / "facts.json")
    shared.fit(trainer, job, facts, start)


def heldout_pairs(job: SimpleNamespace, tokenizer: Any) -> tuple[list[dict[str, Any]], list[Pair], dict[str, int]]:
    """(lines of the file, tokenised pairs, counts of `pairs.heldout`) of the held-out split, at most `max_heldout`."""
    rows, counts = pairs.heldout(job, tokenizer, pair)
    rows.numbers = np.array(sft.spread(rows.numbers, job.parameters.max_heldout), dtype=np.int64)
    lines = list(store.lines(job.paths.data, rows.numbers))
    return lines, [pair(row, job.template, tokenizer, job.parameters) for row in rows], counts


def step_zero(trainer: Any, held: list[Pair], expected: float | None) -> dict[str, Any]:
    """{step_zero_loss, step_zero_expected, step_zero_gap} on held-out pairs before training; RuntimeError unless policy
    ≡ reference. Nothing is compared where no loss is `expected`, and no loss is told where `WEIGHTS` weigh it.

    The expected loss can come about in the mean with wrong weights, so the rewards / β of each batch's chosen and of
    its rejected answers, which no other loss moves, must be 0. `trainer.evaluate()` would mark the model as prepared,
    accelerate then leave it without DDP, and the processes train apart.
    """
    import torch
    from trl.models import prepare_deepspeed

    facts = {"step_zero_loss": None, "step_zero_expected": expected, "step_zero_gap": None}
    if not held or expected is None:
        return facts
    model = trainer.model
    if trainer.is_deepspeed_enabled:
        # DeepSpeed has not placed the weights yet (as in TRL).
        model = trainer._precompute_engine = trainer._precompute_engine or prepare_deepspeed(model, trainer.accelerator)
    trainer.model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        losses = [trainer.compute_loss(model, batch).item() for batch in trainer.get_eval_dataloader()]
    chosen, rejected = (list(trainer._metrics["eval"][f"rewards/{side}"]) for side in pairs.SIDES)
    trainer._metrics["eval"].clear()
    gap = float(np.abs([*chosen, *rejected]).max()) / trainer.beta
    what = "before step 1 the distance of policy and reference on held-out answers"
    checkpoints.check_finite(gap, what, Path(trainer.model.config.name_or_path))
    allowed = GAP[str(trainer.model.dtype).removeprefix("torch.")]
    # With an SFT term the loss is that of the mean margin alone.
    with_sft = "sft" in getattr(trainer, "loss_types", ())
    margin = float(np.mean(chosen) - np.mean(rejected))
    loss = math.log1p(math.exp(-margin)) if with_sft else sum(losses) / len(losses)
    weighed = any(getattr(trainer.args, name, usual) != usual for name, usual in WEIGHTS.items())
    if not (gap < allowed and (weighed or abs(loss - expected) < 1e-3)):
        raise RuntimeError(
            f"before step 1 the loss is {loss:.4f} (not {expected:.4f}), and the policy gives held-out answers a "
            f"log-probability {gap:.2g} nats away from the reference's (at most {allowed:g} allowed): the reference is "
            "not the SFT policy"
        )
    return facts | {"step_zero_loss": None if weighed else loss, "step_zero_gap": gap}


def score(job: SimpleNamespace) -> None:
    """Score and sample reference and policy on held-out pairs: behaviour.json, alarms in facts.json, heldout.json:
    log-probabilities of the answers, {reference|policy}_{chosen|rejected}, also unquantised_..., and tokens."""
    p, tokenizer = job.parameters, job.template.ending(load_tokenizer(job.paths.weights))
    lines, held, _ = heldout_pairs(job, tokenizer)
    # An answer of any length must fit behind them.
    room = shared.reads(job.paths.weights) - p.max_target_length
    some = [place for place, one in enumerate(held) if len(one["prompt_ids"]) <= room][: p.sampled_prompts]
    asked = [held[place]["prompt_ids"] for place in some]
    sides = {s: [labelled(one["prompt_ids"], one[f"{s}_ids"]) for one in held] for s in pairs.SIDES}
    sampled: dict[str, Any] = {"max_new_tokens": p.max_target_length}

    def measure(model: Any, moment: str) -> dict[str, list[float]]:
        if moment in WHO and p.sampled_prompts:
            sampled[WHO[moment]] = behaviour.answers(model, tokenizer, asked, p.max_target_length)
        return {side: sequence_logprobs(model, own).round(6).tolist() for side, own in sides.items()}

    scores = {f"tokens_{side}": [label_count(labels) for _, labels in own] for side, own in sides.items()}
    found = moments(job, measure) if held else {moment: measure(None, moment) for moment in WHO}
    for moment, values in found.items():
        kind, _, plain = moment.rpartition("_")
        who = f"{kind}_{WHO[plain]}".strip("_")
        scores |= {f"{who}_{side}": own for side, own in values.items()}
    if p.constructed:
        scores["strategy"] = [row["strategy"] for row in lines]
    if p.sampled_prompts:
        prompts = [lines[place]["prompt"] for place in some]
        files.write_json(job.out / "behaviour.json", {"prompts": prompts, "method": p.method, **sampled})
    facts = files.read_json(job.out / "facts.json")
    # What the alarms on rewards know is how DPO fails.
    log = shared.read_log(job.out) if p.method == "dpo" else []
    told = alarms(log, p, facts["steps_planned"], sampled if p.sampled_prompts else None)
    # A second scoring tells nothing twice.
    facts["alarms"] = told + [one for one in facts["alarms"] if one not in told]
    files.write_json(job.out / "facts.json", facts)
    files.write_json(job.out / "heldout.json", scores)
