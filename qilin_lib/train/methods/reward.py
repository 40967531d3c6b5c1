"""08: a reward model on the ChiMed-DPO triplets, as ChiMed-GPT's regime has one (arXiv 2311.06025, abstract; its
settings were not found).

SFT's weights under a head of one output; the loss is Bradley and Terry's (1952), -log σ(r(chosen) - r(rejected)), as in
Ouyang et al. 2022 (arXiv 2203.02155). A reward is read at the end token of a whole conversation in the SFT template.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import REWARD_TASK, is_adapter, load_trained, trained
from qilin_lib.models.load import load_tokenizer, padding
from qilin_lib.runs import Stage
from qilin_lib.tokens import store
from qilin_lib.tokens.bins import batches
from qilin_lib.tokens.template import Message, Template
from qilin_lib.train import fit as shared
from qilin_lib.train import job as jobs
from qilin_lib.train import launch, pairs
from qilin_lib.train.methods import METHODS, sft
from qilin_lib.train.pairs import SIDES


def train(stage: Stage) -> dict[str, Any]:
    """Train the reward model on what SFT left in a child process, into `reward/` of 08's folder; returns its facts."""
    folder, steps = stage.dir / "reward", stage.parameters.reward
    return jobs.train_step(stage, METHODS["reward"], folder, steps, pairs.inputs(stage))


def load(folder: Path, dtype: str, device: str, quantised: bool | None = None) -> Any:
    """The reward model that a training left in `folder`, in evaluation mode; `quantised` as in `load_trained`.
    QilinError for another kind of model: transformers would give it a head of random numbers."""
    if is_adapter(folder):
        kind = files.read_json(folder / "adapter_config.json")["task_type"]
    else:
        kind = (files.read_json(folder / "config.json").get("architectures") or ["none"])[0]
    if kind != REWARD_TASK and not kind.endswith("ForSequenceClassification"):
        raise QilinError(f"{folder}: holds a {kind}, not a reward model; nearest valid: what 08 left in reward/")
    model = load_trained(folder, dtype, device, quantised, rewards=True)[0].eval()
    return _ending(model, padding(load_tokenizer(folder)))[0]


def prepare_model(parameters: Any, weights: Path) -> tuple[Any, Any]:
    """(model, tokenizer), the model a sequence classifier that knows padding and end."""
    return _ending(*shared.prepare_model(parameters, weights, rewards=True))


def _ending(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    # transformers finds the token that carries the reward by the padding token, and `rewards` ends a sequence.
    model.config.pad_token_id, model.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    return model, tokenizer


def sequence(messages: list[Message], answer: str, template: Template, tokenizer: Any, parameters: Any) -> list[int]:
    """Token ids of a prompt (`messages`) with an answer, as the reward model was trained on them."""
    return pairs.encoded([*messages, {"role": "assistant", "content": answer}], template, tokenizer, parameters)


def pair(row: dict[str, Any], template: Template, tokenizer: Any, parameters: Any) -> pairs.Pair:
    """{chosen_ids, rejected_ids} of one triplet: prompt and answer as `sequence` gives them."""
    return {f"{side}_ids": pairs.encoded(row["prompt"] + row[side], template, tokenizer, parameters) for side in SIDES}


def rewards(model: Any, sequences: list[list[int]], batch_size: int) -> list[float]:
    """Reward of each token sequence (prompt and answer ids), in the order given; larger is better. A sequence without
    an end token gets one: the model was trained on none without."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    model.eval()
    device, end, pad = next(model.parameters()).device, model.config.eos_token_id, model.config.pad_token_id
    whole = [torch.tensor(ids if ids and ids[-1] == end else [*ids, end], device=device) for ids in sequences]
    found = torch.zeros(len(whole), dtype=torch.float64)
    for rows in batches(sorted(range(len(whole)), key=lambda i: len(whole[i])), batch_size):
        ids = pad_sequence([whole[i] for i in rows], batch_first=True, padding_value=pad)
        mask = pad_sequence([torch.ones_like(whole[i]) for i in rows], batch_first=True)
        with torch.no_grad():
            found[rows] = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].double().cpu()
    return found.tolist()


def make_trainer(job: SimpleNamespace, model: Any, tokenizer: Any, training: list[Any]) -> Any:
    """TRL's RewardTrainer on tokenised pairs. Its defaults would leave out pairs beyond 1,024 tokens without a word,
    and switch off `lora_dropout`."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    class EvenRewardTrainer(shared.EvenPairs, RewardTrainer):
        pass

    own = {"max_length": None, "pad_to_multiple_of": None, "disable_dropout": False}
    return EvenRewardTrainer(
        model=model,
        args=RewardConfig(**shared.arguments(job.parameters, job.out), **own),
        train_dataset=Dataset.from_list(training),
        processing_class=tokenizer,
    )


def work(job: SimpleNamespace) -> None:
    """The child's part: train; facts.json last."""
    model, tokenizer = prepare_model(job.parameters, job.paths.weights)
    training, counts = pairs.training(job, tokenizer, pair)
    _, left_out = pairs.heldout(job, tokenizer, pair)
    trainer = make_trainer(job, model, tokenizer, training)
    shared.fit(trainer, job, counts | left_out)


def score(job: SimpleNamespace) -> None:
    """Rewards of held-out pairs: heldout.json, {ids, sources, chosen, rejected}, and its summary in facts.json."""
    folder = trained(job.out)
    model = load(folder, job.parameters.dtype, launch.device(job.parameters))
    tokenizer = load_tokenizer(folder)
    rows, _ = pairs.heldout(job, tokenizer, pair)
    rows.numbers = np.array(sft.spread(rows.numbers, job.parameters.max_heldout), dtype=np.int64)
    held = [pair(row, job.template, tokenizer, job.parameters) for row in rows]
    read = {side: rewards(model, [one[f"{side}_ids"] for one in held], job.parameters.batch_size) for side in SIDES}
    scores = {
        "ids": [row["id"] for row in store.lines(job.paths.data, rows.numbers)],
        "sources": rows.sources().tolist(),
        **{side: [round(value, 6) for value in values] for side, values in read.items()},
    }
    files.write_json(job.out / "facts.json", files.read_json(job.out / "facts.json") | summary(scores))
    files.write_json(job.out / "heldout.json", scores)


def summary(scores: dict[str, list[Any]]) -> dict[str, Any]:
    """{accuracy, n, mean_margin} of heldout.json; None where there is no pair. A tie counts as wrong."""
    margins = [chosen - rejected for chosen, rejected in zip(scores["chosen"], scores["rejected"], strict=True)]
    return {
        "accuracy": round(fmean(margin > 0 for margin in margins), 6) if margins else None,
        "n": len(margins),
        "mean_margin": round(fmean(margins), 6) if margins else None,
    }
