"""What is read of judges' replies, in the forms that public judges write. All replies are invented."""

from types import SimpleNamespace

import pytest

from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.judging import verdicts
from qilin_lib.evaluate.judging.kinds import KINDS, WORDS
from qilin_lib.evaluate.judging.verdicts import FIRST, SECOND, TIE, Criterion

REPLIES = [
    ("Both are helpful, but the first is safer.\n\n[[A]]", FIRST),
    ("My final verdict is: [[B>>A]]", SECOND),
    ("[[A=B]]", TIE),
    ("[[C]]", TIE),
    ("Assistant 1 is better than Assistant 2 in detail.\nAssistant 1 is `worse than` Assistant 2", SECOND),
    ("Assistant 2 is better than Assistant 1", SECOND),
    ("Assistant 1 is equal to Assistant 2.", TIE),
    ("The two replies are equal in accuracy.", TIE),
    ("8.5 7\n\nThe first assistant asked for the history.", FIRST),
    ("6, 9", SECOND),
    ("7 7\nBoth are fine.", TIE),
    ('{"reason": "更安全", "winner": "model_b"}', SECOND),
    ('```json\n{"analysis": "…", "winner": "tie"}\n```', TIE),
    ('{"better": 1}', FIRST),
    ("回答1较完整，但用药有误。\n最后：**回答2更好**", SECOND),
    ("助手1优于助手2", FIRST),
    ("从安全性看，回答一明显不如回答二。", SECOND),
    ("两个回答不相上下。\n平局", TIE),
    ("更好的是：回答1", FIRST),
    ("胜者为“回答2”", SECOND),
    ("<think>回答1更好？不，剂量错了。</think>\n回答2更好", SECOND),
    ("<think>回答1更好，因为", None),
    ("我无法评价医疗建议。", None),
    ("", None),
    ("回答1和回答2相比，各有优点，需要看具体情况。", None),
    ("Answer A is the better one.", FIRST),
    ("It's a tie.", TIE),
    ("回答1比回答2更好。", FIRST),
    ("回答2的内容比回答1要好一些", SECOND),
    ("回答1没有回答2好", SECOND),
    ("回答1不比回答2更好", None),
    ("综上，回答１略好", FIRST),
    ("回答2明显更优，而不是回答1更好", SECOND),
    ("并非回答1更好，而是回答2更好", SECOND),
    ("回答1更好，不能算平局。", FIRST),
    ("回答1更好地解释了病因；回答2更好的地方是用药。", None),
    ("须写“回答1更好”、“回答2更好”或“平局”之一，而我做不到。", None),
    ("回答2 > 回答1", SECOND),
    ("两个回答一样好", TIE),
    ("The winner is a tie.", TIE),
    ("Winner: B", SECOND),
    ("Answer A is not better than Answer B.", None),
]


@pytest.mark.parametrize(("reply", "verdict"), REPLIES)
def test_the_last_decision_of_a_reply_is_its_verdict(reply, verdict):
    assert verdicts.pair_verdict(reply) == verdict


def test_the_prompt_of_every_preset_holds_answers_and_criteria_and_its_own_forms_are_read():
    item = Item("huatuo", "q", "test", None, "{question}", None, None, "参考")
    for chosen in verdicts.presets().values():
        kind = KINDS[chosen.kind](chosen, SimpleNamespace(criteria={"q": [Criterion(criterion="好", points=1)]}))
        asked = [*kind.asks(item, {"甲": "答甲{0}", "乙": "答乙"})]
        assert chosen.source and len(asked) == 2
        for one, answers in zip(asked, (["答甲{0}", "答乙"], ["答乙", "答甲{0}"]), strict=True):
            shown = answers if chosen.kind == "pair" else answers[:1]
            places = [one.prompt.index(part) for part in ("{question}", *shown, *chosen.criteria)]
            assert places == sorted(places)
        if chosen.kind == "pair":
            assert all(f"“{said}”" in asked[0].prompt for said in WORDS.values())
        if chosen.kind == "scores":
            top = "\n".join(f"{criterion}: {chosen.high}" for criterion in chosen.criteria)
            assert verdicts.scores(top, chosen) == dict.fromkeys(chosen.criteria, chosen.high)
    assert {verdicts.pair_verdict(said): verdict for verdict, said in WORDS.items()} == {v: v for v in WORDS}


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("Proactivity: 4\nAccuracy: 5\nHelpfulness: 4\nLinguistic Quality: 5", [4, 5, 4, 5]),
        ("**Proactivity**: 3/5\n**Accuracy**: 4/5\n**Helpfulness**: 4/5\n**Linguistic Quality**: 5/5", [3, 4, 4, 5]),
        ("- proactivity：2\n- accuracy：2\n- helpfulness：2\n- linguistic quality：3", [2, 2, 2, 3]),
        ('{"proactivity": 4, "accuracy": 5, "helpfulness": 4, "linguistic_quality": 5}', [4, 5, 4, 5]),
        ("Proactivity: 4\nAccuracy: 5\nHelpfulness: 4", None),
        ("Proactivity: 4.5\nAccuracy: 5\nHelpfulness: 4\nLinguistic Quality: 5", None),
        ("Proactivity: 9\nAccuracy: 5\nHelpfulness: 4\nLinguistic Quality: 5", None),
        ("I cannot score this.", None),
        ("Proactivity (1-5): 4\nAccuracy (1-5): 5\nHelpfulness (1～5分): 4\nLinguistic Quality (1–5): 5", [4, 5, 4, 5]),
        ("1. Proactivity\n2. Accuracy: 5\n3. Helpfulness: 4\n4. Linguistic Quality: 5", None),
        ("Proactivity: -1\nAccuracy: 5\nHelpfulness: 4\nLinguistic Quality: 5", None),
    ],
)
def test_scores_are_read_only_where_every_criterion_has_one_of_its_scale(reply, read):
    found = verdicts.scores(reply, verdicts.preset("disc"))
    assert (found and [*found.values()]) == read


@pytest.mark.parametrize(
    ("reply", "met"),
    [
        ('{"criteria_met": true}', True),
        ('```json\n{"explanation": "没有提到就医", "criteria_met": false}\n```', False),
        ("符合", True),
        ("该回答不符合这一标准。", False),
        ("Yes.", True),
        ('{"criteria_met": "maybe"}', None),
        ("<think>true</think>", None),
        ("说不好", None),
        ("该回答没有符合该标准", False),
        ("不完全符合", False),
        ("是否符合：否", False),
        ("是否符合该标准？是。", True),
        ("难以判断是否符合", None),
        ("部分符合", None),
        ("符合该标准，没有不符合之处。", True),
    ],
)
def test_a_criterion_is_met_not_met_or_unread(reply, met):
    assert verdicts.met(reply) is met


@pytest.mark.parametrize(
    ("met", "score"),
    [([True, False, False], 75), ([True, False, True], 25), ([False, False, True], 0), ([True, None, True], None)],
)
def test_a_rubric_counts_points_met_over_points_to_be_had(met, score):
    criteria = [Criterion(criterion=text, points=points) for text, points in (("就医", 3), ("体温", 1), ("抗生素", -2))]
    assert verdicts.rubric_score(criteria, met) == score
