"""What is read of judges' replies, in the forms that public judges write. All replies are invented."""

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.judging import verdicts
from qilin_lib.evaluate.judging.verdicts import FIRST, SECOND, TIE

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


def test_the_prompt_of_every_preset_holds_both_answers_and_its_criteria_and_its_own_forms_are_read():
    for chosen in verdicts.presets().values():
        assert chosen.source
        if chosen.kind == "pair":
            prompt = verdicts.pair_prompt(chosen, "{question}", "答甲{0}", "答乙")
            assert prompt.index("{question}") < prompt.index("答甲{0}") < prompt.index("答乙")
        else:
            prompt = verdicts.scores_prompt(chosen, "问", "答", "参考")
            top = "\n".join(f"{criterion}: {chosen.high}" for criterion in chosen.criteria)
            assert verdicts.scores(top, chosen) == dict.fromkeys(chosen.criteria, chosen.high)
        assert all(criterion in prompt for criterion in chosen.criteria)
    for said, verdict in zip(("回答1更好", "回答2更好", "平局"), (FIRST, SECOND, TIE), strict=True):
        assert f"“{said}”" in verdicts.pair_prompt(verdicts.preset("zhongjing"), "", "", "")
        assert verdicts.pair_verdict(said) == verdict


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("Proactivity: 4\nAccuracy: 5\nHelpfulness: 4\nLinguistic Quality: 5", [4, 5, 4, 5]),
        ("**Proactivity**: 3/5\n**Accuracy**: 4/5\n**Helpfulness**: 4/5\n**Linguistic Quality**: 5/5", [3, 4, 4, 5]),
        ("- proactivity：2\n- accuracy：2\n- helpfulness：2\n- linguistic quality：3", [2, 2, 2, 3]),
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


def test_a_rubric_counts_points_met_over_points_to_be_had():
    row = {"prompt": "发热怎么办", "rubrics": [("建议就医", 3), ("问体温", 1), ("推荐抗生素", -2)]}
    row["rubrics"] = [{"criterion": text, "points": points} for text, points in row["rubrics"]]
    rubric = verdicts.rubric(row, "rubrics.jsonl:1")
    assert verdicts.rubric_score(rubric.rubrics, [True, False, False]) == 75
    assert verdicts.rubric_score(rubric.rubrics, [True, False, True]) == 25
    assert verdicts.rubric_score(rubric.rubrics, [False, False, True]) == 0
    assert verdicts.rubric_score(rubric.rubrics, [True, None, True]) is None


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"prompt": "问"}, r"r\.jsonl:3: rubrics: Field required"),
        ({"prompt": "问", "rubrics": [{"criterion": "", "points": 1}]}, r"r\.jsonl:3: rubrics\.0\.criterion"),
        ({"prompt": "问", "rubrics": [{"criterion": "好", "points": -1}]}, "no criterion has points above 0"),
    ],
)
def test_a_bad_rubric_names_its_place_and_field(row, fault):
    with pytest.raises(QilinError, match=fault):
        verdicts.rubric(row, "r.jsonl:3")


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(QilinError, match="zhongjing"):
        verdicts.preset("zhongjin")
