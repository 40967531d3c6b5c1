"""08: what each way of aligning SFT's model did to it, on the same held-out questions of ChiMed-DPO.

A question gets two answers of every policy: the greedy one (reward, BLEU, ROUGE, length, repetition) and one sampled at
temperature 1 from the whole vocabulary. Along the sampled answer the KL divergence from SFT is summed, at every
position over the whole vocabulary, the end token's included: the mean over answers is KL(policy || SFT) of answers of
at most max_target_length tokens, without the noise of a log-ratio of sampled tokens alone.

`python -m qilin_lib.evaluate.policies job.json` is the child that computes.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from qilin_lib import chains, files
from qilin_lib.evaluate import intervals, store
from qilin_lib.evaluate.asking import launched
from qilin_lib.evaluate.backends import text_after
from qilin_lib.evaluate.intervals import Statistic, mean_of, paired, proportion
from qilin_lib.evaluate.metrics import text_statistics
from qilin_lib.evaluate.scores import adjust, same_items, summarise
from qilin_lib.models.adapters import is_quantised, load_to_answer, trained, weights_sha256
from qilin_lib.models.load import load_tokenizer
from qilin_lib.models.names import describe_run, read_scores
from qilin_lib.progress import FINISHED, Show, live_line
from qilin_lib.runs import Stage
from qilin_lib.tokens.template import Template, as_trained, template_of
from qilin_lib.train import behaviour, launch, rejection, sampling
from qilin_lib.train.fit import reads
from qilin_lib.train.methods import reward
from qilin_lib.train.methods.rl import questions
from qilin_lib.train.methods.sft import spread

TEXTS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_1", "rouge_2", "rouge_l")
# Any real number; everything else is a percentage.
UNBOUNDED = ("reward", "sampled_reward", "tokens", "sampled_tokens")
TOKENISATION = "char"
FORWARD = 8
"""Sequences in one forward pass of the KL divergence: its logits are batch x tokens x vocabulary."""
ROWS = 4096
"""Positions of answers whose logits wait for the other model's: half a gigabyte of 64,000 words in 16 bit."""


@dataclass(frozen=True)
class Item:
    """A held-out question: its row's id and source, the messages, the model's input, and the preferred answer."""

    id: str
    source: str
    messages: list[dict[str, str]]
    ids: list[int]
    chosen: str


def compare(stage: Stage, show: Show | None = None) -> dict[str, Any]:
    """policies.json: {"policies": {policy: {metric: {value, n, low, high}}}, "paired": [...], "settings": {...}}.

    Policies: sft, dpo, rejection_sampling, and rl unless `method` is "none". The records of each are in
    policies/<policy>.jsonl; what an interrupted call has finished is kept. `paired`: policy_b minus policy_a (SFT) on
    the same questions, p adjusted by Holm over all rows. QilinError for a policy that was trained in another template.
    """
    target, show = stage.dir / "policies.json", show or live_line()
    stage.begin()
    if target.exists():
        show(FINISHED)
        return read_scores(target)
    launched("qilin_lib.evaluate.policies", stage.dir / "job.json", _job(stage), "policies.log", show)
    settings = files.read_json(stage.dir / "policies" / "settings.json")
    records = {name: list(files.read_jsonl(stage.dir / "policies" / f"{name}.jsonl")) for name in policies(stage)}
    files.write_json(target, score(records, stage.parameters) | {"settings": settings, "run": describe_run(stage)})
    return read_scores(target)


def policies(stage: Stage) -> dict[str, Path]:
    """{policy: folder of its training} (facts.json, adapter/ or model/), SFT first, in the order of the table."""
    chain = stage.parameters.chain
    names = [chains.aligned(chain), *(name for name in chain if chains.method(name) == "dpo")]
    folders = {name: stage.parent(chains.folder(name)) for name in names}
    folders["rejection_sampling"] = rejection.last_round(stage.dir)
    return folders | ({} if stage.parameters.method == "none" else {"rl": stage.dir / "rl"})


def _job(stage: Stage) -> dict[str, Any]:
    folders = policies(stage)
    template = template_of(files.read_json(stage.parent("02_tokenize") / "base.json"))
    for name, folder in folders.items():
        notebook = folder.name if folder.parent == stage.run_dir else stage.name
        own = as_trained(files.read_json(folder / "facts.json"), f"policy '{name}'", notebook)
        if own != template:
            raise RuntimeError(f"policy '{name}' was trained in template '{own.name}', the run's is {template.name}")
    return {
        "parameters": stage.parameters.model_dump(mode="json"),
        "workers": 1,
        "out": str(stage.dir),
        **template.described,
        "data": str(stage.parent("01_build_chimed") / "dpo.jsonl"),
        "reward": str(trained(stage.dir / "reward")),
        "policies": {name: str(trained(folder)) for name, folder in folders.items()},
    }


def work(path: str | Path) -> None:
    """Let every policy answer, score the answers, write policies/<policy>.jsonl and settings.json."""
    import torch

    job = files.read_json(path)
    parameters, out = SimpleNamespace(**job["parameters"]), Path(job["out"])
    if not parameters.gpus:
        # Sums in another order give other last digits, and near ties other answers.
        torch.set_num_threads(1)
    weights = {name: Path(folder) for name, folder in job["policies"].items()}
    asked, too_long = items(job["data"], template_of(job), weights[chains.aligned(parameters.chain)], parameters)
    settings = {
        "questions": len(asked),
        "too_long": too_long,
        "max_new_tokens": parameters.max_target_length,
        "sampled": {"temperature": 1.0, "top_p": 1.0, "seed": parameters.seed},
        "tokenisation": TOKENISATION,
        "dtype": parameters.dtype,
        "batch_size": parameters.batch_size,
        "bootstrap_resamples": parameters.bootstrap_resamples,
        "reward_model": weights_sha256(job["reward"]),
        "weights": {name: weights_sha256(folder) for name, folder in weights.items()},
    }
    files.write_json(out / "policies" / "settings.json", settings)
    # What answers depend on: not the number of resamples, of the weights their own and those of SFT.
    common = {key: value for key, value in settings.items() if key not in ("weights", "bootstrap_resamples")}
    rows = [[item.id, item.ids, item.chosen] for item in asked]
    for name in weights:
        own = [settings["weights"][who] for who in (name, chains.aligned(parameters.chain))]
        key = files.sha256_text(json.dumps([common, own, rows], ensure_ascii=False, sort_keys=True))
        path = out / "policies" / f"{name}.jsonl"
        if asked and not store.complete(path, key):
            _answer(name, path, key, asked, weights, Path(job["reward"]), parameters)
        elif not asked:
            files.write_jsonl(path, [])


def items(data: str | Path, template: Template, model: Path, parameters: Any) -> tuple[list[Item], int]:
    """(at most `max_items` held-out questions evenly spaced in dpo.jsonl, how many are too long for the context)."""
    tokenizer = load_tokenizer(model)
    context = reads(model)
    kept, too_long = [], 0
    for row in files.read_jsonl(data):
        if row["split"] == "heldout":
            ids, left_out = questions([row], template, tokenizer, parameters, context)
            too_long += left_out
            kept += [Item(row["id"], row["source"], row["prompt"], one, row["chosen"][-1]["content"]) for one in ids]
    return spread(kept, parameters.max_items), too_long


def _answer(
    name: str, path: Path, key: str, asked: list[Item], weights: dict[str, Path], judged: Path, parameters: Any
) -> None:
    """The records of one policy, chunk by chunk; a chunk that an earlier call wrote whole is not computed again."""
    device, by_id = "cuda:0" if parameters.gpus else "cpu", {item.id: item for item in asked}

    @cache
    def models() -> tuple[Any, Any, Any, Any]:
        """Loaded with the first chunk that is not there yet. Policy and reference are one model where they are SFT."""
        start = chains.aligned(parameters.chain)
        policy = load_to_answer(weights[name], parameters.dtype, _waiting(weights[name], device))
        reference = policy
        if name != start:
            reference = load_to_answer(weights[start], parameters.dtype, _waiting(weights[start], device))
        judge = reward.load(judged, parameters.dtype, _waiting(judged, device))
        return policy, reference, judge, load_tokenizer(weights[name])

    def records(ids: list[str]) -> list[dict]:
        rows = measured([by_id[one] for one in ids], *models(), parameters, device)
        return [{"id": one, "policy": name, **row} for one, row in zip(ids, rows, strict=True)]

    def told(left: int, many: int) -> None:
        launch.report(text=f"comparing policies, {name}: {many - left}/{many} batches")

    ids, size = list(by_id), parameters.batch_size
    store.fill(path, 0, key, [ids[first : first + size] for first in range(0, len(ids), size)], records, told)
    store.finish(path, ids)


def _waiting(folder: Path, device: str) -> str:
    """Where a model waits for its turn: three NF4 models of 7B share a card, and NF4 weights are not moved about."""
    return device if is_quantised(folder) else "cpu"


@contextmanager
def _placed(model: Any, device: str) -> Iterator[None]:
    """`model` on `device` for the block and back on the CPU after it: a card holds one of three 7B models in 16 bit."""
    if getattr(model, "is_quantized", False):
        yield
        return
    model.to(device)
    yield
    model.to("cpu")


def measured(
    chunk: list[Item], policy: Any, reference: Any, judge: Any, tokenizer: Any, parameters: Any, device: str
) -> list[dict[str, Any]]:
    """One record an item: both answers with their rewards, lengths and, for the sampled one, its KL divergence, which
    is exactly 0 where `reference is policy`. One model at a time is on `device`."""
    limit, prompts = parameters.max_target_length, [item.ids for item in chunk]
    # The same noise for every policy: what differs between two answers comes from the policies.
    noise = [f"policy:{item.id}" for item in chunk]
    how = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": limit, "seed": parameters.seed}
    with _placed(policy, device):
        greedy = behaviour.greedy(policy, tokenizer, prompts, limit, parameters.batch_size)
        drawn = sampling.sample(policy, tokenizer, prompts, noise, batch_size=parameters.batch_size, **how)
    kl = [terms.tolist() for terms in divergences(policy, reference, prompts, drawn, limit, device)]
    both = [prompt + answer for answers in (greedy, drawn) for prompt, answer in zip(prompts, answers, strict=True)]
    with _placed(judge, device):
        rewards = reward.rewards(judge, both, parameters.batch_size)
    rows = []
    earned = zip(rewards[: len(chunk)], rewards[len(chunk) :], strict=True)
    for item, written, said, terms, (own, sampled) in zip(chunk, greedy, drawn, kl, earned, strict=True):
        text = text_after(tokenizer, item.ids, written)
        rows.append(
            {
                "source": item.source,
                "prompt": item.messages,
                "chosen": item.chosen,
                "answer": text,
                "tokens": len(written),
                "cut": len(written) == limit,
                "repetition": behaviour.repetition(text),
                "reward": own,
                "sampled": text_after(tokenizer, item.ids, said),
                "sampled_tokens": len(said),
                "sampled_cut": len(said) == limit,
                "sampled_reward": sampled,
                "kl": sum(terms),
                "positions": len(terms),
            }
        )
    return rows


def _positions(answer: list[int], limit: int) -> int:
    """Positions at which a token was chosen: an answer shorter than `limit` ended by itself, by its end token."""
    return len(answer) + (len(answer) < limit)


def divergences(
    policy: Any, reference: Any, prompts: list[list[int]], answers: list[list[int]], limit: int, device: str
) -> list[Any]:
    """`divergence` of the two models along each answer: (tokens,) each. Logits of some ROWS positions of one model are
    held at a time, and those of one forward pass of the other."""
    import torch

    sizes = [_positions(answer, limit) for answer in answers]
    if reference is policy:
        return [torch.zeros(size, dtype=torch.float64) for size in sizes]
    found: list[Any] = []
    while len(found) < len(answers):
        many = max(1, sum(end <= ROWS for end in accumulate(sizes[len(found) :])))
        mine = slice(len(found), len(found) + many)
        with _placed(policy, device):
            ours = list(answer_logits(policy, prompts[mine], answers[mine], limit))
        with _placed(reference, device):
            theirs = answer_logits(reference, prompts[mine], answers[mine], limit)
            found += [divergence(*pair) for pair in zip(ours, theirs, strict=True)]
    return found


def answer_logits(model: Any, prompts: list[list[int]], answers: list[list[int]], limit: int) -> Iterator[Any]:
    """Logits at every position of each answer, on the CPU as the model gives them, (tokens, vocabulary) each, from
    right-padded batches."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    device = next(model.parameters()).device
    model.eval()
    for start in range(0, len(prompts), FORWARD):
        batch = list(zip(prompts[start : start + FORWARD], answers[start : start + FORWARD], strict=True))
        whole = [torch.tensor(prompt + answer, device=device) for prompt, answer in batch]
        ids = pad_sequence(whole, batch_first=True)
        mask = pad_sequence([torch.ones_like(one) for one in whole], batch_first=True)
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for row, (prompt, answer) in enumerate(batch):
            first = len(prompt) - 1
            # A copy: a view would keep the whole batch, its prompts too.
            yield logits[row, first : first + _positions(answer, limit)].to("cpu", copy=True)
        del logits


def divergence(ours: Any, theirs: Any) -> Any:
    """KL(softmax(ours) || softmax(theirs)) in nats at each position: (tokens, vocabulary) twice -> (tokens,), float64.

    Never negative: what rounding leaves below zero is zero.
    """
    import torch

    p, q = ours.double().log_softmax(-1), theirs.double().log_softmax(-1)
    # A token that the policy never writes adds nothing, whatever the reference thinks of it.
    terms = torch.where(p > -math.inf, p.exp() * (p - q), 0.0)
    return terms.sum(-1).clamp(min=0.0)


def score(records: dict[str, list[dict[str, Any]]], parameters: Any) -> dict[str, Any]:
    """{"policies", "paired"} from the records of every policy. QilinError unless all answered the same questions."""
    same_items("policies", records)
    draws = parameters.bootstrap_resamples, parameters.seed
    tables = {name: statistics(rows) for name, rows in records.items()}
    rows, reference = [], chains.aligned(parameters.chain)
    for name in tables if records[reference] else ():
        for metric, b in tables[name].items() if name != reference else ():
            # KL of SFT from itself is 0 by definition: the value itself is the difference.
            if not metric.startswith("kl"):
                row = paired(tables[reference][metric], b, *draws)
                rows.append({"metric": metric, "model_a": reference, "model_b": name} | row)
    brief = {name: summarise(table, *draws) for name, table in tables.items()}
    return {"policies": brief, "paired": adjust(rows)}


def statistics(rows: list[dict[str, Any]]) -> dict[str, Statistic]:
    """Metrics of one policy's records. Percent, but for UNBOUNDED and the KL divergence in nats: a token (all answers'
    nats by all their positions) and an answer (mean of the sums)."""
    texts = text_statistics([row["answer"] for row in rows], [row["chosen"] for row in rows], TOKENISATION)
    kl = np.array([[row["kl"], row["positions"]] for row in rows]).reshape(-1, 2)
    unbounded = {name: mean_of([row[name] for row in rows], intervals.ANY) for name in UNBOUNDED}
    return {
        **{name: unbounded[name] for name in UNBOUNDED[:2]},
        **{name: texts[name] for name in TEXTS},
        **{name: unbounded[name] for name in UNBOUNDED[2:]},
        "cut": proportion([row["cut"] for row in rows]),
        "repetition": mean_of([100 * row["repetition"] for row in rows]),
        "kl_token": Statistic(kl, intervals.ratio, bounds=intervals.POSITIVE),
        "kl_answer": mean_of(kl[:, 0], intervals.POSITIVE),
    }


if __name__ == "__main__":
    work(sys.argv[1])
