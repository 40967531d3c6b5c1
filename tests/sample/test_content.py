from __future__ import annotations

import random

import pytest

from qilin_lib.sample import drills
from qilin_lib.sample.knowledge import load
from qilin_lib.sample.patients import patient
from qilin_lib.sample.preferences import sheets
from qilin_lib.sample.shares import share_out
from qilin_lib.sample.textbook import number_word
from qilin_lib.sample.wording import rng, vary


@pytest.mark.parametrize(
    ("number", "word"),
    [(0, "零"), (7, "七"), (10, "十"), (21, "二十一"), (101, "一百零一"), (110, "一百一十"), (320, "三百二十")],
)
def test_numerals(number: int, word: str) -> None:
    assert drills.numeral(number) == word


def test_number_words_of_headings() -> None:
    assert [number_word(n) for n in (9, 10, 12, 20, 35)] == ["九", "十", "十二", "二十", "三十五"]


def test_drills_are_different_and_right() -> None:
    asked = drills.questions(120, 17)
    assert len(dict(asked)) == 120
    for question, answer in asked:
        if question.startswith("每小时走"):
            speed, hours = (int("".join(filter(str.isdigit, part))) for part in question.split("，")[:2])
            assert f"能走{speed * hours}千米" in answer


def test_vary_keeps_what_must_not_change() -> None:
    for seed in range(40):
        dice = random.Random(seed)
        assert vary("缓解期不需要用药", dice) in ("缓解期不需要用药", "缓解期不需用药")
        assert vary("这种可能性", dice) == "这种可能性"
        assert vary("温和，总和，中和", dice) == "温和，总和，中和"


def test_generators_do_not_depend_on_each_other() -> None:
    assert rng(17, "one").random() == rng(17, "one").random() != rng(17, "two").random()


def test_patients_can_have_the_disease() -> None:
    for disease in load().diseases:
        found = [patient(disease, random.Random(seed)) for seed in range(12)]
        if "妇科" in disease["department"] or "产科" in disease["department"]:
            assert {person.sex for person in found} == {"女"}, disease["name"]
        if disease["name"] == "前列腺增生":
            assert {person.sex for person in found} == {"男"}


def test_chosen_is_longer_than_curt_and_never_the_rejected() -> None:
    known = load()
    made = {sheet.path: sheet.records for sheet in sheets(share_out(known.diseases, 17), known.diseases, [], 17)}
    reward = made["medicalgpt_reward/train.json"] + made["medicalgpt_reward/valid.json"]
    pairs = [(record["response_chosen"], record["response_rejected"]) for record in reward]
    outputs = [record["output"] for record in made["zhongjing_rlhf/rlhf.json"]]
    pairs += [(chosen, other) for chosen, *others in outputs for other in others]
    assert all(chosen != rejected for chosen, rejected in pairs)
    assert len({rejected for _, rejected in pairs}) > 0.6 * len(pairs)
    shorter = sum(len(rejected) < len(chosen) for chosen, rejected in pairs) / len(pairs)
    assert 0.5 < shorter < 0.95  # Length alone must not tell the two apart.
