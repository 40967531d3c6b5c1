"""What the trainings share: one row a step, what a finished training leaves, held-out likelihoods."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import trainings
from helpers.trainings import job as job_of
from helpers.trainings import token_logprobs

from qilin_lib import files
from qilin_lib.models.adapters import trained, weights_sha256
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.models.tiny import new_model
from qilin_lib.tokens.own_template import choose
from qilin_lib.tokens.pack import pack
from qilin_lib.tokens.template import BAICHUAN, IGNORE, Template
from qilin_lib.train import behaviour, fit
from qilin_lib.train.fit import log_callback, prepare_model, read_log
from qilin_lib.train.heldout import documents, label_count, sequence_logprobs
from qilin_lib.train.methods import dcpt
from tests.helpers.chat import published, speaking_model


def test_later_row_of_a_step_counts(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 2.0},
        {"step": 2, "eval_loss": 9.0},
        {"step": 3, "loss": 1.5},
        {"step": 2, "loss": 2.1},
        {"step": 3, "loss": 1.4},
    ]
    files.write_jsonl(tmp_path / "log.jsonl", rows)
    assert read_log(tmp_path) == [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 2.1, "eval_loss": 9.0},
        {"step": 3, "loss": 1.4},
    ]


def test_log_callback_appends_rows_and_tells_the_notebook(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from transformers import TrainerState

    state = TrainerState(global_step=4, max_steps=10, is_world_process_zero=True)
    for _ in range(2):
        log_callback(tmp_path).on_log(None, state, None, logs={"loss": 1.25})
    log_callback(tmp_path).on_log(None, state, None, logs={"train_runtime": 3.0})
    assert list(files.read_jsonl(tmp_path / "log.jsonl")) == [{"step": 4, "loss": 1.25}] * 2
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2 and told[0].startswith("QILIN-PROGRESS ")
    shown = json.loads(told[0].removeprefix("QILIN-PROGRESS "))
    assert {key: shown[key] for key in ("step", "steps", "loss")} == {"step": 4, "steps": 10, "loss": 1.25}


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token(
    training: Callable, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """LLaMA's has none."""
    shutil.copytree(tiny_model_dir, tmp_path / "base")
    settings = tmp_path / "base" / "tokenizer_config.json"
    files.write_json(settings, {k: v for k, v in files.read_json(settings).items() if k != "pad_token"})
    tokenizer = prepare_model(training("04_sft"), tmp_path / "base")[1]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None


def test_tensorboard_gets_the_losses(
    training: Callable, tiny_model_dir: Path, tiny_tokenizer: Any, sentences: Callable, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # setenv and delenv, so that what fit.arguments sets is taken back after the test
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    out = tmp_path / "run" / "03_dcpt"
    pack(tiny_tokenizer(sentences(30, 3))["input_ids"], 64, 3, 0).save(tmp_path / "blocks.npy")
    files.write_jsonl(tmp_path / "held.jsonl", [{"text": text} for text in sentences(2, 4)])
    paths = {"blocks": tmp_path / "blocks.npy", "medical": tmp_path / "held.jsonl", "general": tmp_path / "held.jsonl"}
    dcpt.work(job_of(training("03_dcpt", report_to="tensorboard", max_steps=3), out, tiny_model_dir, **paths))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "03_dcpt")).Reload()
    losses = {row["step"]: row["loss"] for row in files.read_jsonl(out / "log.jsonl") if "loss" in row}
    assert {event.step: pytest.approx(event.value) for event in events.Scalars("train/loss")} == losses


# --- what is left -----------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tiny_model_dir: Path, training: Callable, tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """`saved(**parameters)`: a trainer of the tiny model, its weights moved as by training, and what was saved."""

    def make(template: Template = BAICHUAN, **overrides: Any) -> tuple[Any, Path]:
        import torch
        from transformers import Trainer, TrainingArguments

        parameters = training("04_sft", **overrides)
        model, _ = fit.prepare_model(parameters, tiny_model_dir)
        if parameters.finetuning != "full":
            model.add_adapter("ref", model.peft_config["default"])
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(4)
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(torch.randn_like(weight) * 0.02)
        trainer = Trainer(model=model, args=TrainingArguments(**fit.arguments(parameters, tmp_path)))
        job = trainings.job(parameters, tmp_path, tiny_model_dir, template)
        fit.save(trainer, job)
        return trainer, tmp_path

    return make


def assert_plain(folder: Path, base: Path) -> None:
    """Nothing that would have to be unpickled; tokenizer and template as in `base`."""
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".jinja", ".md", ".model"}, kinds
    found, expected = load_tokenizer(trained(folder)), load_tokenizer(base)
    assert found.chat_template == expected.chat_template and found.get_vocab() == expected.get_vocab()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_training_is_saved_in_the_asked_for_dtype(dtype: str, saved: Callable, tiny_model_dir: Path) -> None:
    import torch
    from safetensors.torch import load_file

    trainer, out = saved(finetuning="full", dtype=dtype)
    found, state = load_file(out / "model" / "model.safetensors"), trainer.model.state_dict()
    assert found.keys() == state.keys() and {t.dtype for t in state.values()} == {torch.float32}
    for name, weight in state.items():
        # Stochastic rounding takes one of the two neighbours; bfloat16 has eight bits.
        assert found[name].dtype == getattr(torch, dtype)
        limit = 2**-7 * weight.abs() if dtype == "bfloat16" else torch.zeros(())
        assert ((found[name].float() - weight).abs() <= limit).all()
    assert files.read_json(out / "model" / "config.json")["dtype"] == dtype
    assert_plain(out, tiny_model_dir)
    assert not (out / "adapter").exists()


@pytest.mark.parametrize(("kind", "dtype"), [("lora", "float32"), ("qlora", "float32"), ("lora", "bfloat16")])
def test_an_adapter_is_saved_alone_and_says_what_it_sits_on(
    kind: str, dtype: str, saved: Callable, tiny_model_dir: Path
) -> None:
    """In float32, whatever the weights below it are. DPO's frozen reference adapter is no part of the result."""
    from safetensors.torch import load_file

    trainer, out = saved(finetuning=kind, dtype=dtype)
    assert [path.name for path in (out / "adapter").iterdir() if path.is_dir()] == []
    found = load_file(out / "adapter" / "adapter_model.safetensors")
    state = {n: w for n, w in trainer.model.named_parameters() if ".default." in n}
    assert len(found) == len(state) > 0
    assert {str(weight.dtype) for weight in found.values()} == {"torch.float32"}
    assert all((found[name.replace(".default.", ".")] == weight).all() for name, weight in state.items())
    assert files.read_json(out / "adapter" / "qilin.json") == {
        "base": str(tiny_model_dir.resolve()),
        "base_sha256": weights_sha256(tiny_model_dir),
        "quantised": kind == "qlora",
        "dtype": dtype,
        "template_sha256": BAICHUAN.sha256,
    }
    assert_plain(out, tiny_model_dir)
    assert not (out / "model").exists()


def test_tied_weights_stay_tied(tiny_model_dir: Path, tiny_shape: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = new_model(tiny_shape, tiny_tokenizer, 1)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    fit.save_full(model, fit.trained_state(model, "bfloat16", "seed"), "bfloat16", tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = load_model(tmp_path, "bfloat16")
    assert again.lm_head.weight.data_ptr() == again.model.embed_tokens.weight.data_ptr()
    assert (again.lm_head.weight.float() - model.lm_head.weight).abs().max() < 2**-7 * model.lm_head.weight.abs().max()


@pytest.mark.parametrize(
    ("name", "kept", "end"),
    [("qwen2_5", True, "<|im_end|>"), ("qwen2_5_training", True, "<|im_end|>"), ("qwen3", False, "<|im_end|>")],
)
def test_a_model_is_saved_with_the_template_that_it_learned(
    name: str, kept: bool, end: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The tokenizer's own where it was trained in it; Qwen3's, which opens an answer in two ways, becomes the kit's."""
    weights = speaking_model(tiny_model_dir, tmp_path / "base", published(name))
    template = choose("auto", load_tokenizer(weights))
    paths = SimpleNamespace(weights=weights)
    fit.save_tokenizer(SimpleNamespace(template=template, paths=paths), tmp_path / "model")
    found = load_tokenizer(tmp_path / "model")
    turns = [{"role": role, "content": text} for role, text in [("user", "痛"), ("assistant", "休息"), ("user", "好")]]
    rendered = found.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert rendered == template.encode(turns, found, add_generation_prompt=True)
    assert "generation" not in found.chat_template.replace("add_generation_prompt", "")
    assert ("tools" in found.chat_template) is kept
    assert found.eos_token == end, "a reply ends where generation stops"


def test_a_training_on_documents_leaves_the_token_that_ends_them(tiny_model_dir: Path, tmp_path: Path) -> None:
    weights = speaking_model(tiny_model_dir, tmp_path / "base", published("qwen2_5"))
    paths, template = SimpleNamespace(weights=weights), choose("auto", load_tokenizer(weights))
    fit.save_tokenizer(SimpleNamespace(template=template, paths=paths, turns=False), tmp_path / "model")
    found = load_tokenizer(tmp_path / "model")
    assert (found.eos_token, found.chat_template) == ("<eos>", published("qwen2_5"))


# --- held-out likelihoods and greedy answers --------------------------------------------------------------------------


Sequence = tuple[list[int], list[int]]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    return load_model(tiny_model_dir)


@pytest.fixture(scope="module")
def sequences() -> list[Sequence]:
    """Thirteen sequences of 1 to 40 tokens with labels here and there, ids 0 (the padding's) among them."""
    draw = random.Random(4)
    made = []
    for length in (1, 40, *(draw.randint(2, 39) for _ in range(11))):
        ids = [draw.randint(0, 399) for _ in range(length)]
        made.append((ids, [token if draw.random() < 0.6 else IGNORE for token in ids]))
    return made


def naive(model: Any, sequence: Sequence) -> float:
    ids, labels = sequence
    found = token_logprobs(model.eval(), ids).tolist() if len(ids) > 1 else []
    return sum(value for value, label in zip(found, labels[1:], strict=True) if label != IGNORE)


@pytest.mark.parametrize("size", [1, 100, 4096])
def test_likelihoods_are_those_of_a_loop_in_batches_of_any_size(size: int, model: Any, sequences: list) -> None:
    expected = [naive(model, sequence) for sequence in sequences]
    assert sequence_logprobs(model, sequences, size) == pytest.approx(expected, abs=1e-4)
    assert expected[0] == 0 and min(expected) < -10


def test_documents_end_in_eos_and_are_cut(tiny_tokenizer: Any) -> None:
    eos = tiny_tokenizer.eos_token_id
    texts = ["患者咳嗽", "头痛" * 50, ""]
    made = documents(texts, tiny_tokenizer, 20)
    whole = tiny_tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert made[0][0] == [*whole[0], eos] and made[1][0] == whole[1][:20] and made[2][0] == [eos]
    assert all(ids == labels for ids, labels in made)
    assert np.array([label_count(labels) for _, labels in made]).tolist() == [len(whole[0]), 19, 0]


def test_scoring_holds_a_slice_of_the_logits_in_float32(tiny_model_dir: Path, tiny_tokenizer: Any) -> None:
    """Of 8 x 2047 tokens and 64,000 words they would be 4 GB, twice."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    model = load_model(tiny_model_dir, "bfloat16")
    words, largest = model.config.vocab_size, 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for one in result if isinstance(result, tuple) else (result,):
                if isinstance(one, torch.Tensor) and one.dtype == torch.float32 and words in one.shape:
                    largest = max(largest, one.numel() // words)
            return result

    sequences = documents(["患者咳嗽发热三天。" * 160] * 16, tiny_tokenizer, 400)
    assert min(len(ids) for ids, _ in sequences) == 400
    with Largest():
        sequence_logprobs(model, sequences)
    assert 0 < largest <= 512


@pytest.fixture
def prompts(tiny_tokenizer: Any) -> list[list[int]]:
    texts = ["请问医生这是什么病", "患者咳嗽发热三天，头痛伴恶心，建议多喝水休息", "您好", "胃痛两周，可以服用奥美拉唑"]
    return [tiny_tokenizer.encode(text, add_special_tokens=False) for text in texts]


def one_by_one(model: Any, prompt: list[int], most: int, end: int) -> list[int]:
    """The likeliest token again and again, without padding or cache."""
    import torch

    written: list[int] = []
    while len(written) < most:
        with torch.no_grad():
            token = int(model.eval()(input_ids=torch.tensor([prompt + written])).logits[0, -1].argmax())
        if token == end:
            break
        written.append(token)
    return written


def test_an_answer_is_the_likeliest_token_until_its_end_token(
    model: Any, tiny_tokenizer: Any, prompts: list[list[int]]
) -> None:
    """In batches of prompts of several lengths; the end token is the one that comes fifth in the first answer."""
    import copy

    answer = one_by_one(model, prompts[0], 14, -1)
    ender = copy.deepcopy(tiny_tokenizer)
    ender.eos_token = tiny_tokenizer.convert_ids_to_tokens(answer[4])
    expected = [one_by_one(model, prompt, 14, answer[4]) for prompt in prompts]
    assert expected[0] == answer[: answer.index(answer[4])] and len(expected[0]) < 14
    assert behaviour.greedy(model, ender, prompts, 14, batch_size=3) == expected
    found = behaviour.answers(model, ender, prompts, 14)
    assert found["tokens"] == [len(ids) for ids in expected]
    assert found["cut"] == [len(ids) == 14 for ids in expected] and not found["cut"][0]
    assert found["texts"][0] == tiny_tokenizer.decode(expected[0], skip_special_tokens=True)


@pytest.mark.parametrize(
    "text, n, expected",
    [
        ("", 4, 0.0),
        ("高血压", 4, 0.0),
        ("高血压病", 4, 0.0),
        ("aaaaaa", 4, 2 / 3),
        ("abcdabcd", 4, 1 / 5),
        ("您好您好您好您好", 2, 5 / 7),
        ("头痛、发热、咳嗽", 2, 0.0),
    ],
)
def test_repetition_is_the_share_of_n_grams_seen_before(text: str, n: int, expected: float) -> None:
    assert behaviour.repetition(text, n) == pytest.approx(expected)
