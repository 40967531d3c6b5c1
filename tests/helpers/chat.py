"""Small tokenizers that carry the chat templates of published models, as TRL ships them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# Qwen's and Llama 3's rule: line ends are cut off together, from the text on both sides.
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TAGS = re.compile(r"<\|?[a-z_]+\|?>|</[a-z]+>|<｜[^｜]+｜>|<\|[A-Z_]+\|>|\[gMASK\]|\[/?INST\]")

TURNS = [
    {"role": "user", "content": "我头痛，怎么办？"},
    {"role": "assistant", "content": "休息。\n\n- Drink water\n- 复查"},
    {"role": "user", "content": "And  the fever: 39 °C"},
    {"role": "assistant", "content": "退烧药"},
    {"role": "user", "content": "好"},
    {"role": "assistant", "content": "不客气 :)"},
]
SYSTEM = {"role": "system", "content": "You are a doctor.\n用中文回答"}


def published(name: str) -> str:
    """A chat template of the installed TRL, e.g. "qwen2_5", "llama3"."""
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def speaking(chat_template: str | None, eos: str = "<eos>", tags: tuple[str, ...] = ()) -> Any:
    """A tokenizer of bytes and "\\n\\n"; what looks like a tag in `chat_template` is one special token, `tags` too."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, "ĊĊ"])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token=eos)
    written = set(TAGS.findall(chat_template or "")) | set(tags)
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(written - {"<bos>", eos})})
    tokenizer.chat_template = chat_template
    return tokenizer


def speaking_model(source: Path, target: Path, chat_template: str) -> Path:
    """The model in `source` with a tokenizer that speaks `chat_template`, in `target`."""
    target.mkdir(parents=True)
    for path in (source / "config.json", source / "generation_config.json", *source.glob("*.safetensors")):
        (target / path.name).symlink_to(path)
    speaking(chat_template).save_pretrained(target)
    return target
