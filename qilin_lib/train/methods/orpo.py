"""05 with `method: orpo`: odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691, Eqs. 6 and 7).

No reference: the likelihood of the chosen conversation (prompt and answer, as in TRL and the authors' code), plus
`beta` times the loss of the odds ratio of chosen and rejected answer. "Before" and "after" of its scores are the model
that it started from and the one that it left.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib.train import fit as shared
from qilin_lib.train.heldout import labelled
from qilin_lib.train.methods import dpo
from qilin_lib.train.methods.dpo import score, work  # noqa: F401
from qilin_lib.train.pairs import SIDES


def arguments(parameters: Any, out: Path) -> dict[str, Any]:
    """Keyword arguments for TRL's ORPOConfig."""
    longest = parameters.max_source_length + parameters.max_target_length
    # Turns are cut already, so its own limit never acts.
    own = {"beta": parameters.beta, "max_length": 1000 * longest, "disable_dropout": False}
    return shared.arguments(parameters, out) | own


def make_trainer(job: SimpleNamespace, model: Any, tokenizer: Any, pairs: list[dpo.Pair], held: list[dpo.Pair]) -> Any:
    """TRL's ORPOTrainer on tokenised pairs; `held` are only scored when it has ended."""
    from datasets import Dataset
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    class TokenisedORPOTrainer(shared.EvenPairs, ORPOTrainer):
        counted = "chosen_input_ids"

        def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
            row = {}
            for side in SIDES:
                ids, labels = labelled(feature["prompt_ids"], feature[f"{side}_ids"])
                row |= {f"{side}_input_ids": ids, f"{side}_attention_mask": [1] * len(ids), f"{side}_labels": labels}
            return row

    trainer = TokenisedORPOTrainer(
        model=model,
        args=ORPOConfig(**arguments(job.parameters, job.out)),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    shared.full_precision(model, job.parameters)
    return trainer
