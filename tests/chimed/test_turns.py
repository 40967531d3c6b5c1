"""The forms in which chats, instructions, histories and preference pairs go round, as rows of a file in its folder."""

from __future__ import annotations

import json

import pytest
from raw_files import jsonl, payloads, put

from qilin_lib.chimed.compose import compose
from qilin_lib.chimed.records import strings

ASKED, ANSWERED, AGAIN, LAST = "头痛吃什么药？", "可以吃布洛芬。", "那要吃多久？", "一般不超过三天。"
FOUR = [("user", ASKED), ("assistant", ANSWERED), ("user", AGAIN), ("assistant", LAST)]
SYSTEM = "你是一名药师。"


def read(tmp_path, name, rows, **how):
    """The payloads of JSON lines in the folder of source `name`, or why there are none."""
    put(tmp_path / name, {f"a.{'json' if name in ('zhongjing_rlhf', 'medicalgpt_reward') else 'jsonl'}": jsonl(rows)})
    return payloads(tmp_path, name, **how)


def messages(tmp_path, row, name="general_zh", kind="sft"):
    """(role, content) of each message that is written for the only row, or the reason why there is none."""
    (one,) = read(tmp_path, name, [row])
    if isinstance(one, str):
        return one
    body = compose(kind, one)
    written = [(message["role"], message["content"]) for part in body.values() for message in part]
    assert sorted(strings(one)) == sorted(text for _, text in written), "judged is what is written"
    return written


def chat(speaker, text, user, assistant, turns=FOUR):
    return [{speaker: {"user": user, "assistant": assistant}[who], text: said} for who, said in turns]


@pytest.mark.parametrize("name", ["cmd", "medicalgpt_sft", "general_zh", "instruct_chat"])
@pytest.mark.parametrize("key", ["conversations", "conversation", "messages"])
@pytest.mark.parametrize(
    "speaker, text, user, assistant",
    [
        ("from", "value", "human", "gpt"),
        ("role", "content", "user", "assistant"),
        ("role", "content", "User", "Assistant"),
        ("from", "value", "Human", "Assistant"),
        ("role", "content", "用户", "助手"),
        ("role", "value", "患者", "医生"),
        ("from", "content", "input", "output"),
    ],
)
def test_a_list_of_messages_in_every_spelling(tmp_path, name, key, speaker, text, user, assistant):
    assert messages(tmp_path, {key: chat(speaker, text, user, assistant)}, name) == FOUR


def marked(user, assistant):
    """The four turns, each behind the name of its speaker."""
    marks = {"user": user, "assistant": assistant}
    return chat("role", "content", "user", "assistant", [(who, marks[who] + text) for who, text in FOUR])


@pytest.mark.parametrize(
    "row",
    [
        {"conversation": [{"human": ASKED, "assistant": ANSWERED}, {"human": AGAIN, "assistant": LAST}]},
        {"data": [f"问：{ASKED}", f"答：{ANSWERED}", f"问：{AGAIN}", f"答：{LAST}"]},
        {"instruction": AGAIN, "input": "", "output": LAST, "history": [[ASKED, ANSWERED]]},
        {
            "prompt": AGAIN,
            "response": LAST,
            "history": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}],
        },
        {"query": AGAIN, "response": LAST, "history": [[ASKED, ANSWERED]]},
        {"query": AGAIN, "response": LAST, "history": [{"instruction": ASKED, "output": ANSWERED}]},
        {"query": AGAIN, "response": LAST, "history": json.dumps([[ASKED, ANSWERED]])},
        {"conversations": json.dumps(chat("from", "value", "human", "gpt"))},
        {"instruction": f" <user>: {ASKED} <bot>: {ANSWERED} <user>: {AGAIN}", "input": "", "output": LAST},
        {"instruction": f"用户：{ASKED}\n助手：{ANSWERED}\n用户：{AGAIN}", "input": "", "output": LAST},
        {
            "prompt": "".join(f"<|im_start|>{who}\n{said}<|im_end|>\n" for who, said in FOUR[:3]),
            "response": f"<|im_start|>assistant\n{LAST}<|im_end|>",
        },
        {"instruction": f"患者：{ASKED}医生：{ANSWERED}患者：{AGAIN}", "input": "", "output": LAST},
        {"prompt": f"\n\nHuman: {ASKED}\n\nAssistant: {ANSWERED}\n\nHuman: {AGAIN}\n\nAssistant:", "response": LAST},
        {"prompt": f"<|user|>\n{ASKED}<|assistant|>{ANSWERED}<|user|>{AGAIN}<|assistant|>", "output": LAST},
        # Firefly, and tables of people.
        {"kind": "QA", "input": AGAIN, "target": LAST, "history": [[ASKED, ANSWERED]]},
        {"问题": AGAIN, "答案": LAST, "history": [[ASKED, ANSWERED]]},
        {"问题": AGAIN, "回答": LAST, "history": [[ASKED, ANSWERED]]},
        # As `datasets` writes a sequence of messages.
        {"messages": {"role": [who for who, _ in FOUR], "content": [text for _, text in FOUR]}},
        {"conversations": {"from": [who for who, _ in FOUR], "value": [text for _, text in FOUR]}},
        {"text": f"患者：{ASKED}\n医生：{ANSWERED}\n患者：{AGAIN}\n医生：{LAST}"},
        {"id": 1, "text": f"<human>: {ASKED}\n<bot>: {ANSWERED}\n<human>: {AGAIN}\n<bot>: {LAST}"},
        {"text": f"### Human: {ASKED}### Assistant: {ANSWERED}\n### Human: {AGAIN}\n### Assistant: {LAST}"},
        {"query": f"<s>问：\n{ASKED}\n答：\n{ANSWERED}\n问：\n{AGAIN}\n答：\n", "response": LAST},
        {
            "prompt": chat("role", "content", "user", "assistant", FOUR[:3]),
            "completion": chat("role", "content", "", "assistant", FOUR[3:]),
        },
        # As a table holds them.
        {
            "prompt": json.dumps(chat("role", "content", "user", "assistant", FOUR[:3])),
            "completion": json.dumps(chat("role", "content", "", "assistant", FOUR[3:])),
        },
        # The name of its own speaker goes from the head of a turn.
        {"messages": marked("患者：", "医生：")},
        {"messages": marked("病人:", "医生:")},
        {"messages": marked("问：", "答：")},
        {"messages": marked("Human: ", "Assistant: ")},
        *(
            {
                "instruction": f"{word}\n{ASKED}\n\n### Response:\n{ANSWERED}\n\n{word}\n{AGAIN}\n\n### Response:\n",
                "output": f"### Response:\n{LAST}",
            }
            for word in ("### Instruction:", "### Input:", "###Human:", "#### User:")
        ),
    ],
)
def test_what_was_said_before_the_question_stays_before_it(tmp_path, row):
    assert messages(tmp_path, row) == FOUR


@pytest.mark.parametrize(
    "row",
    [
        {"system": SYSTEM, "conversations": chat("from", "value", "human", "gpt")},
        {"conversations": [{"from": "system", "value": SYSTEM}, *chat("from", "value", "human", "gpt")]},
        {"system": SYSTEM, "instruction": AGAIN, "output": LAST, "history": [[ASKED, ANSWERED]]},
        {"system": [{"type": "text", "text": SYSTEM}], "messages": chat("role", "content", "user", "assistant")},
        {"system": [SYSTEM], "instruction": AGAIN, "output": LAST, "history": [[ASKED, ANSWERED]]},
        {"messages": [{"role": "developer", "content": SYSTEM}, *chat("role", "content", "user", "assistant")]},
    ],
)
def test_a_system_text_is_a_turn_of_its_own(tmp_path, row):
    assert messages(tmp_path, row) == [("system", SYSTEM), *FOUR]
    (one,) = read(tmp_path, "general_zh", [row])
    assert SYSTEM in compose("cpt", one)["text"] and SYSTEM in compose("general", one)["text"]


TEXT_PARTS = [{"type": "text", "text": "那要"}, {"type": "text", "text": "吃多久？"}]


def turns(*changed):
    """The four turns with some of them replaced, as messages of role and content."""
    listed = chat("role", "content", "user", "assistant")
    for place, change in changed:
        listed[place] = listed[place] | change
    return listed


IMAGE = {"type": "image_url", "image_url": {}}
NO_TURNS = {
    "empty turn": [
        {"messages": turns((2, {"content": ""}))},
        {"messages": turns((1, {"content": None}))},
        {"instruction": AGAIN, "output": LAST, "history": [[ASKED, ""]]},
    ],
    "turn without loss": [{"messages": turns((1, {"loss": False}))}, {"messages": turns((3, {"weight": 0}))}],
    "tools": [
        {"messages": turns(), "tools": [{"name": "get_weather"}]},
        {"messages": turns(), "tools": '[{"name": "get_weather"}]'},
        {"messages": turns((1, {"content": None, "tool_calls": [{"id": "1"}]}))},
    ],
    "content that is not text": [
        {"messages": turns((2, {"content": [*TEXT_PARTS, IMAGE]}))},
        {"messages": turns(), "images": ["x.png"]},
        {"messages": turns(), "system": {"type": "image"}},
        {"instruction": ASKED, "output": ANSWERED, "context": ["一", "二"]},
        # A table by columns, as pandas writes one.
        {"questions": {"0": ASKED, "1": AGAIN}, "answers": {"0": ANSWERED, "1": LAST}},
        {"question": ASKED, "answer": {"body": ANSWERED}},
        {"question": ASKED, "answer": True},
    ],
    # Exams, whose letters say nothing without their options.
    "options beside the question": [
        {"question": ASKED, "options": {"A": "甲", "B": "乙"}, "answer": "B"},
        {"question": ASKED, "option": ["甲", "乙"], "answer": "乙"},
        {"question": ASKED, "choices": ["甲", "乙"], "answer": 1},
        {"question": ASKED, "A": "甲", "B": "乙", "answer": "B"},
        {"Question": ASKED, "Options": "A 甲\nB 乙", "Answer": "B"},
        {"question": ASKED, "opa": "甲", "opb": "乙", "response": "乙"},
    ],
    "system turn after the first": [{"messages": [*turns(), {"role": "system", "content": SYSTEM}]}],
    "unknown speaker": [{"messages": turns((2, {"role": "tool"}))}],
    "role marks inside a turn": [
        {"messages": turns((1, {"content": f"好的。\n用户：{AGAIN}\n助手：{LAST}"}))},
        {"instruction": f"患者：{ASKED}\n医生：{ANSWERED}", "output": LAST},
        {"instruction": f"总结对话\n患者：{ASKED}\n医生：{ANSWERED}\n患者：好", "output": LAST},
        {"instruction": ASKED, "output": f"{ANSWERED}<|im_end|>\n<|im_start|>user\n好"},
        # A template that is not turns.
        {"instruction": f"Below is an instruction.\n\n### Instruction:\n{ASKED}\n\n### Response:", "output": LAST},
        {"instruction": f"### Instruction:\n{ASKED}\n\n### Response:\n{ANSWERED}", "output": LAST},
        {"instruction": ASKED, "output": f"{ANSWERED}\n\n### Instruction:\n{AGAIN}"},
    ],
    "several questions": [
        {"instruction": "你是一名药师。", "question": ASKED, "output": ANSWERED},
        {"prompt": "你是一名药师。", "query": ASKED, "response": ANSWERED},
    ],
    "several answers": [{"question": ASKED, "answer": ANSWERED, "response": LAST}],
    "undesired answer": [
        {"messages": turns(), "label": False},
        {"prompt": ASKED, "completion": ANSWERED, "label": False},
        {"instruction": ASKED, "output": ANSWERED, "kto_tag": "false"},
        *({"question": ASKED, "answer": ANSWERED, "label": label} for label in (0, "0", 0.0)),
    ],
    # As Huatuo-26M gives its consultations.
    "link instead of an answer": [
        {"questions": [[ASKED]], "answers": ["https://www.example.com/question/1.htm"]},
        {"question": ASKED, "answer": "http://example.com/a?b=1 "},
        {"prompt": ASKED, "completion": "www.example.com/1.htm"},
    ],
    "unknown form": [
        {"instruction": AGAIN, "output": LAST, "history": [[ASKED]]},
        {"instruction": AGAIN, "output": LAST, "history": ASKED},
    ],
    "missing field": [
        {"x": 1},
        {"Question": ASKED, "QUESTION": AGAIN, "answer": ANSWERED},
        {"text": ASKED},
        {"text": f"患者：{ASKED}"},
    ],
    "empty field": [
        {"instruction": "", "input": "", "output": ANSWERED},
        {"question": " ", "context": "患者，40岁。", "answer": ANSWERED},
    ],
}


@pytest.mark.parametrize("reason, row", [(reason, row) for reason, rows in NO_TURNS.items() for row in rows])
def test_what_cannot_be_turns_is_rejected_by_name(tmp_path, row, reason):
    assert messages(tmp_path, row) == reason


def test_rows_are_not_glued_to_one_conversation(tmp_path):
    rows = [{"instruction": ASKED, "input": "", "output": ANSWERED}, {"input": AGAIN, "output": LAST}]
    assert read(tmp_path, "general_zh", [{"conversations": rows[:1]}, {"messages": rows[1:]}]) == ["unknown form"] * 2


@pytest.mark.parametrize("name", ["medicalgpt_sft", "general_zh"])
@pytest.mark.parametrize(
    "turn",
    [
        "医生：您好，我头痛三天了，该吃什么药？",
        "请问：头痛吃什么药？",
        "怎么写 Flux<User> 和 /home/<user>/bot 的路径？",
        "1. 医生：开药的人\n2. 患者：吃药的人",
        "医生您好，我问：这药能吃吗",
    ],
)
def test_a_word_with_a_colon_is_no_role_mark_by_itself(tmp_path, name, turn):
    said = [("user", turn), ("assistant", ANSWERED)]
    assert messages(tmp_path, {"messages": chat("role", "content", "user", "assistant", said)}, name) == said


@pytest.mark.parametrize("answers", [[ANSWERED, LAST], [[ANSWERED, LAST]], [[ANSWERED], [LAST]]])
@pytest.mark.parametrize("name", ["general_zh", "medicalgpt_sft", "huatuo_encyclopedia_qa"])
def test_of_two_answers_the_first_alone_is_never_taken(tmp_path, name, answers):
    asked, answer = ("questions", "answers") if name.startswith("huatuo") else ("instruction", "output")
    assert messages(tmp_path, {asked: ASKED, answer: answers}, name) == "several answers"
    assert messages(tmp_path, {asked: ASKED, answer: [ANSWERED]}, name) == FOUR[:2]


NOTHING = "无,无输入,<无输入>,&lt;无输入&gt;,没有输入。,nan,NaN,None,null,N/A,n/a,暂无,<noinput>,<no input>".split(",")
NOTHING += ["No input", "（无）", "无。", "无需输入", "不需要输入", "[无]", "<empty>", "-", "/", " ", None]


@pytest.mark.parametrize(
    "row, asked",
    [
        *(({"instruction": ASKED, "input": word}, ASKED) for word in NOTHING),
        # Behind a question, where an empty field was joined to it.
        ({"instruction": "孩子吃什么好，无"}, "孩子吃什么好"),
        ({"instruction": f"{ASKED}\n<无输入>"}, ASKED),
        ({"instruction": f"{ASKED}\n&lt;无输入&gt;"}, ASKED),
        ({"instruction": "既往史：高血压，过敏史，无"}, "既往史：高血压，过敏史，无"),
        # What a question is about stands below it.
        ({"instruction": ASKED, "input": "患者，40岁。"}, f"{ASKED}\n患者，40岁。"),
        ({"instruction": ASKED, "context": "患者，40岁。", "label": True}, f"{ASKED}\n患者，40岁。"),
        (
            {"instruction": ASKED, "input": "患者，40岁。", "context": "有胃溃疡。"},
            f"{ASKED}\n患者，40岁。\n有胃溃疡。",
        ),
        ({"instruction": ASKED, "input": "患者，40岁。", "context": "患者，40岁。"}, f"{ASKED}\n患者，40岁。"),
        # Where a row has no other question, what is below it is the question.
        ({"instruction": "", "input": ASKED}, ASKED),
        ({"input": ASKED}, ASKED),
        ({"instruction": ASKED, "input": ASKED}, ASKED),
        ({"instruction": "", "question": ASKED}, ASKED),
        # Parts that are all text are joined.
        ({"messages": [{"role": "user", "content": TEXT_PARTS}]}, "那要\n吃多久？"),
    ],
)
def test_what_a_question_says(tmp_path, row, asked):
    answer = {"role": "assistant", "content": ANSWERED}
    row = {"messages": [*row["messages"], answer]} if "messages" in row else row | {"output": ANSWERED}
    assert messages(tmp_path, row) == [("user", asked), ("assistant", ANSWERED)]


@pytest.mark.parametrize("word", ["无", "没有", "暂无"])
def test_a_patient_may_answer_with_such_a_word(tmp_path, word):
    said = [("user", ASKED), ("assistant", "有过敏史吗？"), ("user", word), ("assistant", ANSWERED)]
    assert messages(tmp_path, {"messages": chat("role", "content", "user", "assistant", said)}) == said


# --- preference pairs -------------------------------------------------------------------------------------------------

WORSE = "不知道。"
PAIR = [*FOUR[:3], ("assistant", LAST), ("assistant", WORSE)]


def said(role, text):
    return [{"role": role, "content": text}]


PROMPT = chat("role", "content", "user", "assistant", FOUR[:3])


@pytest.mark.parametrize("name", ["dpo_zh", "medicalgpt_reward", "zhongjing_rlhf"])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": PROMPT, "chosen": said("assistant", LAST), "rejected": said("assistant", WORSE)},
        {"chosen": PROMPT + said("assistant", LAST), "rejected": PROMPT + said("assistant", WORSE)},
        {"prompt": AGAIN, "chosen": PROMPT + said("assistant", LAST), "rejected": PROMPT + said("assistant", WORSE)},
        {"prompt": PROMPT, "chosen": LAST, "rejected": WORSE},
        {"input": AGAIN, "history": [[ASKED, ANSWERED]], "chosen": LAST, "rejected": WORSE},
        {"prompt": said("user", AGAIN)[0], "history": [[ASKED, ANSWERED]], "chosen": LAST, "rejected": WORSE},
        {"prompt": PROMPT, "chosen": [LAST], "rejected": [WORSE]},
        {
            "prompt": json.dumps(PROMPT),
            "chosen": json.dumps(said("assistant", LAST)),
            "rejected": json.dumps(said("assistant", WORSE)),
        },
        {"messages": PROMPT + said("assistant", LAST), "rejected_response": WORSE},
        # As UltraFeedback is cut into pairs.
        {
            "prompt": AGAIN,
            "messages": PROMPT + said("assistant", LAST),
            "chosen": PROMPT + said("assistant", LAST),
            "rejected": PROMPT + said("assistant", WORSE),
        },
        {
            "chosen": f"\n\nHuman: {ASKED}\n\nAssistant: {ANSWERED}\n\nHuman: {AGAIN}\n\nAssistant: {LAST}",
            "rejected": f"\n\nHuman: {ASKED}\n\nAssistant: {ANSWERED}\n\nHuman: {AGAIN}\n\nAssistant: {WORSE}",
        },
        {
            "question": AGAIN,
            "history": [[ASKED, ANSWERED]],
            "response_chosen": LAST,
            "response_rejected": WORSE,
            "system": "",
        },
        {"instruction": AGAIN, "input": "", "history": [[ASKED, ANSWERED]], "chosen": LAST, "rejected": WORSE},
        {"instruction": AGAIN, "input": "", "history": [[ASKED, ANSWERED]], "output": [LAST, WORSE]},
        {
            "conversations": chat("from", "value", "human", "gpt", FOUR[:3]),
            "chosen": {"from": "gpt", "value": LAST},
            "rejected": {"from": "gpt", "value": WORSE},
        },
    ],
)
def test_pairs_in_every_form(tmp_path, name, row):
    assert messages(tmp_path, row, name, "dpo") == PAIR
    for system in (SYSTEM, [SYSTEM]):
        assert messages(tmp_path, row | {"system": system}, name, "dpo") == [("system", SYSTEM), *PAIR]


NO_PAIR = {
    "missing field": [{"chosen": LAST, "rejected": WORSE}, {"prompt": ASKED, "chosen": LAST}],
    "several questions": [{"instruction": "你是一名药师。", "query": ASKED, "chosen": LAST, "rejected": WORSE}],
    "several answers": [{"prompt": ASKED, "chosen": LAST, "response_chosen": ANSWERED, "rejected": WORSE}],
    "empty field": [{"prompt": ASKED, "chosen": LAST, "rejected": ""}],
    "chosen equals rejected": [{"prompt": ASKED, "chosen": LAST, "rejected": f" {LAST}"}],
    "tools": [{"prompt": ASKED, "chosen": LAST, "rejected": WORSE, "tools": [{"name": "f"}]}],
    "unknown form": [
        {"prompt": turns(), "chosen": LAST, "rejected": WORSE},
        {"prompt": PROMPT, "chosen": said("user", LAST), "rejected": WORSE},
    ],
    "answers without a ranking": [{"query": ASKED, "history": [], "response_0": LAST, "response_1": WORSE}],
    "fewer than two answers": [{"instruction": ASKED, "output": [LAST]}],
    "role marks inside a turn": [
        {"prompt": ASKED, "chosen": f"好。\nHuman: {AGAIN}\nAssistant: {LAST}", "rejected": WORSE},
    ],
}


@pytest.mark.parametrize("reason, row", [(reason, row) for reason, rows in NO_PAIR.items() for row in rows])
def test_what_is_no_pair_is_rejected_by_name(tmp_path, row, reason):
    assert messages(tmp_path, row, "dpo_zh", "dpo") == reason


def test_a_ranked_list_is_its_best_two_or_every_pair(tmp_path):
    rows = [{"instruction": ASKED, "output": ["甲答", "乙答", "乙答", "丁答"]}]

    def sides(reads):
        return [one if isinstance(one, str) else (one.chosen, one.rejected) for one in reads]

    assert sides(read(tmp_path, "zhongjing_rlhf", rows)) == [("甲答", "乙答")]
    assert sides(read(tmp_path, "zhongjing_rlhf", rows, ranked_answers="all_pairs")) == [
        ("甲答", "乙答"),
        ("甲答", "乙答"),
        ("甲答", "丁答"),
        "chosen equals rejected",
        ("乙答", "丁答"),
        ("乙答", "丁答"),
    ]
