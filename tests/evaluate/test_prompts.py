from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.prompts import REPLY_PREFIX, Prompt, as_text, ceval_messages, fit
from tests.helpers.chat import published, speaking

OPTIONS = {"A": "甲", "B": "乙", "C": "丙", "D": "丁"}
ITEM = Item("ceval", "physician-9", "val", "physician", "核心问题是____", OPTIONS, "B", "")
SHOTS = [Item("ceval", f"physician-{n}", "dev", "physician", f"例{n}", OPTIONS, "ABCD"[n % 4], "") for n in range(5)]


def build(question: str, shots: Any) -> list[dict]:
    return ceval_messages(question, ITEM, shots, "医师资格")


def backend(context: int, tokenizer: Any, template: Any) -> SimpleNamespace:
    return SimpleNamespace(context=context, tokenizer=tokenizer, template=template)


def test_ceval_messages():
    messages = build(ITEM.question, SHOTS[:2])
    header = "以下是中国关于医师资格考试的单项选择题，请选出其中的正确答案。\n\n"
    assert messages == [
        {"role": "user", "content": header + "例0\nA. 甲\nB. 乙\nC. 丙\nD. 丁"},
        {"role": "assistant", "content": "答案：A"},
        {"role": "user", "content": "例1\nA. 甲\nB. 乙\nC. 丙\nD. 丁"},
        {"role": "assistant", "content": "答案：B"},
        {"role": "user", "content": "核心问题是____\nA. 甲\nB. 乙\nC. 丙\nD. 丁"},
    ]
    assert build("问", ())[0]["content"].startswith(header + "问")


def test_the_prompt_ends_with_the_assistants_turn_and_the_forced_words(tokenizer: Any, template: Any):
    prompt = fit(build, ITEM, SHOTS, REPLY_PREFIX, backend(4096, tokenizer, template), new_tokens=0)
    prefix = tokenizer.encode(REPLY_PREFIX)
    assert prompt.ids[-len(prefix) :] == prefix and prompt.ids[-len(prefix) - 1] == 3
    assert (prompt.shots, prompt.truncated) == (5, False)
    bare = fit(build, ITEM, SHOTS, "", backend(4096, tokenizer, template), new_tokens=0)
    assert bare.ids == prompt.ids[: -len(prefix)]


@pytest.mark.parametrize("name", ["baichuan", "plain"])
def test_with_the_kits_template_and_tokenizer_the_letter_follows_as_in_training(name: str):
    from qilin_lib.evaluate.backends import single_token
    from qilin_lib.tokens.template import TEMPLATES
    from qilin_lib.tokens.tokenizer import train_tokenizer

    texts = ["答案：C。\n解释：核心问题是甲乙丙丁。", "问：以下是中国关于医师资格考试的单项选择题"]
    kit = train_tokenizer(texts, 600, 512)
    prompt = fit(build, ITEM, SHOTS, REPLY_PREFIX, backend(4096, kit, TEMPLATES[name]), new_tokens=0)
    taught = [*build(ITEM.question, SHOTS), {"role": "assistant", "content": "答案：C。\n解释：略"}]
    expected = [*prompt.ids, single_token(kit, REPLY_PREFIX, "C")]
    assert TEMPLATES[name].encode(taught, kit)[: len(expected)] == expected


@pytest.mark.parametrize("name", ["qwen2_5", "llama3"])
def test_a_conversation_begins_once(name: str):
    """What a template writes before the first turn stands before the shots, not before the question again."""
    from qilin_lib.tokens.own_template import choose

    kit = speaking(published(name))
    template = choose("auto", kit)
    prompt = fit(build, ITEM, SHOTS, "", backend(4096, kit, template), new_tokens=0)
    whole = kit.apply_chat_template(build(ITEM.question, SHOTS), add_generation_prompt=True, return_dict=False)
    assert template.begin and prompt.ids == whole
    assert fit(build, ITEM, (), "", backend(4096, kit, template), new_tokens=0).text.startswith(template.begin)


def test_shots_go_first_and_from_the_front(tokenizer: Any, template: Any):
    full = fit(build, ITEM, SHOTS, "", backend(4096, tokenizer, template), new_tokens=8)
    less = fit(build, ITEM, SHOTS, "", backend(len(full.ids) + 7, tokenizer, template), new_tokens=8)
    assert full.shots == 5 and less.shots == 4 and not less.truncated
    assert less.ids == template.encode(build(ITEM.question, SHOTS[1:]), tokenizer, add_generation_prompt=True)


@pytest.mark.parametrize("room", [60, 70, 100])
def test_then_the_questions_beginning(room: int, tokenizer: Any, template: Any):
    item = Item("ceval", "x", "val", "physician", "病史很长" * 50 + "应诊断为", OPTIONS, "A", "")
    prompt = fit(build, item, SHOTS, REPLY_PREFIX, backend(room + 5, tokenizer, template), new_tokens=5)
    assert len(prompt.ids) == room and prompt.shots == 0 and prompt.truncated
    tail = tokenizer.encode("断为\nA. 甲\nB. 乙\nC. 丙\nD. 丁") + [3] + tokenizer.encode(REPLY_PREFIX)
    assert prompt.ids[-len(tail) :] == tail
    whole = template.encode(prompt.messages, tokenizer, add_generation_prompt=True)
    assert whole == prompt.ids[: -len(REPLY_PREFIX)], "what is cut is missing in the messages too"


def test_a_prompt_that_cannot_fit_is_refused(tokenizer: Any, template: Any):
    with pytest.raises(QilinError, match="physician-9 needs .* tokens without its question"):
        fit(build, ITEM, SHOTS, REPLY_PREFIX, backend(40, tokenizer, template), new_tokens=5)


def test_where_a_server_tokenises_nothing_is_cut_and_it_says_what_it_sends():
    server = SimpleNamespace(
        tokenizer=None, template=None, context=None, render=lambda messages, prefix: f"{len(messages)} {prefix}"
    )
    prompt = fit(build, ITEM, SHOTS, REPLY_PREFIX, server, new_tokens=10**6)
    assert prompt == Prompt(build(ITEM.question, SHOTS), REPLY_PREFIX, [], f"11 {REPLY_PREFIX}", 5, False)
    assert as_text(prompt.messages[-1:], REPLY_PREFIX).endswith("D. 丁\n\nassistant: 答案：")


@pytest.mark.parametrize("name", ["baichuan", "plain"])
def test_shared_is_header_and_shots_and_the_same_for_a_whole_subject(name: str):
    from qilin_lib.tokens.template import TEMPLATES
    from qilin_lib.tokens.tokenizer import train_tokenizer

    kit = train_tokenizer(["问：以下是中国关于医师资格考试的单项选择题\n答：", "例核心问题是甲乙丙丁。"], 600, 512)
    asked = backend(4096, kit, TEMPLATES[name])
    questions = ["核心问题是____", "A. 甲", "一名患者\n咳嗽", "核"]
    items = [Item("ceval", q, "val", "physician", q, OPTIONS, "B", "") for q in questions]
    prompts = [fit(build, item, SHOTS, REPLY_PREFIX, asked, new_tokens=0) for item in items]
    starts = {tuple(prompt.ids[: prompt.shared]) for prompt in prompts}
    assert len(starts) == 1
    text = kit.decode(starts.pop(), skip_special_tokens=False)
    assert text.endswith(TEMPLATES[name].user_open) and "例4\nA. 甲" in text
    bare = fit(build, items[0], (), REPLY_PREFIX, asked, new_tokens=0)
    assert 0 < bare.shared < len(bare.ids) and prompts[0].shared > bare.shared


def test_a_template_that_renders_a_turn_by_its_neighbours_is_not_split(tokenizer: Any):
    class Whole:
        name = "chat"

        def encode(self, messages: list[dict], tokenizer: Any, add_generation_prompt: bool = False) -> list[int]:
            return [len(messages), *tokenizer.encode(messages[-1]["content"])]

    prompt = fit(build, ITEM, SHOTS, "", backend(4096, tokenizer, Whole()), new_tokens=0)
    assert prompt.ids == [11, *tokenizer.encode(build(ITEM.question, SHOTS)[-1]["content"])]
