"""The one chat template: spans, masks, truncation, and the same tokens as the tokenizer's own template."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qilin_lib.errors import QilinError
from qilin_lib.tokens.own_template import choose
from qilin_lib.tokens.template import BAICHUAN, IGNORE, PLAIN, Template, as_trained, template_of
from tests.helpers.chat import speaking

DIALOGUE = [
    {"role": "user", "content": "咳嗽"},
    {"role": "assistant", "content": "多喝水"},
    {"role": "user", "content": "咳"},
    {"role": "assistant", "content": "水"},
]
TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["", "</s>", "好</s>吗", "<reserved_103>", "<s><pad>", "咳嗽"]))
CLEAN = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="<"), max_size=12)
TEMPLATES = st.sampled_from([BAICHUAN, PLAIN])


def conversations(texts: st.SearchStrategy[str]) -> st.SearchStrategy[list[dict[str, str]]]:
    turn = st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "assistant"]), texts)
    return st.lists(turn, min_size=1, max_size=5)


def encode(text: str, tokenizer: Any) -> list[int]:
    """Ids of a text in which no special token is recognised."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []


def test_tokens_of_a_two_turn_conversation_are_pinned(tiny_tokenizer: Any) -> None:
    """With a real BPE: tags are one token, contents are cut by the tokenizer, a written-out </s> is four bytes."""
    texts = ["咳嗽三天</s>", "建议多喝水休息。", "需要CT检查", "血压偏高需要复查"]
    roles = ["user", "assistant"] * 2
    dialogue = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    ids, labels = BAICHUAN.encode_with_labels(dialogue, tiny_tokenizer)
    forged = ["<0x3C>", "<0x2F>", "<0x73>", "<0x3E>"]
    asked = ["<reserved_102>", "咳嗽", "三天", *forged, "<reserved_103>"]
    answered = ["建议", "多喝水休息", "。", "</s>"]
    again = ["<reserved_102>", "需", "要", "C", "T", "检查", "<reserved_103>"]
    end = ["血压偏高", "需要复查", "</s>"]
    assert tiny_tokenizer.convert_ids_to_tokens(ids) == [*asked, *answered, *again, *end]
    assert labels == [IGNORE] * len(asked) + ids[8:12] + [IGNORE] * len(again) + ids[19:]


def test_hashes_are_pinned() -> None:
    """A changed hash makes every model trained so far unusable: it must not change by accident."""
    assert BAICHUAN.sha256.startswith("bda22839c720abb1")
    assert PLAIN.sha256.startswith("e3cf77d184737f45")


@pytest.mark.parametrize(
    "field, value",
    [(name, "x") for name in ("name", "user_open", "user_close", "assistant_open", "begin", "after", "system_open")]
    + [("trim", True)],
)
def test_hash_changes_with_every_field(field: str, value: Any) -> None:
    assert replace(PLAIN, **{field: value}).sha256 != PLAIN.sha256


def test_a_template_is_stored_whole_where_its_name_does_not_say_it() -> None:
    mine = replace(PLAIN, name="own", begin="<s>", assistant_close="<|end|>", after="\n", system_open="")
    stored = json.loads(json.dumps(mine.described))
    assert template_of(stored) == mine and as_trained(stored, "x", "04_sft") == mine
    assert PLAIN.described == {"template": "plain", "template_sha256": PLAIN.sha256}
    begun = replace(PLAIN, begin="<s>")
    assert template_of(begun.described) == begun and begun.sha256 != PLAIN.sha256
    with pytest.raises(QilinError, match="x was trained with template 'own'.*run notebooks/04_sft.ipynb again"):
        as_trained(stored | {"template_tags": stored["template_tags"] | {"begin": "<S>"}}, "x", "04_sft")
    with pytest.raises(QilinError, match="x was trained with template 'old'"):
        as_trained({"template": "old", "template_sha256": "0" * 64}, "x", "04_sft")


@settings(max_examples=80, deadline=None)
@given(messages=conversations(TEXTS), template=TEMPLATES, cut=st.one_of(st.none(), st.tuples(*[st.integers(0, 6)] * 2)))
def test_labels_cover_assistant_text_and_one_end_token(
    messages: list[dict[str, str]], template: Template, cut: tuple[int, int] | None, tiny_tokenizer: Any
) -> None:
    """Limits cut contents only: however short the cut, every turn of the assistant keeps its one end token."""
    source, target = cut or (None, None)
    expected: list[tuple[int, int]] = []
    for message in messages:
        content = encode(message["content"], tiny_tokenizer)
        if message["role"] == "assistant":
            opened, learned = encode_tag(template.assistant_open, tiny_tokenizer), content[:target]
            learned = [*learned, tiny_tokenizer.eos_token_id]
        else:
            opened = encode_tag(template.user_open, tiny_tokenizer) + content[:source]
            opened, learned = opened + encode_tag(template.user_close, tiny_tokenizer), []
        expected += [(token, IGNORE) for token in opened] + [(token, token) for token in learned]
    ids, labels = template.encode_with_labels(messages, tiny_tokenizer, source, target)
    assert list(zip(ids, labels, strict=True)) == expected
    # Whatever the texts say, an end token stands only where a turn of the assistant ends.
    turns = sum(message["role"] == "assistant" for message in messages)
    assert ids.count(tiny_tokenizer.eos_token_id) == labels.count(tiny_tokenizer.eos_token_id) == turns


def encode_tag(tag: str, tokenizer: Any) -> list[int]:
    return tokenizer.encode(tag, add_special_tokens=False) if tag else []


@settings(max_examples=60, deadline=None)
@given(before=conversations(TEXTS), answer=TEXTS, template=TEMPLATES)
def test_prompt_is_a_prefix_of_the_whole(
    before: list[dict[str, str]], answer: str, template: Template, tiny_tokenizer: Any
) -> None:
    prompt = template.encode(before, tiny_tokenizer, add_generation_prompt=True)
    whole = template.encode([*before, {"role": "assistant", "content": answer}], tiny_tokenizer)
    assert whole[: len(prompt)] == prompt
    assert whole[len(prompt) :] == [*encode(answer, tiny_tokenizer), tiny_tokenizer.eos_token_id]


def marked(chat_template: str) -> str:
    """With the markers by which TRL and transformers find the assistant's tokens; other readers fail at them."""
    learned = "{{- m['content'] -}}{{- '</s>' -}}"
    assert learned in chat_template
    return chat_template.replace(learned, f"{{%- generation -%}}{learned}{{%- endgeneration -%}}")


@settings(max_examples=80, deadline=None)
@given(messages=conversations(CLEAN), prompt=st.booleans())
def test_baichuan_equals_the_tokenizers_own_chat_template(
    messages: list[dict[str, str]], prompt: bool, tiny_tokenizer: Any
) -> None:
    """TRL, vLLM and chat programs read the jinja form: ids and generation mask must be the same as ours."""
    theirs = tiny_tokenizer.apply_chat_template(
        messages,
        chat_template=marked(BAICHUAN.jinja(tiny_tokenizer.eos_token)),
        add_generation_prompt=prompt,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, labels = BAICHUAN.encode_with_labels(messages, tiny_tokenizer, add_generation_prompt=prompt)
    assert theirs["input_ids"] == ids
    assert theirs["assistant_masks"] == [int(label != IGNORE) for label in labels]


SYSTEM = {"role": "system", "content": "你是一名药师。"}


@pytest.mark.parametrize("template", [BAICHUAN, PLAIN])
def test_without_a_system_turn_its_text_opens_the_first_question(template: Template, tiny_tokenizer: Any) -> None:
    ids, labels = template.encode_with_labels([SYSTEM, *DIALOGUE], tiny_tokenizer)
    text = tiny_tokenizer.decode(ids)
    assert text.startswith(f"{template.user_open}{SYSTEM['content']}\n{DIALOGUE[0]['content']}{template.user_close}")
    alone, learned = template.encode_with_labels(DIALOGUE, tiny_tokenizer)
    assert [i for i in labels if i != IGNORE] == [i for i in learned if i != IGNORE]
    opened = template.encode([SYSTEM], tiny_tokenizer)
    assert ids == opened + template.encode(DIALOGUE, tiny_tokenizer, follows="system")
    jinja = template.jinja(tiny_tokenizer.eos_token)
    assert tiny_tokenizer.apply_chat_template([SYSTEM, *DIALOGUE], chat_template=jinja, tokenize=False) == text


@pytest.mark.parametrize(
    "role, hint", [("tool", "only 'system', 'user' and 'assistant'"), ("asistant", "'assistant'?")]
)
def test_unknown_role_is_refused(role: str, hint: str, tiny_tokenizer: Any) -> None:
    with pytest.raises(QilinError, match=f"role '{role}'") as error:
        BAICHUAN.encode([{"role": role, "content": "x"}], tiny_tokenizer)
    assert hint in str(error.value)


def test_choose_refuses_what_cannot_be(tiny_tokenizer: Any) -> None:
    assert choose("auto", tiny_tokenizer) is BAICHUAN and choose("auto", speaking(None)) is PLAIN
    with pytest.raises(QilinError, match="lacks <reserved_102>.*nearest valid: 'plain'"):
        choose("baichuan", speaking(None))
    with pytest.raises(QilinError, match="template 'baichaun': unknown.*did you mean 'baichuan'"):
        choose("baichaun", tiny_tokenizer)
