"""05 with `method: kto`: Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306, Eq. 7).

Each answer stands alone; its log-ratio to the reference is compared with z0, that of answers to other prompts of the
batch. Of `per_device_train_batch_size` pairs a batch has both answers, in one seeded order for all epochs (TRL's z0).
"""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib.tokens.bins import batches
from qilin_lib.train import fit as shared
from qilin_lib.train.methods import dpo
from qilin_lib.train.methods.dpo import score, work  # noqa: F401
from qilin_lib.train.pairs import SIDES


def arguments(parameters: Any, out: Path) -> dict[str, Any]:
    """Keyword arguments for TRL's KTOConfig."""
    size = 2 * parameters.per_device_train_batch_size
    return shared.arguments(parameters, out) | {
        "per_device_train_batch_size": size,
        "per_device_eval_batch_size": size,
        "beta": parameters.beta,
        "max_length": None,
        "router_aux_loss_coef": 0.0,
        "disable_dropout": False,
        "train_sampling_strategy": "sequential",
    }


def make_trainer(job: SimpleNamespace, model: Any, tokenizer: Any, pairs: list[dpo.Pair], held: list[dpo.Pair]) -> Any:
    """TRL's KTOTrainer on tokenised answers; the reference as in `dpo.make_trainer`."""
    from trl import KTOConfig, KTOTrainer

    class TokenisedKTOTrainer(shared.EvenPairs, KTOTrainer):
        pass

    second = dpo.second_model(job, model)
    settings = KTOConfig(**arguments(job.parameters, job.out))
    sets = {"train_dataset": answers(pairs, settings), "eval_dataset": answers(held, settings) if held else None}
    trainer = TokenisedKTOTrainer(model=model, ref_model=second, args=settings, processing_class=tokenizer, **sets)
    shared.without_copy(model, job.parameters)
    return trainer


def answers(pairs: list[dpo.Pair], settings: Any) -> Any:
    """All answers as TRL's rows, in a seeded order; for z0 a prompt of a batch gets the answer before its own."""
    from datasets import Dataset

    rows = [
        {"prompt_ids": one["prompt_ids"], "completion_ids": one[f"{side}_ids"], "label": side == "chosen"}
        for one in pairs
        for side in SIDES
    ]
    random.Random(f"{settings.seed} kto").shuffle(rows)
    for part in batches(rows, settings.per_device_train_batch_size):
        for place, row in enumerate(part):
            row["KL_completion_ids"] = part[place - 1]["completion_ids"]
    return Dataset.from_list(rows)
