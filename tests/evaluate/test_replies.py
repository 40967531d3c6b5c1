"""Replies as chat, reasoning and base models write them, through the calls that a benchmark makes.

Every split has been opened and tuned on, so no share is an estimate. "natural" holds 600 replies by three hands that
knew no rule, asked to write as models answer, neither easier nor harder: before any of them was read 98.3 % were
read right [97.0, 99.1] and 0.5 % as a wrong letter [0.2, 1.5]. "fresh" holds 300 replies in the styles of today's
chat and reasoning models by a hand that knew no rule: at first 87.0 % were read right and 2.3 % as a wrong letter. When
the question came to be read too, half of each of three splits was not looked at: there "fresh" went from 88.7 to 92.7 %
right and from 0.7 to 0.0 % wrong, "chat" from 71.3 to 74.7 and 6.7 to 8.0, "odd" from 70.0 to 76.0 and 2.7 to 3.3.
"chat" and "odd" were written, to be hard, by hands that had not read the rules: at first 64.0 % of each were read
right, 5.3 and 4.7 % as a wrong letter.
The second half of "chat", which nobody looked at while the rules changed, went from 52.0 to 55.3 % right and from 6.7
to 9.3 % wrong. "hard" was written by the author of the rules to break them: 76.0 to 88.9 % right at first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib.evaluate.benchmarks import ceval, cmexam, dialogue, exams, huatuo, ner
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.prompts import Prompt
from qilin_lib.evaluate.replies import ERROR, LENGTH, STOP, Reply, replied
from qilin_lib.evaluate.scores import summarise
from qilin_lib.tokens.template import PLAIN

ROWS = [json.loads(line) for line in Path(__file__).with_name("replies.jsonl").read_text(encoding="utf-8").splitlines()]
OF = ("x", "fixed", "test", None, [], [], {"max_new_tokens": 64})
TASKS = {ceval: ceval.CEval(*OF, {}, {}), cmexam: cmexam.CMExam(*OF, "char"), exams: exams.Exams(*OF, {})}
TASKS |= {huatuo: huatuo.Huatuo(*OF, "char"), dialogue: dialogue.Dialogues(*OF, "char")}
LIMITS = {
    "natural": (0.985, 0.005),
    "fresh": (0.97, 0.005),
    "hard": (0.95, 0.01),
    "chat": (0.77, 0.05),
    "odd": (0.8, 0.02),
}
"""The least share read right and the greatest read as a wrong letter."""
OPTIONS = {"A": "支气管哮喘", "B": "肺炎", "C": "肺结核", "D": "肺癌"}


def answers(
    benchmark: Any, replies: Sequence[Reply], options: Sequence[dict[str, str]], questions: Sequence[str] = ()
) -> list[dict]:
    """The records' own part, as `benchmark` makes it of what a model without log-probabilities wrote."""
    backend = SimpleNamespace(likelihood=False, tokenizer=None, generate=lambda asked, new: list(replies))
    of = zip(options, questions or [""] * len(options), strict=True)
    items = [Item("x", str(n), "test", None, question, own, "A", "r") for n, (own, question) in enumerate(of)]
    return TASKS[benchmark].answer(items, [Prompt([], "", [], "", 0, False)] * len(items), backend)


def read(text: str, finish: str = STOP, forced: bool = False, options: dict[str, str] = OPTIONS) -> str | None:
    return answers(ceval, [Reply(text, finish, forced)], [options])[0]["prediction"]


def predictions(rows: Sequence[dict]) -> list[str | None]:
    """What C-Eval reads of the questions with one answer, CMExam of those with several."""
    found: dict[int, str | None] = {}
    for benchmark, several in ((ceval, False), (cmexam, True)):
        mine = [n for n, row in enumerate(rows) if row["multiple"] == several]
        replies = [Reply(rows[n]["reply"], rows[n]["finish"], rows[n]["forced"]) for n in mine]
        questions = [rows[n].get("question", "") for n in mine]
        made = answers(benchmark, replies, [rows[n]["options"] for n in mine], questions)
        found |= {n: row["prediction"] for n, row in zip(mine, made, strict=True)}
    return [found[n] for n in range(len(rows))]


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("本题考查的是芀（A对）。", "A"),
        ("本题考查肺炎（B对），肺癌（D错）。", "B"),
        ("1000元）\nA ———————————————————", None),
    ],
)
def test_a_small_model_s_explanation_names_its_answer_and_a_row_of_dashes_does_not(text: str, letters: str) -> None:
    """Half of what the smoke model writes on CMExam reads like an explanation of the training set."""
    assert answers(cmexam, [Reply(text, STOP, True)], [OPTIONS])[0]["prediction"] == letters


@pytest.mark.parametrize("split", sorted({row["split"] for row in ROWS}))
def test_replies_are_read_right_by_the_call_that_a_benchmark_makes(split: str) -> None:
    rows = [row for row in ROWS if row["split"] == split]
    pairs = list(zip(predictions(rows), rows, strict=True))
    wrong = [(letters, row["letters"], row["reply"]) for letters, row in pairs if letters not in (None, row["letters"])]
    right = sum(letters == row["letters"] for letters, row in pairs)
    least, most = LIMITS.get(split, (0.97, 0.01))
    assert right >= least * len(rows) and len(wrong) <= most * len(rows), (right, wrong)


@pytest.mark.parametrize(
    ("question", "text", "letter"),
    [
        ("最可能的诊断是", "患者咳铁锈色痰，X线见大片实变。最可能为肺炎球菌所致的肺炎，而肺癌多有消瘦。", "B"),
        ("咳铁锈色痰常见于", "肺炎患者常见铁锈色痰。支气管哮喘为白色泡沫痰。肺结核多有咯血。", "B"),
        ("咳铁锈色痰常见于", "肺炎患者常见铁锈色痰。支气管哮喘为白色泡沫痰。肺结核多有咯血，另外，", None),
        ("下列疾病不属于感染性疾病的是", "肺炎、肺结核由病原体引起。肺癌并非由病原体引起。", "D"),
        ("下列疾病属于感染性疾病的是", "肺癌并非由病原体引起。", None),
        ("咳铁锈色痰常见于", "- 肺炎 —— 对。\n- 肺癌 —— 不对。多为血丝。\n- 肺结核 —— 不对。多为咯血。", "B"),
        (
            "The cause is",
            "Fever, chills, rusty sputum and lobar consolidation: this is pneumonia, called 肺炎 in Chinese.",
            "B",
        ),
        ("应作的诊断", "支气管哮喘无发热。肺结核有盗汗。肺癌有消瘦，病程长。正确的选择是大叶性的肺炎。", "B"),
        ("应作的诊断", "应首先考虑感染(B)。支气管哮喘(A)无发热。肺结核(C)有盗汗。肺癌(D)有消瘦，病程长。", "B"),
        ("应作的诊断", "肺炎是这里最贴切的一项。支气管哮喘无发热。肺结核有盗汗。肺癌有消瘦，起病缓，病程长。", "B"),
        (
            "关于感染，错误的是",
            "肺炎、肺结核和支气管哮喘均可预防；而得了肺癌则另作处理，需由外科、放疗科与肿瘤科会诊决定。",
            "D",
        ),
        ("关于肺的说法错误的是", "√ 肺炎——有发热\n√ 肺癌——有消瘦\n× 肺结核——无咯血\n如上所述。", "C"),
        ("咳铁锈色痰常见于", "肺炎和肺结核都可以，铁锈色痰常见于肺炎。", None),
    ],
)
def test_a_reply_that_calls_nothing_its_answer_is_read_by_its_question(question: str, text: str, letter: str) -> None:
    assert answers(ceval, [Reply(text)], [OPTIONS], [question])[0]["prediction"] == letter


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("支气管哮喘是气道炎症，因此“支气管哮喘”肯定不成立。除了它，其余都正确。", "BCD"),
        ("肺炎常为首选。四项无一例外，均应入选。", "ABCD"),
        ("前三种都对，故选前三种。", "ABC"),
        ("So: first two options.", "AB"),
        ("符合的是首尾两项。", "AD"),
        ("肺结核为特异性感染。故选之。", "C"),
        ("应选选项丙。", "C"),
        ("应选前两项，再加上肺癌。", "ABD"),
        ("哮喘无关，故除哮喘外都选。", "BCD"),
        ("所以是肺炎。具体请咨询医生。", "B"),
        ("既然前三项都正确，那么A、B、C、D全部选择。", "ABCD"),
        ('{"正确":["肺炎","肺癌"],"错误":{"肺结核":"特异性感染"}}', "BD"),
        ("正确答案：C。\n解析：肺炎是感染。\n因此，本题应选B。", None),
    ],
)
def test_what_is_left_what_is_numbered_and_what_points_back(text: str, letters: str) -> None:
    assert answers(cmexam, [Reply(text)], [OPTIONS])[0]["prediction"] == letters


@pytest.mark.parametrize(
    ("question", "text", "letters"),
    [
        ("肺病的说法，正确的有", "错误的选项是C，其余选项均为正确处理。", "ABD"),
        ("肺病的说法，错误的是", "错误的选项是C，其余选项均为正确处理。", "C"),
        ("肺病的处理，正确的有", "正确的处理包括支气管哮喘、肺炎和肺癌。肺结核不合适。", "ABD"),
        ("肺病的说法，正确的有", "所有选项都是正确的。", "ABCD"),
        ("肺病的说法，正确的有", "支气管哮喘（A）、肺炎（B）都是常见病。", "AB"),
        ("最可能的诊断是", "肺炎（B）与肺癌（D）的区别在于起病。本例起病急，所以支持肺炎。", "B"),
        ("最可能的诊断是", "肺炎起病急；肺癌起病缓；本例起病急，故为前者。", "B"),
        (
            "最可能的诊断是",
            "肺炎起病急，咳铁锈色痰，与本例相符。肺癌、肺结核均起病缓。支气管哮喘以喘息为主要表现。",
            "B",
        ),
        ("最可能的诊断是", "患者咳铁锈色痰，这是肺炎的典型表现。肺癌有消瘦，肺结核有盗汗，支气管哮喘有喘息。", "B"),
        ("最可能的诊断是", "**解析**：起病急提示肺炎，因此B正确。A错误：支气管哮喘有喘息。", "B"),
        ("不宜接触的是", "患者不宜接触肺结核。", "C"),
        ("The diagnosis is", "A is wrong because there is no wheezing. B fits.", "B"),
        ("The diagnosis is", "Ans: b", "B"),
        ("最可能的诊断是", "肺癌起病缓，范围缩小到肺炎与肺结核，由此取肺炎舍肺结核。", "B"),
        ("最可能的诊断是", "肺癌、肺结核均有主张。现阶段作答仍以肺炎为宜。", "B"),
        ("最可能的诊断是", "五点合在一起就是CAP，也就是传统所称的肺炎。肺癌、肺结核均起病缓。支气管哮喘有喘息。", "B"),
        ("下列需要抗感染的有", "肺炎抗菌，肺结核抗痨。支气管哮喘不用。\n→ BC", "BC"),
        ("下列需要抗感染的有", "支气管哮喘不用，BC均适用。", "BC"),
        ("下列需要抗感染的有", "肺炎、肺结核均可培养病原；支气管哮喘和肺癌则没有。", "BC"),
        (
            "起病急的是",
            "临床上首先考虑肺炎，其起病急，而肺结核起病缓，肺癌更缓，支气管哮喘有喘息，反复发作，可自行缓解。",
            "B",
        ),
        ("下列需要抗感染的有", "正确答案是BC。肺癌不用。\n综上所述，正确答案为：BCD。", None),
        ("The diagnosis is", "D - a tumour. The nodule points to it. (A) would cause wheezing, B fever.", "D"),
        (
            "最可能的诊断是",
            "初步诊断：肺癌\n鉴别诊断：肺炎、肺结核\n建议：作增强CT，并取组织作病理检查，排除转移，再定手术。",
            "D",
        ),
        ("最可能的诊断是", "第一个选项不对，应选倒数第二个。", "C"),
        ("最可能的诊断是", "按可能性：D>A>B>C", "D"),
    ],
)
def test_what_a_question_asks_for_tells_the_right_from_the_wrong(question: str, text: str, letters: str | None) -> None:
    assert answers(cmexam, [Reply(text)], [OPTIONS], [question])[0]["prediction"] == letters


def test_blanks_before_a_unit_and_a_cut_that_comes_after_the_answer() -> None:
    assert read("消除需 20 小时。", options={"A": "10小时", "B": "20小时"}) == "B"
    assert read("首选奥硝唑。", options={"A": "甲硝唑", "B": "青霉素"}) is None
    reply = Reply("错误的叙述是C。\n为什么？肺结核是", LENGTH)
    assert answers(ceval, [reply], [OPTIONS], ["关于肺，叙述错误的是"])[0]["prediction"] == "C"


def test_verdicts_on_each_option_answer_what_the_question_asks_for() -> None:
    for question, letters in (("关于肺，错误的是", "C"), ("关于肺，正确的有", "ABD")):
        assert answers(cmexam, [Reply("A对。B对。C错。D对。")], [OPTIONS], [question])[0]["prediction"] == letters


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("D选项。\n为什么不是B？肺炎有发热，所以考虑肺炎。", "D"),
        ("A? No. D fits best.", "D"),
        ("应是小肺炎旁的肿块，选项里没有。", None),
        ("所以A是正确的，B也可认为正确。因此本题A和B都可以选。", None),
        ("这题考影像。选B的要记住，它有发热。", None),
        ("患者咳血。如为肺结核，则应隔离。", None),
    ],
)
def test_what_is_said_of_other_cases_and_people_decides_nothing(text: str, letter: str | None) -> None:
    assert read(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("痰中查到抗酸杆菌，抗炎无效，胸片示上叶浸润影。\n\n✅ C", "C"),
        ("|疾病|痰|\n|-|-|\n|肺炎|铁锈色|\n|肺结核|带血丝|\n\n由表可见午后低热一项最有意义。\n\n选项：C", "C"),
        ("肺炎多有高热，肺癌少有盗汗。\n\n## 结果\n\n**C**", "C"),
        ("午后低热、盗汗，与选项C一致。\n\nA→喘息；B→高热；D→消瘦。", "C"),
        ("题目问的是哪一项可以除外。肺炎多有高热。\n\n不选：C", None),
        ("肺炎多有高热，肺癌少有盗汗。\n\n排除：C", None),
        ("几种病各有特点。\n\nA. 支气管哮喘\nB. 肺炎\nC. 肺结核\nD. 肺癌", None),
        ("一般认为肺结核（C）多见，高龄者也要想到肺癌（D）。题目没有给出年龄，因此C和D都有可能是正确答案。", None),
        ("题目没有说明是哪一期，所以答案可能是C，也可能是D，要看具体情况。", None),
        ("从起病看，应选C；从年龄看，则D更有说服力。我认为C、D均可，无法给出唯一的答案。", None),
    ],
)
def test_the_last_line_may_be_the_answer_and_two_possible_ones_are_none(text: str, letter: str | None) -> None:
    assert read(text) == letter


NEGATIVE = "关于肺结核的叙述，哪项是错误的"


@pytest.mark.parametrize(
    ("question", "text", "letters"),
    [
        ("肺结核的表现不包括", "午后低热、盗汗都是。肺炎多有高热。\n\n因此，其表现不包括：**B. 肺炎**。", "B"),
        (NEGATIVE, "逐条看：A（对）B（错）C（对）D（对）。所以叙述错误的选项为B；叙述正确的选项为A、C、D。", "B"),
        ("男，60岁，咳嗽，不能平卧。首先考虑", "逐项看下来，错误的是D，并没有消瘦。", None),
        ("關於肺結核的敘述，下列何者錯誤？", "錯誤的是C。", "C"),
        ("最可能的诊断是", "综合考虑，肺结核和肺癌都可以作为首选的诊断，具体是哪一种，需要结合痰检。", None),
    ],
)
def test_the_word_of_the_question_decides_and_two_first_choices_are_none(
    question: str, text: str, letters: str | None
) -> None:
    assert answers(ceval, [Reply(text)], [OPTIONS], [question])[0]["prediction"] == letters


LIST = "A. 支气管哮喘\nB. 肺炎\nC. 肺结核\nD. 肺癌"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (f"C\n\n最常见的并发症是\n{LIST}\n答案：B\n\n最突出的表现是\n{LIST}\n答案：A", "C"),
        (f"问题：午后低热见于\n选项：{LIST}\n回答：C. 肺结核\n解释：肺炎多有高热，肺癌少有盗汗。", "C"),
        ("Fever is high in 肺炎. The answer is therefore 肺结核.", "C"),
        ("从年龄看，乍一看似乎应选D，但起病急，不作考虑。\n\n答案：B", "B"),
        ("肺炎起病急（B），肺癌起病缓（D）。\n\n因此，根据病程，可以选择B或D，具体由医生决定。", None),
        ("答案：C\n\n解析：肺结核多有盗汗。\n\n综上所述，最可能的诊断是B. 肺炎。", None),
    ],
)
def test_a_run_on_with_the_same_options_and_what_is_left_open(text: str, letter: str | None) -> None:
    assert answers(ceval, [Reply(text)], [OPTIONS], ["午后低热最可能见于"])[0]["prediction"] == letter


def test_a_list_below_an_answer_is_no_range_of_letters() -> None:
    text = "**答案：A、B**\n\n- **Ⅰ型**：哮喘。\n- **Ⅱ型**：肺结核。"
    assert answers(cmexam, [Reply(text)], [OPTIONS], ["下列疾病有"])[0]["prediction"] == "AB"


def test_a_decision_before_the_clause_that_was_cut_and_a_line_of_its_own_count() -> None:
    assert read("肺炎多有高热。只有肺结核有盗汗，因此本题的正确答案为C，即肺部的结核", LENGTH) == "C"
    assert read("C. 肺结核\n\n解析：\n肺炎多有高热。\n肺炎多有高热。\n肺炎多有", LENGTH) == "C"
    assert read("A. 支气管哮喘\n多有喘息。\nB. 肺炎\n多有高热", LENGTH) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("①A", "A"), ("Ⅱ型糖尿病", None), ("答案：Ｃ\u3000", "C"), ("答案:\u200bC", "C"), ("\ufeffＡ", "A")],
)
def test_characters_that_look_otherwise_or_are_not_seen(text: str, expected: str | None) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("reply", "answer", "explanation"),
    [
        ("C。\n解释：肺实变时叩诊浊音。", "C。", "肺实变时叩诊浊音。"),
        ("C。\n 解释: 略", "C。", "略"),
        ("C\n因为语颤增强。", "C\n因为语颤增强。", "因为语颤增强。"),
        ("C\n\n题目：下列哪项\n答案：D", "C", ""),
        ("C\nHuman: 下一题", "C", ""),
        ("", "", ""),
    ],
)
def test_a_forced_answer_and_its_explanation(reply: str, answer: str, explanation: str) -> None:
    assert cmexam.split_reply(reply, forced=True) == (answer, explanation)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("<think>答案可能是A，但是B也有可能。</think>\n\n正确答案：C", "C"),
        ("先看A，可能答案是A？不对。\n</think>\n\n**正确答案：C**", "C"),
        ("<think>答案应该是A，不过再想想", None),
        ("<thinking>选A</thinking>选C", "C"),
        ("<think>甲</think><answer>C</answer>", "C"),
        ("答案是A。</think>还不好说", None),
        ("答案：A或B", None),
        ("答案：C\n至于心衰，答案是B。", None),
        ("## Thinking\n\n答案似乎是A。\n\n## Final Response\n\n应选C。", "C"),
        ("[THINK]答案是A？[/THINK]选C", "C"),
        ("<seed:think>答案是A？</seed:think>选C", "C"),
        ("◁think▷答案是A", None),
        ("<|START_THINKING|>答案是A？<|END_THINKING|><|START_RESPONSE|>选C<|END_RESPONSE|>", "C"),
        ("<|channel>thought\n答案是A？\n<channel|>选C", "C"),
        ("<|channel|>analysis<|message|>答案是A？<|end|><|start|>assistant<|channel|>final<|message|>选C", "C"),
        # The same as a decoder writes it that leaves special tokens out, and cut.
        ("analysisWe think A.assistantfinal选C", "C"),
        ("analysis答案是A。", None),
        ("Analysis: 答案是C。", "C"),
        ("答案：D\n\n更正：上面看错了，正确答案应为C", "C"),
        ("A选项：不符合。\nB选项：不符合。\n综上，选C。", "C"),
        ("A和B可以排除；所以最合适的是C。", "C"),
    ],
)
def test_the_last_decision_outside_a_thought_counts(reply: str, expected: str | None) -> None:
    assert read(reply) == expected
    assert answers(cmexam, [Reply(reply)], [OPTIONS])[0]["prediction"] == expected


def test_a_reply_that_was_cut_gives_only_what_it_calls_its_answer() -> None:
    early = "看起来最合适的是A。不过还要看体征："
    assert read(early) == "A" and read(early, LENGTH) is None
    assert read("答案：A。解析：喘息", LENGTH) == "A"


def test_the_forced_words_stand_before_a_reply_only_where_they_were_forced() -> None:
    # After "答案：" the letter is the answer; without, the sentence begins with an option that it goes on to weigh.
    assert read("C，因为有低热盗汗。", forced=True) == "C"
    assert read("A 44-year-old man with chest pain") is None


def test_a_part_of_an_option_s_text_names_it_where_no_other_option_holds_it() -> None:
    options = {"A": "常规大剂量补碱", "B": "见尿补钾", "C": "小剂量胰岛素持续静脉滴注"}
    assert read("题目要求找出错误的一项，因此选大剂量补碱。", options=options) == "A"


def free(reply: str, reference: str, benchmark: Any = huatuo) -> dict[str, Any]:
    record = {"output": reply, "finish": STOP, "reference": reference, "exchanges": 1}
    return summarise(benchmark.statistics([record] * 3), 20, 0)


@pytest.mark.parametrize("benchmark", [huatuo, dialogue])
def test_thoughts_are_no_part_of_a_free_answer(benchmark: Any) -> None:
    thought = "<think>患者问头痛，先想想。</think>\n\n多喝水，注意休息。"
    assert free(thought, "多喝水，注意休息。", benchmark) == free("多喝水，注意休息。", "多喝水，注意休息。", benchmark)
    assert free("<think>多喝水，注意休息。", "多喝水，注意休息。", benchmark)["rouge_l"]["value"] == 0


def test_thoughts_are_no_entities_and_no_explanation() -> None:
    item = Item("cmeee", "1", "test", None, "患者有高血压。", None, None, "[]")
    reply = "<think>\n疾病：患者\n</think>\n疾病：高血压"
    assert ner.understood(item, reply, {"dis": "疾病"})["predicted"] == [["dis", "高血压"]]
    (row,) = answers(cmexam, [Reply("<think>解析：想想</think>答案：A\n解析：喘息为主。")], [OPTIONS])
    assert (row["prediction"], row["explanation"]) == ("A", "喘息为主。")


def test_a_base_model_s_next_question_ends_every_free_answer() -> None:
    backend = SimpleNamespace(tokenizer=None, template=PLAIN, render=lambda messages, prefix: "")
    item = Item("huatuo", "1", "test", None, "头痛", None, None, "r")
    ran_on = "请问：多久了？多喝水。\n问：胃痛怎么办\n答：少吃。"
    for benchmark in (huatuo, dialogue):
        asked = TASKS[benchmark].prompts([item], backend, 0)
        assert replied(asked, [ran_on], [True]) == [Reply("请问：多久了？多喝水。", STOP)]


def test_a_chat_model_s_explanation_goes_on_after_a_blank_line() -> None:
    (row,) = answers(cmexam, [Reply("答案：A\n\n喘息为主。\n\n常在夜间发作。")], [OPTIONS])
    assert (row["prediction"], row["explanation"]) == ("A", "喘息为主。\n\n常在夜间发作。")


def test_unreadable_cut_and_error_are_three_counts() -> None:
    texts = [("选A", STOP), ("<think>先看", LENGTH), ("不好说", STOP), ("", ERROR), ("选A，因为", LENGTH)]
    replies = [Reply(text, finish) for text, finish in texts]
    for benchmark in (ceval, cmexam, exams):
        rows = answers(benchmark, replies, [OPTIONS] * len(texts))
        assert [row["finish"] for row in rows] == ["stop", "length", "stop", "error", "length"]
        whole = {"gold": "A", "subject": "s", "n_options": 4, "groups": {}, "reference": ""}
        scores = summarise(benchmark.statistics([whole | row for row in rows]), 20, 0)
        assert [scores[name]["value"] for name in ("unparsed", "cut", "error")] == [20, 20, 20]


@pytest.mark.parametrize("unit", ["\n\n答", "A、", "选", "<think>", "A. 甲\n", "A对", "(", "| A |", "\\boxed{"])
def test_reading_is_linear_whatever_is_in_a_reply(unit: str) -> None:
    started = time.perf_counter()
    read(unit * (400_000 // len(unit)))
    assert time.perf_counter() - started < 5
