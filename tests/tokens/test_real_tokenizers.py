"""Own templates with the vocabularies of Llama 3, Qwen and Mistral, from packages on PyPI that carry them.

pip install --no-deps llama-models==0.3.0 dashscope==2.0.2 mistral-common==1.13.1
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from base64 import b64decode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from qilin_lib.tokens.own_template import choose, keeps
from qilin_lib.tokens.template import Template
from tests.helpers.chat import published

TURNS = [
    {"role": "user", "content": "我咳嗽三天了，痰是黄色的，怎么办？"},
    {"role": "assistant", "content": "建议：\n1. 多喝水；\n2. 查血常规。\n\n必要时用 amoxicillin 0.5 g"},
    {"role": "user", "content": "How long  should I take it?"},
    {"role": "assistant", "content": "五到七天。"},
    {"role": "user", "content": "谢谢\n医生"},
]
SYSTEM = {"role": "system", "content": "你是一名医生。Answer briefly."}
DIGITS = {"llama_models": r"\p{N}{1,3}", "dashscope": r"\p{N}"}
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What mistral-common writes: SentencePiece's form has a blank behind a tag, Tekken's has none.
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST]BLANK' + m['content'] + '[/INST]' }}"
    "{% else %}{{ 'BLANK' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)


def file_of(package: str, path: str) -> Path:
    """A file of a package that need not be installed; it is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"the package {package.replace('_', '-')} is not installed; this file's head says how")
    return Path(found.origin).parent / path


def byte_pairs(ranks: Iterable[tuple[bytes, int]], words: str, special: list[str]) -> Any:
    """A tokenizer of tiktoken's kind: byte pairs by rank, special tokens behind them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    ranks, letters = dict(ranks), bytes_to_unicode()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = []
    for token, rank in ranks.items():
        pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [(a, b) for a, b in pairs if a in ranks and b in ranks]
        merges += [(rank, ranks[a], ranks[b], spelled[a], spelled[b]) for a, b in known]
    ordered = [(a, b) for *_, a, b in sorted(merges)]
    core = Tokenizer(models.BPE({spelled[t]: r for t, r in ranks.items()}, ordered, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(words), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=core)


def tiktoken(package: str, path: str, special: list[str]) -> Any:
    lines = file_of(package, path).read_bytes().splitlines()
    ranks = ((b64decode(token), int(rank)) for token, rank in (line.split() for line in lines if line))
    return byte_pairs(ranks, WORDS.replace("DIGITS", DIGITS[package]), special)


@pytest.fixture(scope="module")
def llama() -> Any:
    """Llama 3's vocabulary; its special tokens have the ids 128000 to 128009."""
    reserved = [f"<|reserved_special_token_{n}|>" for n in range(3)]
    special = ["<|begin_of_text|>", "<|end_of_text|>", *reserved[:2], "<|finetune_right_pad_id|>", reserved[2]]
    special += ["<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"]
    tokenizer = tiktoken("llama_models", "llama3/tokenizer.model", special)
    tokenizer.bos_token, tokenizer.eos_token = "<|begin_of_text|>", "<|end_of_text|>"
    return tokenizer


@pytest.fixture(scope="module")
def qwen() -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = tiktoken("dashscope", "resources/qwen.tiktoken", special)
    tokenizer.eos_token = "<|endoftext|>"
    return tokenizer


def check(tokenizer: Any, system: bool) -> Template:
    """The own template, after every probe gave the tokens of `apply_chat_template`."""
    template = choose("auto", tokenizer)
    assert template.name == "own" and keeps(template, tokenizer)
    for first in [[], [SYSTEM]][: 1 + system]:
        for count in range(1, len(TURNS) + 1):
            messages, prompt = [*first, *TURNS[:count]], bool(count % 2)
            theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
            ours = template.encode(messages, tokenizer, add_generation_prompt=prompt)
            assert ours == (theirs if prompt else theirs[: len(ours)])
    return template


@pytest.mark.parametrize("name", ["llama3", "llama3_1"])
def test_llama_3(name: str, llama: Any) -> None:
    llama.chat_template = published(name)
    template = check(llama, system=True)
    assert template.end(llama) == 128009
    if name == "llama3":
        begun = [128000, 128006, 882, 128007, 271]
        opened = [128009, 128006, 78191, 128007, 271]
        content = llama.encode(TURNS[0]["content"], add_special_tokens=False)
        assert template.encode(TURNS[:1], llama, add_generation_prompt=True) == [*begun, *content, *opened]


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_instruct_2507"])
def test_qwen(name: str, qwen: Any) -> None:
    qwen.chat_template = published(name)
    template = check(qwen, system=True)
    assert template.end(qwen) == qwen.convert_tokens_to_ids("<|im_end|>") == 151645
    ids = template.encode([SYSTEM, TURNS[0]], qwen, add_generation_prompt=True)
    assert ids[:3] == [151644, 8948, 198] and ids[-5:] == [151645, 198, 151644, 77091, 198]


def test_qwen_3_thinks_of_nothing(qwen: Any) -> None:
    qwen.chat_template = published("qwen3")
    template = choose("auto", qwen)
    asked = [{"add_generation_prompt": True, "return_dict": False, "enable_thinking": False}]
    assert template.encode(TURNS[:1], qwen, True) == qwen.apply_chat_template(TURNS[:1], **asked[0])
    assert not keeps(template, qwen), "unasked, the model's own template opens a thought"


def test_mistral_with_tekken() -> None:
    stored = json.loads(file_of("mistral_common", "data/tekken_240911.json").read_text(encoding="utf-8"))
    size = stored["config"]["default_vocab_size"] - stored["config"]["default_num_special_tokens"]
    ranks = ((b64decode(entry["token_bytes"]), entry["rank"]) for entry in stored["vocab"][:size])
    tokenizer = byte_pairs(ranks, stored["config"]["pattern"], ["<s>", "</s>", "[INST]", "[/INST]"])
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    tokenizer.chat_template = MISTRAL.replace("BLANK", "")
    assert check(tokenizer, system=False).blank is False


@pytest.mark.parametrize("legacy", [True, False])
def test_mistral_with_sentencepiece(legacy: bool, tmp_path: Path) -> None:
    """Its blank behind a tag is the one that SentencePiece writes before any text."""
    from transformers import LlamaTokenizer

    pieces = file_of("mistral_common", "data/mistral_instruct_tokenizer_240323.model.v3")
    shutil.copy(pieces, tmp_path / "tokenizer.model")
    tokenizer = LlamaTokenizer.from_pretrained(tmp_path, legacy=legacy)
    tokenizer.chat_template = MISTRAL.replace("BLANK", " ")
    template = check(tokenizer, system=False)
    ids = template.encode(TURNS[:3], tokenizer, add_generation_prompt=True)
    tags = [token for token in ids if token in (1, 2, 3, 4)]
    assert template.blank and tags == [1, 3, 4, 2, 3, 4] and ids[-1] == 4
