"""The encoder-decoder backend: greedy as transformers', alone as in a batch, forced words open the decoder's text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.replies import texts

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.benchmarks.huatuo import Huatuo
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.prompts import Asking, Prompt
from qilin_lib.evaluate.sequence import SequenceBackend, stand_in
from qilin_lib.models.load import load_tokenizer
from qilin_lib.tokens.template import PLAIN
from qilin_lib.train.baseline import load_sequence_model

QUESTIONS = ["头痛", "患者咳嗽发热三天，请问医生这是什么病", "胃痛两周可以服用奥美拉唑，血压偏高需要复查", "您好"]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer: Any) -> Any:
    return tiny_tokenizer


def t5(tokenizer: Any, seed: int = 0) -> Any:
    """A random T5 whose answers depend on the question: sharper weights than a fresh one has."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        initializer_factor=5.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return T5ForConditionalGeneration(config).eval()


def bart(tokenizer: Any) -> Any:
    """The other kind: learnt absolute positions, a start token that is not the pad token."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=128,
        init_std=0.5,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return BartForConditionalGeneration(config).eval()


MODELS = {"t5": t5, "bart": bart}


def asked(tokenizer: Any, reply_prefix: str = "") -> list[Prompt]:
    begun = tokenizer.encode(reply_prefix, add_special_tokens=False) if reply_prefix else []
    prompts = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        ids = [*PLAIN.encode(messages, tokenizer, add_generation_prompt=True), *begun]
        prompts.append(Prompt(messages, reply_prefix, ids, "", 0, False))
    return prompts


@pytest.mark.parametrize("kind", MODELS)
def test_alone_as_in_a_batch(kind: str, tokenizer: Any) -> None:
    backend = SequenceBackend(MODELS[kind](tokenizer), tokenizer, PLAIN, 4, "cpu")
    prompts = asked(tokenizer, "答案：")
    together = texts(backend.generate(prompts, 12))
    assert together == [texts(backend.generate([prompt], 12))[0] for prompt in prompts]
    assert len(set(together)) > 1 and all(together), "the answers must depend on the questions"
    scored = backend.choice_logprobs(prompts, list("ABCD"))
    alone = [backend.choice_logprobs([prompt], list("ABCD"))[0] for prompt in prompts]
    for one, other in zip(scored, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert len({max(row, key=row.get) for row in scored} | {round(row["A"], 3) for row in scored}) > 2


@pytest.mark.parametrize("kind", MODELS)
def test_greedy_as_transformers_own(kind: str, tokenizer: Any) -> None:
    """Oracle: `generate` on one question at a time; the encoder's input ends in the end token, the answer starts with
    the start token and the forced words."""
    import torch

    model = MODELS[kind](tokenizer)
    backend = SequenceBackend(model, tokenizer, PLAIN, 4, "cpu")
    begun = tokenizer.encode("答案：", add_special_tokens=False)
    expected = []
    for question in QUESTIONS:
        ids = tokenizer.encode(f"问：{question}\n答：", add_special_tokens=False) + [tokenizer.eos_token_id]
        first = torch.tensor([[model.config.decoder_start_token_id, *begun]])
        out = model.generate(
            torch.tensor([ids]), decoder_input_ids=first, do_sample=False, num_beams=1, max_new_tokens=12
        )
        expected.append(tokenizer.decode(out[0, first.shape[1] :], skip_special_tokens=True))
    assert texts(backend.generate(asked(tokenizer, "答案："), 12)) == expected


def test_choices_are_the_decoder_s_next_token(tokenizer: Any) -> None:
    """Oracle: the loss of the one-letter continuation, by the model's own labels."""
    import torch

    model = t5(tokenizer)
    scores = SequenceBackend(model, tokenizer, PLAIN, 4, "cpu").choice_logprobs(asked(tokenizer, "答案："), ["A", "C"])
    ids = tokenizer.encode(f"问：{QUESTIONS[1]}\n答：", add_special_tokens=False) + [tokenizer.eos_token_id]
    for letter in "AC":
        labels = torch.tensor([tokenizer.encode(f"答案：{letter}", add_special_tokens=False)])
        labels[0, :-1] = -100
        begun = torch.tensor([[tokenizer.pad_token_id, *tokenizer.encode("答案：", add_special_tokens=False)]])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), decoder_input_ids=begun, labels=labels).loss
        assert scores[1][letter] == pytest.approx(-loss.item(), abs=1e-5)


def test_the_stand_in_is_made_once_and_drawn_from_the_seed(tiny_model_dir: Path, tmp_path: Path) -> None:
    made = {seed: stand_in(tiny_model_dir, tmp_path / f"t5-{seed}", seed) for seed in (1, 2)}
    again = stand_in(tiny_model_dir, tmp_path / "again", 1)
    weights = {folder: (folder / "model.safetensors").read_bytes() for folder in (*made.values(), again)}
    assert weights[made[1]] == weights[again] != weights[made[2]]
    before = (made[1] / "config.json").stat().st_mtime_ns
    assert stand_in(tiny_model_dir, made[1], 1) == made[1] and (made[1] / "config.json").stat().st_mtime_ns == before
    model, tokenizer = load_sequence_model(made[1]), load_tokenizer(made[1])
    assert texts(SequenceBackend(model, tokenizer, PLAIN, 4, "cpu").generate(asked(tokenizer), 3))


def test_a_model_that_does_not_say_how_an_answer_starts_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    model = t5(tokenizer)
    model.config.decoder_start_token_id = None
    model.save_pretrained(tmp_path)
    with pytest.raises(QilinError, match="no decoder_start_token_id"):
        load_sequence_model(tmp_path)


def test_a_temperature_is_refused_where_nothing_is_drawn(tokenizer: Any) -> None:
    with pytest.raises(QilinError, match=r"temperature: 0\.7: an encoder-decoder answers greedily; nearest valid: 0"):
        SequenceBackend(t5(tokenizer), tokenizer, PLAIN, 4, "cpu", Asking(temperature=0.7))


def test_an_encoder_decoder_answers_where_the_perplexity_of_references_is_asked_for(tokenizer: Any) -> None:
    """A causal model's measure; its row has none, and all else."""
    backend = SequenceBackend(t5(tokenizer), tokenizer, PLAIN, 2, "cpu")
    items = [Item("huatuo", f"q{n}", "test", None, text, None, None, "多休息。") for n, text in enumerate(QUESTIONS)]
    task = Huatuo("huatuo", "fixed", "test", None, items, [], {"max_new_tokens": 4, "perplexity": True}, "char")
    rows = task.answer(items, task.prompts(items, backend, 0), backend)
    table = task.statistics([row | {"reference": item.reference} for row, item in zip(rows, items, strict=True)])
    assert len(rows) == len(items) and "bleu_1" in table and "perplexity" not in table
