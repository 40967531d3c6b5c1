"""Own templates with the vocabularies of Llama 3, Qwen and Mistral."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import vocabularies

from qilin_lib.tokens.own_template import choose, keeps
from qilin_lib.tokens.template import Template
from tests.helpers.chat import SYSTEM, TURNS, published


@pytest.fixture(scope="module")
def llama() -> Any:
    return vocabularies.llama()


@pytest.fixture(scope="module")
def qwen() -> Any:
    return vocabularies.qwen()


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
    asked = {"add_generation_prompt": True, "return_dict": False, "enable_thinking": False}
    assert template.encode(TURNS[:1], qwen, True) == qwen.apply_chat_template(TURNS[:1], **asked)
    assert not keeps(template, qwen), "unasked, the model's own template opens a thought"


def test_mistral_with_tekken() -> None:
    assert check(vocabularies.tekken(), system=False).blank is False


@pytest.mark.parametrize("legacy", [True, False])
def test_mistral_with_sentencepiece(legacy: bool, tmp_path: Path) -> None:
    """Its blank behind a tag is the one that SentencePiece writes before any text."""
    tokenizer = vocabularies.sentencepiece(tmp_path, legacy)
    template = check(tokenizer, system=False)
    ids = template.encode(TURNS[:3], tokenizer, add_generation_prompt=True)
    tags = [token for token in ids if token in (1, 2, 3, 4)]
    assert template.blank and tags == [1, 3, 4, 2, 3, 4] and ids[-1] == 4
