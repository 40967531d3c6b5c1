"""Answers drawn by vLLM in its own interpreter: a stand-in with the published signatures takes vLLM's place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.vllm_stand_in import python_with_vllm

from qilin_lib.errors import QilinError
from qilin_lib.train import vllm_client as vllm

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
