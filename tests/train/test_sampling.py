"""Answers drawn by the kit: those of the distribution; by vLLM in its own interpreter: a stand-in takes its place."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.vllm_stand_in import python_with_vllm

from qilin_lib.errors import QilinError
from qilin_lib.models.load import load_model
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import sampling
from qilin_lib.train import vllm_client as vllm

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


def test_an_answer_is_the_argmax_of_log_p_and_noise_step_by_step(
    model: Any, tiny_tokenizer: Any, prompts: list, keys: list[str]
) -> None:
    """Written out without cache, batch or padding."""
    import torch

    found = sampling.sample(model, tiny_tokenizer, prompts, keys, **SETTINGS)
    for prompt, key, answer in list(zip(prompts, keys, found, strict=True))[::6]:
        source, expected = sampling.generator(SETTINGS["seed"], key), []
        while len(expected) < SETTINGS["max_new_tokens"]:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + expected])).logits[0, -1]
            uniform = torch.from_numpy(source.random(len(logits)))
            token = (cut_softmax(logits, 1.0, 0.9).log() - (-uniform.log()).log()).argmax().item()
            if token == tiny_tokenizer.eos_token_id:
                break
            expected.append(token)
        assert answer == expected


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


# --- vLLM -------------------------------------------------------------------------------------------------------------


# As `vllm.LLM` and `vllm.SamplingParams` of 0.11 are called; the answer of a prompt is its ids reversed, then the seed.
STAND_IN = """
import os
from types import SimpleNamespace

__version__ = "0.11.0"

class SamplingParams:
    def __init__(self, *, n=1, temperature=1.0, top_p=1.0, max_tokens=16, seed=None, stop_token_ids=None,
                 detokenize=True, ignore_eos=False):
        assert not detokenize and stop_token_ids and temperature > 0
        self.n, self.seed, self.max_tokens = n, seed, max_tokens

class LLM:
    def __init__(self, model, *, skip_tokenizer_init=False, tensor_parallel_size=1, dtype="auto", seed=0,
                 max_model_len=None, gpu_memory_utilization=0.9, enable_prefix_caching=None):
        assert skip_tokenizer_init and os.path.isdir(model)

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        assert not use_tqdm and len(prompts) == len(sampling_params)
        result = []
        for prompt, settings in zip(prompts, sampling_params):
            ids = prompt["prompt_token_ids"]
            if ids == [13]:
                raise RuntimeError("CUDA out of memory")
            if ids == [15]:
                raise ValueError("too long")
            outputs = []
            for k in range(settings.n):
                whole = ids[::-1] + [1000 + settings.seed % 100 + k]
                reason = "length" if len(whole) > settings.max_tokens else "stop"
                outputs.append(SimpleNamespace(token_ids=tuple(whole[:settings.max_tokens]), finish_reason=reason))
            result.append(SimpleNamespace(outputs=outputs))
        return result
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that has the stand-in, and no kit."""
    return python_with_vllm(tmp_path, STAND_IN, "0.11.0")


@pytest.fixture
def draw(python: Path, tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    (tmp_path / "model").mkdir()
    engine = vllm.Engine(python, tmp_path / "model", tmp_path / "work", dtype="float32", seed=5)
    settings = {"n": 2, "temperature": 1.0, "top_p": 0.9, "max_tokens": 4, "stop_token_ids": [3]}

    def make(prompts: list[tuple[str, list[int]]], seed: int = 5) -> dict[str, Any]:
        keys = [key for key, _ in prompts]
        return dict(zip(keys, engine.ask(prompts, seed, **settings), strict=True))

    yield make
    engine.close()


def test_every_prompt_gets_its_answers_in_order(draw: Callable) -> None:
    prompts = [(f"q{i}", [i, i + 1]) for i in range(20, 320)]
    answers = draw([*prompts, ("ends", [3, 7])])
    ended = answers.pop("ends")
    assert ended[0].ids[:1] == [7] and not any(3 in answer.ids for answer in ended)
    for i, (first, second) in enumerate(answers.values(), start=20):
        assert first[0][:2] == [i + 1, i] and first[1] == "stop"
        assert second[0][2] == first[0][2] + 1
    assert len({tuple(first[0][2:]) for first, _ in answers.values()}) > 20, "a seed of its own each"


def test_draws_depend_on_seed_and_key_alone(draw: Callable) -> None:
    one, other = [("a", [1]), ("b", [2])], [("b", [2]), ("c", [4]), ("a", [1])]
    assert draw(one)["a"] == draw(other)["a"] != draw(one, 6)["a"]


def test_a_failure_names_the_cause_and_what_was_answered_stays(draw: Callable, tmp_path: Path) -> None:
    with pytest.raises(QilinError, match="vLLM .*CUDA out of memory.*vllm.log"):
        draw([("q", [1]), ("bad", [13])])
    assert (tmp_path / "work" / "vllm.log").exists()


def test_a_prompt_that_vllm_refuses_takes_no_other_with_it(draw: Callable) -> None:
    answers = draw([("q", [1]), ("bad", [15])])
    assert answers["bad"] == "too long" and answers["q"][0].ids[0] == 1


def test_an_engine_that_is_closed_leaves_nothing(python: Path, tmp_path: Path) -> None:
    import psutil

    (tmp_path / "model").mkdir()
    engine = vllm.Engine(python, tmp_path / "model", tmp_path / "work")
    engine.ask([("q", [1])], temperature=1.0, stop_token_ids=[3])
    engine.close()
    assert not [p for p in psutil.process_iter(["cmdline"]) if "vllm_worker.py" in " ".join(p.info["cmdline"] or [])]


@pytest.mark.parametrize("path", ["/nowhere/python", sys.executable])
def test_an_interpreter_without_vllm_is_refused_early(path: str) -> None:
    with pytest.raises(QilinError, match=r"08_rlhf: vllm_python = .*nearest valid"):
        vllm.check("08_rlhf", path)


def test_its_version_is_told(python: Path) -> None:
    assert vllm.check("08_rlhf", str(python)) == "0.11.0"
