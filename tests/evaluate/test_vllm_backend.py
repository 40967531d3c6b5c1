"""Models that vLLM holds in an interpreter of its own: a stand-in with vLLM's signatures computes by transformers, so
its answers are those of the kit's own backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers.replies import texts
from helpers.vllm_stand_in import python_with_vllm

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import models
from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.evaluate.benchmarks import answers
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.prompts import Asking, Prompt
from qilin_lib.evaluate.replies import ERROR, LENGTH
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.runs import Stage
from qilin_lib.tokens.template import BAICHUAN, PLAIN

pytestmark = pytest.mark.slow
LETTERS = ["A", "B", "C"]


@pytest.fixture
def python(tmp_path: Path) -> str:
    return str(python_with_vllm(tmp_path / "vllm"))


@pytest.fixture
def started(tiny_model_dir: Path, python: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`started(**asking)`: the tiny model held by vLLM."""
    from qilin_lib.evaluate.vllm_backend import VllmBackend

    made: list[Any] = []

    def start(settings: dict[str, Any] | None = None, **how: Any) -> VllmBackend:
        work, tokenizer = tmp_path / f"work{len(made)}", load_tokenizer(tiny_model_dir)
        made.append(VllmBackend(python, tiny_model_dir, tokenizer, PLAIN, "float32", work, 1, settings, Asking(**how)))
        return made[-1]

    yield start
    for backend in made:
        backend.close()


@pytest.fixture
def here(tiny_model_dir: Path) -> TransformersBackend:
    return TransformersBackend(load_model(tiny_model_dir), load_tokenizer(tiny_model_dir), PLAIN, 4, "cpu")


def asked(tokenizer: Any, sentences: Callable, forced: str = "") -> list[Prompt]:
    words = [text[: 4 + 2 * place] + forced for place, text in enumerate(sentences(6, 3))]
    encoded = [tokenizer.encode(text, add_special_tokens=False) for text in words]
    return [Prompt([], forced, ids, "", 0, False) for ids in encoded]


def test_letters_and_texts_are_those_of_the_kits_own_backend(started: Any, here: Any, sentences: Callable) -> None:
    backend = started()
    assert (backend.likelihood, backend.context, backend.stop_ids) == (True, here.context, here.stop_ids)
    forced, free = asked(here.tokenizer, sentences, "答案："), asked(here.tokenizer, sentences)
    ours = backend.choice_logprobs([*forced, *free], LETTERS)
    theirs = here.choice_logprobs([*forced, *free], LETTERS)
    assert [list(row) for row in ours] == [LETTERS] * 12
    assert [list(row.values()) for row in ours] == [pytest.approx(list(row.values()), abs=1e-4) for row in theirs]
    assert (written := backend.generate(free, 12)) == here.generate(free, 12) and len(set(texts(written))) > 3


def test_a_draw_is_the_prompts_own_and_limits_and_stops_are_the_lines(
    started: Any, here: Any, sentences: Callable
) -> None:
    free = asked(here.tokenizer, sentences)
    backend = started(temperature=1.0, max_new_tokens=8)
    drawn = backend.generate(free, 50)
    assert texts(drawn) == texts(backend.generate(free[::-1], 50))[::-1] != texts(here.generate(free, 8))
    assert {reply.finish for reply in drawn} >= {LENGTH}
    whole = here.generate(free, 8)[0].text
    assert started(stop=(whole[2],)).generate(free[:1], 8)[0].text == whole[: whole.index(whole[2])]


def test_a_prompt_that_vllm_refuses_is_an_error_of_its_item(started: Any, here: Any, sentences: Callable) -> None:
    good, bad = asked(here.tokenizer, sentences), Prompt([], "", [10**6], "", 0, False)
    backend = started()
    replies = backend.generate([good[0], bad, good[1]], 4)
    assert [reply.finish == ERROR for reply in replies] == [False, True, False]
    assert replies[1].text == "" and "1 tokens is not taken" in replies[1].error
    assert [replies[0], replies[2]] == here.generate(good[:2], 4)
    items = [Item("ceval", str(n), "val", None, "q", dict.fromkeys(LETTERS, "甲"), "A", "A") for n in range(2)]
    fine, refused = answers.answer(items, [good[0], bad], backend)
    assert set(fine["scores"]) == set(LETTERS)
    assert (refused["prediction"], refused["correct"], refused["finish"]) == (None, False, ERROR)


def test_a_worker_that_dies_says_its_last_words(started: Any, tmp_path: Path) -> None:
    with pytest.raises(QilinError, match=r"vLLM ended .*OutOfMemoryError: CUDA out of memory.*whole log: .*vllm\.log"):
        started().generate([Prompt([], "", [5, 5, 5], "", 0, False)], 4)
    with pytest.raises(QilinError, match=r"unexpected keyword argument 'max_model_length'"):
        started({"max_model_length": 9}).generate([Prompt([], "", [5], "", 0, False)], 4)


def test_what_is_set_reaches_vllm_and_what_moves_no_answer_stays_out_of_the_fingerprint(
    started: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    backend = started({"tensor_parallel_size": 2, "max_model_len": 64})
    backend.generate([Prompt([], "", [9], "", 0, False)], 1)
    assert backend.context == 64
    assert (tmp_path / "work0" / "vllm.log").read_text().startswith("EngineCore 2 True 5,6")
    assert backend.fingerprint() == started({"max_model_len": 64}).fingerprint() != started().fingerprint()


def test_a_stage_is_asked_by_its_merged_weights_and_every_process_ends(
    tiny_model_dir: Path, python: str, tmp_path: Path, sentences: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil
    from peft import LoraConfig, get_peft_model

    from qilin_lib.models.adapters import describe, load_to_answer

    run = tmp_path / "run"
    adapter = run / "04_sft" / "adapter"
    tuned = get_peft_model(
        load_model(tiny_model_dir), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    tuned.save_pretrained(adapter)
    tokenizer = load_tokenizer(tiny_model_dir)
    tokenizer.save_pretrained(adapter)
    describe(adapter, tiny_model_dir, False, "float32", BAICHUAN.sha256)
    files.write_json(run / "04_sft" / "facts.json", BAICHUAN.described)
    (run / "06_eval").mkdir()
    given = {"run": "run", "models": ["sft"], "baselines": {"T5": {"model": "tiny-t5"}}, "vllm_python": python}
    files.write_json(run / "02_tokenize" / "base.json", {"path": str(tiny_model_dir)})
    stage = Stage(params.load("06_eval", given), run, "", {}, False)
    assert models.prepare(stage, lambda text: None) == {}
    loaders = models.loaders(stage, "cpu")
    assert type(loaders["T5"]()).__name__ == "SequenceBackend", "vLLM holds no encoder-decoder"
    free = asked(tokenizer, sentences)
    live = TransformersBackend(load_to_answer(adapter, "float32"), tokenizer, PLAIN, 4, "cpu")
    expected = texts(live.generate(free, 12))
    monkeypatch.setenv("RANK", "1")
    with closing(loaders["sft"]()) as backend:
        assert backend.template.name == "baichuan"
        assert texts(backend.generate(free, 12)) == expected
        monkeypatch.setenv("RANK", "0")
        with closing(loaders["sft"]()) as beside:
            assert texts(beside.generate(free, 12)) == expected == texts(backend.generate(free, 12))
    assert not list((stage.dir / "vllm").glob("*")), "what was asked and answered is not left behind"
    left = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in left if "vllm_worker.py" in line and str(tmp_path) in line]


def test_an_interpreter_without_vllm_is_said_before_anything_is_asked(tiny_model_dir: Path, tmp_path: Path) -> None:
    given = {"run": "run", "models": [], "baselines": {}, "vllm_python": "/nowhere/python"}
    stage = Stage(params.load("06_eval", given), tmp_path, "", {}, False)
    with pytest.raises(QilinError, match=r"06_eval: vllm_python = '/nowhere/python'.*nearest valid: null"):
        models.prepare(stage, lambda text: None)
