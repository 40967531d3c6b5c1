"""05: direct preference optimisation (paper §3.3.2, §4.2; Rafailov et al. 2023, Eq. 7).

The reference is the SFT policy itself: a frozen copy of the fresh adapter, which adds nothing yet (LoRA), or of all
weights (full). A wrong reference is the commonest fault of SFT-LoRA to DPO-LoRA hand-overs
(hiyouga/LLaMA-Factory#8459, #8974); it is checked before step 1.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib import files
from qilin_lib.models.load import load_model
from qilin_lib.runs import Stage
from qilin_lib.tokens.template import IGNORE, Template
from qilin_lib.train import checkpoints
from qilin_lib.train import fit as shared
from qilin_lib.train.heldout import label_count, sequence_logprobs

Pair = dict[str, list[int]]


def train(stage: Stage) -> dict[str, Any]:
    """Align the SFT model on ChiMed-DPO in a child process; returns its facts."""
    return shared.train_in_child(
        stage,
        __name__,
        {
            "weights": shared.weights_of(stage, "04_sft"),
            "data": stage.parent("01_build_chimed") / "dpo.jsonl",
        },
    )


def pair(row: dict[str, Any], template: Template, tokenizer: Any, parameters: Any) -> Pair:
    """{prompt_ids, chosen_ids, rejected_ids} of one triplet, in the SFT template; long turns are cut inside."""
    limits = (parameters.max_source_length, parameters.max_target_length)
    prompt, _ = template.encode_with_labels(row["prompt"], tokenizer, *limits, add_generation_prompt=True)
    whole = {
        side: template.encode_with_labels(row["prompt"] + row[side], tokenizer, *limits)[0]
        for side in ("chosen", "rejected")
    }
    return {"prompt_ids": prompt, **{f"{side}_ids": ids[len(prompt) :] for side, ids in whole.items()}}


def make_trainer(job: SimpleNamespace, model: Any, tokenizer: Any, pairs: list[Pair], held: list[Pair]) -> Any:
    """TRL's DPOTrainer on tokenised pairs. Its reference is `model` with the adapter as it is now (TRL copies it to one
    called "ref"), or for full training the weights in `job.paths.weights`."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class TokenisedDPOTrainer(DPOTrainer):
        """DPOTrainer for pairs that our template has tokenised already; TRL would render them again with its own."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    parameters = job.parameters
    reference = (
        load_model(job.paths.weights, parameters.dtype, device=str(model.device))
        if parameters.finetuning == "full"
        else None
    )
    settings = DPOConfig(
        **shared.arguments(parameters, job.out),
        beta=parameters.beta,
        label_smoothing=parameters.label_smoothing,
        max_length=None,
        loss_type="robust" if parameters.label_smoothing else "sigmoid",
        activation_checkpointing=False,
        precompute_ref_log_probs=parameters.precompute_ref_log_probs,
    )
    return TokenisedDPOTrainer(
        model=model,
        ref_model=reference,
        args=settings,
        train_dataset=Dataset.from_list(pairs),
        eval_dataset=Dataset.from_list(held),
        processing_class=tokenizer,
    )


def work(job: SimpleNamespace) -> None:
    """The child's part: tokenise, check the reference, train, score held-out pairs."""
    parameters = job.parameters
    model, tokenizer = shared.prepare_model(parameters, job.paths.weights)
    pairs: dict[str, list[Pair]] = {split: [] for split in ("train", "heldout")}
    for row in files.read_jsonl(job.paths.data):
        pairs[row["split"]].append(pair(row, job.template, tokenizer, parameters))
    held = pairs["heldout"][: parameters.max_heldout]
    trainer = make_trainer(job, model, tokenizer, pairs["train"], held)
    start = None if checkpoints.last(job.out / "checkpoints") else step_zero_loss(trainer, held)
    facts = shared.fit(trainer, job, job.paths.weights)
    if trainer.is_world_process_zero():
        files.write_json(job.out / "heldout.json", heldout(job, held))
        facts |= {
            "pairs": len(pairs["train"]),
            "pairs_heldout": len(held),
            "beta": parameters.beta,
            "step_zero_loss": start,
        }
        files.write_json(job.out / "facts.json", facts)


def step_zero_loss(trainer: Any, held: list[Pair]) -> float | None:
    """Loss on held-out pairs before training; RuntimeError unless it is ln 2, which it is if policy ≡ reference."""
    if not held:
        return None
    loss = float(trainer.evaluate()["eval_loss"])
    if abs(loss - math.log(2)) > 1e-3:
        raise RuntimeError(
            f"DPO loss before step 1 is {loss:.4f}, not ln 2 = 0.6931: the reference is not the SFT policy"
        )
    return loss


def heldout(job: SimpleNamespace, held: list[Pair]) -> dict[str, Any]:
    """Log-probabilities of held-out answers: {reference|policy}_{chosen|rejected}; reference = SFT, policy = DPO."""
    device = "cuda:0" if job.parameters.gpus else "cpu"
    result: dict[str, Any] = {}
    for who, weights in (("reference", job.paths.weights), ("policy", job.out / "model")):
        model = load_model(weights, job.parameters.dtype, device=device)
        for side in ("chosen", "rejected"):
            sequences = [labelled(p["prompt_ids"], p[f"{side}_ids"]) for p in held]
            result[f"{who}_{side}"] = sequence_logprobs(model, sequences).round(6).tolist()
            result[f"tokens_{side}"] = [label_count(labels) for _, labels in sequences]
    return result


def labelled(prompt: list[int], answer: list[int]) -> tuple[list[int], list[int]]:
    """(ids, labels) with loss on the answer alone."""
    return prompt + answer, [IGNORE] * len(prompt) + answer


if __name__ == "__main__":
    work(shared.read_job(str(Path(sys.argv[1]))))
