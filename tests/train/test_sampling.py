"""Answers drawn by the kit: those of the distribution; by vLLM in its own interpreter: a stand-in takes its place."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import trainings
from helpers.vllm_stand_in import python_with_vllm

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.models import decode
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.tokens.template import BAICHUAN, Template
from qilin_lib.train import construction, fit, rejection, sampling
from qilin_lib.train import vllm_client as vllm
from qilin_lib.train.methods import dpo, rl

SETTINGS: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 24, "seed": 3, "batch_size": 16}


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    return load_model(tiny_model_dir)


@pytest.fixture(scope="module")
def prompts(sentences: Callable, tiny_tokenizer: Any) -> list[list[int]]:
    """Thirty questions of different lengths."""
    texts = sentences(30, 5)
    return [
        BAICHUAN.encode([{"role": "user", "content": text[: 4 + 3 * i]}], tiny_tokenizer, add_generation_prompt=True)
        for i, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def keys() -> list[str]:
    return [f"item-{i}:0" for i in range(30)]


def cut_softmax(logits: Any, temperature: float, top_p: float) -> Any:
    """What transformers' own warpers leave of one row of logits, as probabilities."""
    import torch
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    steps: list[Any] = [TemperatureLogitsWarper(temperature)] if temperature != 1 else []
    steps += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    return LogitsProcessorList(steps)(torch.zeros(1, 1, dtype=torch.long), logits.double()[None])[0].softmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize("temperature, top_p", [(1.0, 0.9), (0.7, 1.0), (1.6, 0.6), (0.2, 0.95)])
def test_answers_do_not_depend_on_batch_order_or_padding(
    temperature: float, top_p: float, model: Any, tiny_tokenizer: Any, prompts: list, keys: list[str]
) -> None:
    settings = SETTINGS | {"temperature": temperature, "top_p": top_p}
    alone = sampling.sample(model, tiny_tokenizer, prompts, keys, **(settings | {"batch_size": 1}))
    for size in (3, 16):
        assert sampling.sample(model, tiny_tokenizer, prompts, keys, **(settings | {"batch_size": size})) == alone
    turned = sampling.sample(model, tiny_tokenizer, prompts[::-1], keys[::-1], **settings)
    assert turned[::-1] == alone
    assert sampling.sample(model, tiny_tokenizer, prompts[7:9], keys[7:9], **settings) == alone[7:9]
    assert len(set(map(tuple, alone))) > 20 and tiny_tokenizer.eos_token_id not in sum(alone, [])
    assert temperature < 0.5 or len({len(answer) for answer in alone}) > 3


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (1.0, 0.8), (0.6, 0.9), (2.0, 0.5)])
def test_draws_follow_the_cut_softmax(
    temperature: float, top_p: float, model: Any, tiny_tokenizer: Any, prompts: list
) -> None:
    """4000 keys, one step; chi-square against transformers' warpers, rare tokens pooled."""
    import torch
    from scipy.stats import chisquare

    many, prompt = 4000, prompts[0]
    settings = SETTINGS | {"temperature": temperature, "top_p": top_p, "max_new_tokens": 1, "batch_size": 500}
    answers = sampling.sample(model, tiny_tokenizer, [prompt] * many, [f"k{i}" for i in range(many)], **settings)
    found = Counter(answer[0] if answer else tiny_tokenizer.eos_token_id for answer in answers)
    with torch.no_grad():
        expected = cut_softmax(model(input_ids=torch.tensor([prompt])).logits[0, -1], temperature, top_p) * many
    expected = expected.tolist()
    assert all(expected[token] > 0 for token in found)
    common = [token for token, count in enumerate(expected) if count >= 5]
    observed, wanted = [found[token] for token in common], [expected[token] for token in common]
    if (rest := many - sum(wanted)) > 1:
        observed, wanted = [*observed, many - sum(observed)], [*wanted, rest]
    scale = sum(observed) / sum(wanted)
    assert len(wanted) >= 3 and chisquare(observed, [count * scale for count in wanted]).pvalue > 1e-3


def test_a_prompt_beyond_the_context_is_refused(model: Any, tiny_tokenizer: Any) -> None:
    with pytest.raises(QilinError, match="prompt a has 500 tokens; the model's context of 512 takes 488 beside 24"):
        sampling.sample(model, tiny_tokenizer, [[5] * 500, [5]], ["a", "b"], **SETTINGS)


def test_broken_weights_are_named(tiny_model_dir: Path, tiny_tokenizer: Any) -> None:
    import torch

    broken = load_model(tiny_model_dir)
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    with pytest.raises(QilinError, match="logits are not finite numbers"):
        sampling.sample(broken, tiny_tokenizer, [[5, 6]], ["a"], **SETTINGS)


# --- vLLM: the rest of it stands in tests/evaluate/test_vllm_backend.py -----------------------------------------------


def test_vllm_answers_in_order_and_its_draws_depend_on_seed_and_key_alone(
    tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    end = tiny_tokenizer.eos_token_id
    how = {"n": 2, "temperature": 1.0, "max_tokens": 8, "stop_token_ids": [end]}
    one, other = [("a", [9, 8]), ("b", [10])], [("b", [10]), ("c", [11]), ("a", [9, 8])]
    engine = vllm.Engine(
        python_with_vllm(tmp_path), tiny_model_dir, tmp_path / "work", dtype="float32", max_model_len=64
    )
    with closing(engine):
        first, second, again = engine.ask(one, 5, **how), engine.ask(other, 5, **how), engine.ask(one, 6, **how)
    assert [first[0], first[1]] == [second[2], second[0]] and first[0] != again[0]
    for pair in (*first, *second):
        assert len(pair) == 2 and pair[0].ids != pair[1].ids
        assert not any(end in answer.ids for answer in pair)


@pytest.mark.parametrize("asks", ["base_answer", "held-out prompts of 05", "rejection sampling", "rl"])
def test_an_answer_ends_where_its_template_ends_it(
    asks: str, tiny_model_dir: Path, training: Callable, sentences: Callable, tmp_path: Path, monkeypatch: Any
) -> None:
    """Gemma's, GLM's and Qwen's base models name another end token: answers ran on into the patient's next turn."""
    rows, stops = trainings.triplets(sentences(30, 3), 6, held=2), []
    files.write_jsonl(tmp_path / "rows.jsonl", rows)
    monkeypatch.setattr(decode, "in_batches", lambda model, asked, ends, *_: stops.append(ends) or [[7]] * len(asked))
    template = Template("own", "<reserved_102>", "", "<s>", assistant_close="<reserved_103>")
    parameters = training("05_dpo", allow_high_lr=True)
    if asks.startswith("r"):
        made = params.load("08_rlhf", {"finetuning": "lora"}).model_dump(mode="json")
        parameters = SimpleNamespace(**made | made["rl"])
    data = {"data": tmp_path / "rows.jsonl", "sft": tmp_path / "rows.jsonl", "base": tiny_model_dir}
    job = trainings.job(parameters, tmp_path, tiny_model_dir, template, policy=tiny_model_dir, **data)
    if asks == "base_answer":
        parameters.constructed = {"strategies": {"base_answer": 2}, "rules": [], "given": False, "heldout_share": 0.0}
        construction.work(job)
    elif asks == "rl":
        own, judge = fit.prepare_model(parameters, tiny_model_dir), load_model(tiny_model_dir)
        trainer = rl.make_trainer(job, *own, [[7]] * 8, judge)
        trainer._generate_single_turn([[7]])
    elif asks == "rejection sampling":
        parameters.round = 1
        list(rejection._answers(job, {"0-2": rows[:2]}))
    else:
        trainings.left(parameters, tiny_model_dir, tmp_path)
        files.write_json(tmp_path / "facts.json", {"alarms": [], "steps_planned": 1})
        files.write_text(tmp_path / "log.jsonl", "")
        dpo.score(job)
    end = load_tokenizer(tiny_model_dir).convert_tokens_to_ids("<reserved_103>")
    assert stops and all(ends == {end} for ends in stops)
