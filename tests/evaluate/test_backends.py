from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import wraps
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.replies import texts

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import backends
from qilin_lib.evaluate.backends import TransformersBackend, single_token, stop_ids, weights_hash
from qilin_lib.evaluate.prompts import Prompt

pytestmark = pytest.mark.slow

LETTERS = list("ABCD")
SHAPE = {
    "vocab_size": 640,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.5,
    "eos_token_id": 1,
    "bos_token_id": 1,
    "pad_token_id": 0,
}


def draw(count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(2, 640) for _ in range(count)]


def prompt(ids: Sequence[int], shared: int = 0, reply_prefix: str = "") -> Prompt:
    return Prompt([], reply_prefix, list(ids), "", 0, False, shared)


def prompts(n: int, longest: int = 60, seed: int = 5) -> list[Prompt]:
    lengths = random.Random(seed)
    return [prompt(draw(lengths.randrange(1, longest), seed + k)) for k in range(n)]


def subject(n: int, seed: int, shared: int = 90) -> list[Prompt]:
    """Prompts that begin with the same `shared` ids."""
    return [prompt([*draw(shared, seed), *p.ids], shared) for p in prompts(n, 40, seed + 100)]


@pytest.fixture
def make(tiny_llama: Any, tokenizer: Any, template: Any) -> Any:
    model = tiny_llama()
    return lambda batch_size=4: TransformersBackend(model, tokenizer, template, batch_size, "cpu")


@pytest.fixture
def built(tokenizer: Any, template: Any) -> Callable[..., TransformersBackend]:
    """built(model type, **changes of its configuration) -> the backend of a small random model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def build(kind: str, **changes: Any) -> TransformersBackend:
        config = AutoConfig.for_model(kind, **SHAPE | changes)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = AutoModelForCausalLM.from_config(config).eval()
        return TransformersBackend(model, tokenizer, template, 4, "cpu")

    return build


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Callable[[TransformersBackend], list[tuple[int, int]]]:
    """forwards(backend) -> the growing list of (rows, tokens) that its model reads."""

    def watch(backend: TransformersBackend) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        forward = backend.model.forward

        @wraps(forward)
        def counted(*args: Any, **kwargs: Any) -> Any:
            seen.append(tuple(kwargs["input_ids"].shape))
            return forward(*args, **kwargs)

        monkeypatch.setattr(backend.model, "forward", counted)
        return seen

    return watch


def plain_logprobs(backend: TransformersBackend, ids: list[int]) -> list[float]:
    """Of A-D, by one forward over the whole prompt: no cache, no mask, no neighbours."""
    import torch

    with torch.inference_mode():
        row = backend.model(torch.tensor([ids]), use_cache=False).logits[0, -1].float().log_softmax(-1)
    return [row[backend.tokenizer.encode(letter)[0]].item() for letter in LETTERS]


def largest_difference(backend: TransformersBackend, asked: list[Prompt]) -> float:
    found = backend.choice_logprobs(asked, LETTERS)
    pairs = zip(found, asked, strict=True)
    exact = [(list(row.values()), plain_logprobs(backend, p.ids)) for row, p in pairs]
    return max(abs(a - b) for ours, theirs in exact for a, b in zip(ours, theirs, strict=True))


def test_the_context_is_that_of_the_text_model_in_a_model_of_several_parts(make: Any) -> None:
    from transformers import Gemma3Config

    backend = make()
    backend.tokenizer.model_max_length = 2048
    backend.model.config = Gemma3Config(text_config={"max_position_embeddings": 77})
    assert TransformersBackend(backend.model, backend.tokenizer, backend.template, 4, "cpu").context == 77


# --- choices


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"num_key_value_heads": 2}),
        ("llama", {"num_key_value_heads": 1, "attn_implementation": "eager"}),
        ("qwen2", {"num_key_value_heads": 2}),
        ("mistral", {"num_key_value_heads": 4, "sliding_window": None}),
        ("gpt2", {"initializer_range": 0.2}),
        ("gpt_neox", {}),
    ],
)
def test_choices_equal_the_plain_forward(built: Any, kind: str, changes: dict):
    backend = built(kind, **changes)
    assert backend.model.config._attn_implementation == changes.get("attn_implementation", "sdpa")
    assert largest_difference(backend, subject(12, 1)) < 1e-4
    assert largest_difference(backend, prompts(12)) < 1e-4, "and without anything shared"


def test_choices_in_bfloat16_equal_it_within_its_rounding(built: Any):
    import torch

    backend = built("llama", num_key_value_heads=2, initializer_range=0.1)
    backend.model.to(torch.bfloat16)
    assert 0 < largest_difference(backend, subject(12, 1)) < 0.05


def test_scores_are_the_same_bits_whatever_was_scored_before(make: Any):
    first, second, other = subject(5, 1), subject(4, 1)[::-1], subject(3, 2)
    expected = [make().choice_logprobs(chunk, LETTERS) for chunk in (first, second, other)]
    backend = make()
    for chunk, values in [(other, 2), (first, 0), (second, 1), (prompts(2), None), (second, 1), (first, 0)]:
        found = backend.choice_logprobs(chunk, LETTERS)
        assert values is None or found == expected[values]


def test_the_prefix_of_a_subject_is_read_once(make: Any, forwards: Any):
    backend = make()
    seen, chunk = forwards(backend), subject(3, 1)
    rests = sum(len(p.ids) - 90 for p in chunk)
    backend.choice_logprobs(chunk, LETTERS)
    backend.choice_logprobs(chunk[:2], LETTERS)
    assert seen == [(1, 90), (1, rests), (1, rests - len(chunk[2].ids) + 90)]
    backend.choice_logprobs(subject(1, 2), LETTERS)
    assert seen[3] == (1, 90) and len(backend._prefix[1]) == 2, "another subject's prefix takes its place"


def test_long_chunks_are_read_in_parts_of_bounded_size(make: Any, forwards: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backends, "PACK_TOKENS", 64)
    backend, chunk = make(), subject(16, 1)
    assert largest_difference(make(), chunk) < 1e-4
    seen = forwards(backend)
    backend.choice_logprobs(chunk, LETTERS)
    assert len(seen) > 4 and max(tokens for _, tokens in seen[1:]) <= 64
    assert sum(tokens for _, tokens in seen) == 90 + sum(len(p.ids) - 90 for p in chunk)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("bloom", {}),
        ("mistral", {"sliding_window": 64, "num_key_value_heads": 4}),
        ("falcon", {"alibi": True}),
        ("gemma2", {"head_dim": 8, "num_key_value_heads": 2}),
    ],
)
def test_a_model_that_cannot_read_prompts_side_by_side_scores_them_as_each_alone(built: Any, kind: str, changes: dict):
    import torch

    backend, chunk = built(kind, **changes), [*prompts(4), *prompts(4)[1:3]]
    for prompt, found in zip(chunk, backend.choice_logprobs(chunk, LETTERS), strict=True):
        with torch.inference_mode():
            row = backend.model(torch.tensor([prompt.ids])).logits[0, -1].float().log_softmax(-1)
        wanted = [row[single_token(backend.tokenizer, "", letter)].item() for letter in LETTERS]
        assert list(found.values()) == pytest.approx(wanted, abs=1e-5)


def test_a_choice_of_two_tokens_is_refused(make: Any, tokenizer: Any):
    with pytest.raises(QilinError, match="'AB' after '答案：' is 2 tokens"):
        make().choice_logprobs([prompt([5], reply_prefix="答案：")], ["AB"])
    assert single_token(tokenizer, "答案：", "A") == tokenizer.encode("A")[0]


def test_a_choice_that_melts_into_the_prefix_is_refused():
    class Merging:
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return {"答案：": [1, 2], "答案：A": [1, 3, 4]}[text]

    with pytest.raises(QilinError, match="needs one"):
        single_token(Merging(), "答案：", "A")


# --- generation


@pytest.mark.parametrize("size", [2, 7, 16])
def test_generation_does_not_depend_on_the_batch(make: Any, size: int):
    asked = prompts(16)
    alone = [texts(make().generate([one], 20))[0] for one in asked]
    batched = [text for start in range(0, 16, size) for text in texts(make().generate(asked[start : start + size], 20))]
    assert batched == alone and len(set(alone)) > 8
    assert texts(make().generate(asked[::-1], 20)) == alone[::-1]


def test_near_ties_do_not_depend_on_the_batch(tiny_llama: Any, tokenizer: Any, template: Any):
    """Every token has a twin whose logit differs by less than the rounding of float32."""
    import torch

    model = tiny_llama()
    with torch.no_grad():
        weight = model.lm_head.weight
        noise = torch.randn(weight[320:].shape, generator=torch.Generator().manual_seed(0))
        weight[320:] = weight[:320] * (1 + 2e-7 * noise)
    backend, asked = TransformersBackend(model, tokenizer, template, 8, "cpu"), prompts(16)
    alone = [texts(backend.generate([one], 30))[0] for one in asked]
    assert texts(backend.generate(asked, 30)) == alone == texts(backend.generate(asked[::-1], 30))[::-1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_trained_models_text_is_transformers_own_whatever_side_is_padded(
    tiny_model_dir: Any, template: Any, sentences: Any, side: str
):
    import torch
    from transformers import GenerationConfig

    from qilin_lib.models.load import load_model, load_tokenizer

    model, tokenizer = load_model(tiny_model_dir), load_tokenizer(tiny_model_dir)
    tokenizer.padding_side = side
    backend = TransformersBackend(model, tokenizer, template, 8, "cpu")
    greedy = GenerationConfig(max_new_tokens=24, do_sample=False, use_cache=True, eos_token_id=list(backend.stop_ids))
    asked = [tokenizer.encode(text, add_special_tokens=False)[: 5 + 3 * k] for k, text in enumerate(sentences(8, 3))]
    expected = []
    for ids in asked:
        out = model.generate(torch.tensor([ids]), generation_config=greedy)[0, len(ids) :].tolist()
        expected.append(tokenizer.decode([i for i in out if i not in backend.stop_ids], skip_special_tokens=True))
    assert texts(backend.generate([prompt(ids) for ids in asked], 24)) == expected
    assert len(set(expected)) > 3 and len({len(text) for text in expected}) > 1


def test_learned_positions_count_from_the_first_token(built: Any):
    backend, asked = built("gpt2", initializer_range=0.2), [*prompts(6), prompt([9]), prompt(draw(80, 8))]
    assert texts(backend.generate(asked, 12)) == [texts(backend.generate([one], 12))[0] for one in asked]


def test_shared_tokens_are_read_once_and_change_no_text(make: Any, forwards: Any):
    chunk = subject(6, 1)
    apart = texts(make().generate([prompt(p.ids) for p in chunk], 15))
    assert apart == texts(make().generate([prompt(chunk[0].ids), *chunk[1:]], 15)), "one without: nothing is shared"
    backend = make()
    seen = forwards(backend)
    assert texts(backend.generate(chunk, 15)) == apart
    assert seen[:2] == [(1, 90), (6, max(len(p.ids) for p in chunk) - 90)]
    backend.generate(chunk[:2], 1)
    assert (1, 90) not in seen[1:], "the next chunk reads it from the cache"


def test_what_follows_the_prompt_keeps_its_blank():
    class Sentences:
        """As SentencePiece: a blank at the beginning of what is decoded is left out."""

        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return "".join({1: "答", 2: "：", 3: " A", 4: ""}[i] for i in ids).lstrip()

    assert backends.text_after(Sentences(), [1, 2], [3]) == " A"
    assert backends.text_after(Sentences(), [1, 2], []) == ""
    assert backends.text_after(Sentences(), [4], [3, 4]) == "A"


def test_every_end_token_of_the_models_own_configuration_stops():
    tokenizer, config = SimpleNamespace(eos_token_id=2), SimpleNamespace(eos_token_id=[2, 9])
    assert stop_ids(SimpleNamespace(generation_config=config), tokenizer) == {2, 9}
    assert stop_ids(SimpleNamespace(), tokenizer) == {2}


@pytest.mark.parametrize("length", [0, 503])
def test_a_prompt_that_is_empty_or_beyond_the_context_is_refused(make: Any, length: int):
    with pytest.raises(QilinError, match=f"prompt 1 has {length} tokens; the model's context of 512 takes 1 to 502"):
        make().generate([prompt([5]), prompt([5] * length)], 10)
    assert len(texts(make().generate([prompt([5] * 502)], 10))) == 1


def test_the_fingerprint_tells_models_apart(make: Any, tiny_llama: Any):
    assert make(1).fingerprint() == make(2).fingerprint() == weights_hash(tiny_llama(0)) != weights_hash(tiny_llama(1))


def test_a_reference_is_as_likely_as_transformers_loss_says(built: Any):
    import torch

    backend, texts = built("llama", num_key_value_heads=2), ["多喝水。", "发热三天，建议查血常规。", "休息"]
    asked = prompts(3)
    found = backend.reference_logprobs(asked, texts)
    for (own, characters), one, text in zip(found, asked, texts, strict=True):
        ids = backend.tokenizer.encode(text, add_special_tokens=False)
        labels = torch.tensor([[-100] * len(one.ids) + ids])
        with torch.inference_mode():
            loss = backend.model(torch.tensor([one.ids + ids]), labels=labels).loss.item()
        assert own == pytest.approx(-loss * len(ids), rel=1e-5) and characters == len(text)


def test_references_are_read_together(built: Any):
    backend, texts, rows = built("llama"), ["多喝水。", "发热三天，建议查血常规。", "休息"], []

    def count(_: Any, __: Any, given: dict[str, Any]) -> None:
        rows.append(len(given["input_ids"]))

    backend.model.register_forward_pre_hook(count, with_kwargs=True)
    backend.reference_logprobs(prompts(3), texts)
    assert rows == [3]


def test_of_a_reference_that_does_not_fit_the_beginning_counts(built: Any):
    backend, asked = built("llama"), prompt(draw(500, 1))
    assert backend.reference_logprobs([asked], ["字" * 20]) == backend.reference_logprobs([asked], ["字" * 12])
    assert backend.reference_logprobs([asked], ["字" * 20])[0][1] == 12
