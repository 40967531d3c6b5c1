"""08: rejection sampling, as ChiMed-GPT has it (arXiv 2311.06025; the architecture figure of its repository): a reward
model ranks the answers that the policy writes to a question, and the best return to supervised fine-tuning. The number
of answers, of those kept and of rounds, and how they are drawn, were not found.

A round has a folder: `sampling/` (questions.jsonl; a file per chunk until all are there), pool.jsonl (every answer with
its reward), chosen.jsonl (what the policy learns from), and what 04's training leaves. A round starts from the model of
the round before it, the first from 04_sft's.
"""

from __future__ import annotations

import gc
import itertools
import math
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import load_to_answer, trained
from qilin_lib.models.load import load_tokenizer
from qilin_lib.progress import Show, live_line
from qilin_lib.runs import Stage
from qilin_lib.tokens.bins import batches
from qilin_lib.tokens.template import template_of
from qilin_lib.train import fit as shared
from qilin_lib.train import job as jobs
from qilin_lib.train import launch, pairs, sampling, vllm_client
from qilin_lib.train.methods import METHODS, reward, sft

Row = dict[str, Any]
# Why a question is left out of a round.
TOO_LONG, REFUSED = "too_long", "refused"
# Two lines that begin with A and B: a multiple-choice question, whatever its source.
OPTIONS = re.compile(r"^\s*A\s*[.．、:：)）\s].*^\s*B\s*[.．、:：)）\s]", re.MULTILINE | re.DOTALL)


def train(stage: Stage, show: Show | None = None) -> dict[str, Any]:
    """All rounds, each in child processes; {"rounds": [facts of a round]}. A finished round is only read. QilinError if
    there is no question to ask, if no answer of a round says anything, or if a child fails."""
    weights, done, show = shared.start_of(stage), [], show or live_line()
    stage.begin()
    for number in range(1, stage.parameters.rounds + 1):
        folder = stage.dir / "rejection" / f"round{number}"
        about = lambda text, number=number: show(f"round {number}: {text}")  # noqa: E731
        done.append(_round(stage, folder, number, weights, about))
        weights = trained(folder)
    return {"rounds": done}


def last_round(folder: Path) -> Path:
    """Folder of the last finished round below 08's `folder`; QilinError when there is none."""
    finished = [path.parent for path in (folder / "rejection").glob("round*/facts.json")]
    if not finished:
        raise QilinError(f"{folder / 'rejection'}: holds no finished round; run notebooks/08_rlhf.ipynb first")
    return max(finished, key=lambda path: int(path.name.removeprefix("round")))


def _round(stage: Stage, folder: Path, number: int, weights: Path, show: Show) -> dict[str, Any]:
    """Sample, rank, fine-tune; the facts of the training with those of the pool under "pool"."""
    p, data, place = stage.parameters, stage.parent("01_build_chimed") / "sft.jsonl", folder / "sampling"
    asked, counts = place / "questions.jsonl", None
    if not (place / "facts.json").exists():
        drawn, counts = questions(data, p.prompts, p.seed, number)
        files.write_jsonl(asked, drawn)
    paths = {"policy": weights, "reward": trained(stage.dir / "reward"), "questions": asked}
    if p.vllm_python:
        # vLLM loads full weights: merged before, where the training of this round finds them too.
        paths["weights"] = weights
    about = {"round": number, "questions": counts}
    pool = jobs.train_step(stage, METHODS["rejection"], place, p.rejection, paths, show, **about)
    for name in ("answers", "rewards"):
        shutil.rmtree(place / name, ignore_errors=True)
    if not pool["kept"]:
        raise QilinError(
            f"{folder / 'pool.jsonl'}: none of {pool['answers']} answers says anything, so there is nothing to learn "
            f"from; nearest valid: a lower temperature than {p.temperature}, or a longer SFT"
        )
    chosen, template = folder / "chosen.jsonl", template_of(files.read_json(stage.parent("02_tokenize") / "base.json"))
    if not chosen.exists():
        files.write_jsonl(chosen, _chosen(folder, data))
    facts = jobs.train_step(
        stage,
        METHODS["sft"],
        folder,
        p.rejection,
        {"weights": weights, "data": chosen},
        show,
        max_length=sft.longest(p, template, load_tokenizer(weights)),
        packing=False,
        source_weights=None,
        question_share=None,
        one_stage=None,
    )
    if "pool" not in facts:
        facts["pool"] = pool
        files.write_json(folder / "facts.json", facts)
    return facts


def questions(data: Path, count: int, seed: int, number: int) -> tuple[list[Row], dict[str, int]]:
    """(rows of sft.jsonl whose question is asked in round `number`, counts), in the order of the file.

    Asked are medical training rows of one question and one answer that offer no options: a permutation by `seed` gives
    every round the next `count`, from the start again when it has ended. QilinError if there is none.
    """
    counts = dict.fromkeys(("train_medical", "more_turns", "multiple_choice", "drawable", "drawn"), 0)
    places = []
    for place, row in enumerate(files.read_jsonl(data)):
        if (row["split"], row["part"]) != ("train", "medical"):
            continue
        kind = "drawable"
        if [message["role"] for message in row["messages"]] != ["user", "assistant"]:
            kind = "more_turns"
        elif row["source"] == "cmexam" or OPTIONS.search(row["messages"][0]["content"]):
            kind = "multiple_choice"
        else:
            places.append(place)
        counts["train_medical"] += 1
        counts[kind] += 1
    if not places:
        raise QilinError(f"{data}: no medical training question with one answer and no options; found {counts}")
    counts["drawn"] = min(count, len(places))
    turns = np.arange(counts["drawn"]) + (number - 1) * counts["drawn"]
    order = np.random.default_rng(seed).permutation(places)
    wanted = set(order[turns % len(places)].tolist())
    return [row for place, row in enumerate(files.read_jsonl(data)) if place in wanted], counts


def _chosen(folder: Path, data: Path) -> Iterator[Row]:
    """The kept answers as rows of sft.jsonl, in the pool's order, then the held-out rows of `data` as they are."""
    asked = {row["id"]: row for row in files.read_jsonl(folder / "sampling" / "questions.jsonl")}
    for row in files.read_jsonl(folder / "pool.jsonl"):
        if row["kept"]:
            answer = {"role": "assistant", "content": row["answer"]}
            own = {"id": f"{row['id']}:{row['sample']}", "messages": [*row["prompt"], answer]}
            yield asked[row["id"]] | own
    yield from (row for row in files.read_jsonl(data) if row["split"] == "heldout")


# --- the child --------------------------------------------------------------------------------------------------------


def work(job: SimpleNamespace) -> None:
    """The child's part, alone or one of many: its share of answers, then of rewards, chunk by chunk; the first process
    waits for the others and writes pool.jsonl, then facts.json. A chunk is the same whoever works on it."""
    p, rank, of = job.parameters, int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not p.gpus:
        import torch

        # Sums in another order give other last digits.
        torch.set_num_threads(1)
    size, rows = max(1, p.batch_size // p.num_samples), list(files.read_jsonl(job.paths.questions))
    # Named by its questions: where a round goes on with another batch_size, what is there is taken for no other.
    chunks = {f"{start}-{start + size}": rows[start : start + size] for start in range(0, len(rows), size)}
    own = set(list(chunks)[rank::of])
    for name, make in (("answers", _answers), ("rewards", _rewards)):
        finished = _finished(job.out, name)
        missing = {chunk: rows for chunk, rows in chunks.items() if chunk in own and chunk not in finished}
        # No model is loaded for none.
        values = make(job, missing) if missing else ()
        for place, (chunk, value) in enumerate(zip(missing, values, strict=True), start=1):
            files.write_json(job.out / name / f"{chunk}.json", value)
            if rank == 0:
                launch.report(text=f"{name} {place}/{len(missing)} chunks")
        gc.collect()
    if rank == 0:
        _gather(job, chunks)


def _gather(job: SimpleNamespace, chunks: dict[str, list[Row]]) -> None:
    """pool.jsonl, then facts.json, once all chunks are there; QilinError if every question was left out."""
    p, sampler = job.parameters, "the kit's own"
    while chunks.keys() - (finished := _finished(job.out, "rewards")).keys():
        time.sleep(1)
    rows, answers = [row for chunk in chunks for row in finished[chunk]], _finished(job.out, "answers")
    told = [pair for chunk, asked in chunks.items() for pair in zip(asked, answers[chunk], strict=True)]
    left_out = {row["id"]: why for row, why in told if isinstance(why, str)}
    if not rows:
        first = next(iter(left_out.items()))
        raise QilinError(
            f"{job.paths.questions}: none of {len(told)} questions can be answered, the first {first}; nearest valid: "
            f"max_source_length below {p.max_source_length}, or max_target_length below {p.max_target_length}"
        )
    files.write_jsonl(job.out.parent / "pool.jsonl", rows)
    if p.vllm_python:
        sampler = f"vLLM {vllm_client.check(p.notebook, p.vllm_python)}, merged weights"
    kinds = Counter(why.partition(":")[0] for why in left_out.values())
    counts = p.questions | {kind: kinds[kind] for kind in (TOO_LONG, REFUSED)}
    files.write_json(
        job.out / "facts.json", {"questions": counts, "left_out": left_out, "sampler": sampler} | summary(rows, p)
    )


def _finished(out: Path, name: str) -> dict[str, Any]:
    """Values by chunk so far, whichever process wrote them."""
    return {path.stem: files.read_json(path) for path in (out / name).glob("*.json")}


def _answers(job: SimpleNamespace, chunks: dict[str, list[Row]]) -> Iterator[list[list[Any] | str]]:
    """Each chunk's answers from the policy: num_samples of [text, tokens] a question, or why it is left out."""
    p, tokenizer = job.parameters, job.template.ending(load_tokenizer(job.paths.policy))
    context = shared.reads(job.paths.policy)
    # An answer of any length, and the end at which its reward is read.
    room = context - p.max_target_length - 1
    prompts = [
        {f"{p.round}:{row['id']}": pairs.encoded(row["messages"][:1], job.template, tokenizer, p, True) for row in rows}
        for rows in chunks.values()
    ]

    def said(ids: list[int]) -> list[Any]:
        text = tokenizer.decode(ids, skip_special_tokens=True)
        # As the template gives them to the reward model; fine-tuning reads ids, which it gives as they are.
        return [text.strip() if job.template.trim else text, len(ids)]

    draw = _by_vllm if p.vllm_python else _here
    fitting = [{key: ids for key, ids in asked.items() if len(ids) <= room} for asked in prompts]
    for asked, drawn in zip(prompts, draw(job, fitting, tokenizer), strict=True):
        found = iter(drawn)
        own = [
            next(found)
            if len(ids) <= room
            else f"{TOO_LONG}: {len(ids)} tokens leave no room for {p.max_target_length} in a context of {context}"
            for ids in asked.values()
        ]
        yield [one if isinstance(one, str) else list(map(said, one)) for one in own]


def _here(job: SimpleNamespace, chunks: list[dict[str, list[int]]], tokenizer: Any) -> Iterator[list[Any]]:
    """Token ids of num_samples answers to each prompt of a chunk, drawn by `sampling.sample`."""
    p = job.parameters
    model = load_to_answer(job.paths.policy, p.dtype, launch.device(p))
    how = {"temperature": p.temperature, "top_p": p.top_p, "max_new_tokens": p.max_target_length}
    for prompts in chunks:
        asked = [prompt for prompt in prompts.values() for _ in range(p.num_samples)]
        keys = [f"{key}:{k}" for key in prompts for k in range(p.num_samples)]
        drawn = sampling.sample(model, tokenizer, asked, keys, **how, seed=p.seed, batch_size=p.batch_size)
        yield list(batches(drawn, p.num_samples))


def _by_vllm(job: SimpleNamespace, chunks: list[dict[str, list[int]]], tokenizer: Any) -> Iterator[list[Any]]:
    """The same by vLLM, from the merged weights, on the GPU of this process; or why it refuses a prompt."""
    p, work = job.parameters, job.out / f"vllm{os.environ.get('RANK', 0)}"
    first = int(os.environ.get("LOCAL_RANK", 0)) if p.gpus else 0
    how = {"n": p.num_samples, "temperature": p.temperature, "top_p": p.top_p, "max_tokens": p.max_target_length}
    how["stop_token_ids"] = [tokenizer.eos_token_id]
    engine = vllm_client.Engine(p.vllm_python, job.paths.weights, work, first, dtype=p.dtype, seed=p.seed)
    with closing(engine):
        for some in batches(chunks, vllm_client.TOGETHER):
            prompts = [pair for chunk in some for pair in chunk.items()]
            left = iter(engine.ask(prompts, p.seed, **how) if prompts else ())
            for chunk in some:
                own = [next(left) for _ in chunk]
                yield [f"{REFUSED}: {one}" if isinstance(one, str) else [answer.ids for answer in one] for one in own]


def _rewards(job: SimpleNamespace, chunks: dict[str, list[Row]]) -> Iterator[list[Row]]:
    """Each chunk's rows of the pool. Judged is an answer's text with an end token, as fine-tuning would learn it."""
    p, tokenizer = job.parameters, load_tokenizer(job.paths.reward)
    model, answers = reward.load(job.paths.reward, p.dtype, launch.device(p)), _finished(job.out, "answers")
    for chunk, asked in chunks.items():
        told = [pair for pair in zip(asked, answers[chunk], strict=True) if not isinstance(pair[1], str)]
        rows, own = [row for row, _ in told], [answer for _, some in told for answer in some]
        prompts = [row["messages"][:1] for row in rows for _ in range(p.num_samples)]
        sequences = [
            reward.sequence(prompt, text, job.template, tokenizer, p)
            for prompt, (text, _) in zip(prompts, own, strict=True)
        ]
        values = reward.rewards(model, sequences, p.batch_size)
        if not all(map(math.isfinite, values)):
            raise QilinError(f"{job.paths.reward}: a reward of {[row['id'] for row in rows]} is no finite number")
        yield pool(rows, own, [round(value, 6) for value in values], p)


def pool(asked: list[Row], answers: list[list[Any]], rewards: list[float], parameters: Any) -> list[Row]:
    """Rows of pool.jsonl, num_samples a question: {id, round, prompt, sample, answer, tokens, reward, kept}.

    Kept are the `keep` of the largest reward, the earlier sample before a later one of the same reward. An answer
    without a visible character ranks below all others and is never kept: it would teach silence.
    """
    rows, values = [], zip(answers, rewards, strict=True)
    for row in asked:
        common = {"id": row["id"], "round": parameters.round, "prompt": row["messages"][:1]}
        own = [
            {**common, "sample": k, "answer": text, "tokens": tokens, "reward": value}
            for k, ((text, tokens), value) in enumerate(itertools.islice(values, parameters.num_samples))
        ]
        best = sorted((one for one in own if one["answer"].strip()), key=lambda one: -one["reward"])[: parameters.keep]
        rows += [one | {"kept": one in best} for one in own]
    return rows


def summary(rows: list[Row], parameters: Any) -> dict[str, Any]:
    """Counts and rewards of a pool. `reward_best` is the mean over questions of the largest of their rewards, `cut` an
    answer as long as the limit."""
    kept = [row["reward"] for row in rows if row["kept"]]
    best = [max(row["reward"] for row in own) for _, own in itertools.groupby(rows, key=lambda row: row["id"])]
    return {
        "prompts": len(best),
        "answers": len(rows),
        "kept": len(kept),
        "empty": sum(not row["answer"].strip() for row in rows),
        "cut": sum(row["tokens"] == parameters.max_target_length for row in rows),
        "reward_mean": round(fmean(row["reward"] for row in rows), 6),
        "reward_best": round(fmean(best), 6),
        "reward_kept": round(fmean(kept), 6) if kept else None,
    }
