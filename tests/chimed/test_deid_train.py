"""The trainer fills frames truly, learns what it is shown, and gives the same weights for the same examples."""

from __future__ import annotations

import random
import sys

import pytest

from qilin_lib.chimed import deid_names, deid_train
from qilin_lib.chimed.deid_base import NAMED


def test_a_filled_frame_says_where_its_names_stand():
    text, names = deid_train.fill("患者{n}，{k}{n}陪同\\n{d}岁", random.Random(3))
    (first, last), (start, end) = names
    assert text.startswith("患者") and first == 2 and text[last] == "，" and text[end : end + 3] == "陪同\n"
    assert deid_train.fill("=家属{N}", random.Random(3))[1] == []


def test_every_frame_can_be_filled_and_holds_its_names():
    dice = random.Random(1)
    for frame in deid_train.FRAMES:
        text, names = deid_train.fill(frame, dice)
        assert "{" not in text and all(text[start:end].strip() for start, end in names)
        assert bool(names) == (frame[0] != "=" and any(slot in frame for slot in ("{n}", "{s}", "{g}", "{L}")))


def test_a_view_keeps_one_name_and_hides_the_others():
    views = list(deid_train.views("王明和李丽", [(0, 2), (3, 5)]))
    assert views == [
        ("王明和李丽", [(0, 2), (3, 5)]),
        (f"王明和{NAMED}", [(0, 2)]),
        (f"{NAMED}和李丽", [(2, 4)]),
    ]


def test_training_separates_what_it_was_shown_and_repeats_itself():
    shown = [("患者王小明，男", [(2, 5)]), ("患者高血糖，男", []), ("请李医生看", [(1, 2)]), ("请高年资医生看", [])] * 3
    given = [row for number, (text, names) in enumerate(shown) for row in deid_train.examples(str(number), text, names)]
    weights = deid_train.train(given)
    assert weights == deid_train.train(given) and all(isinstance(weight, int) for weight in weights.values())
    assert [deid_names.best(summed(text, weights)) for text, _ in shown] == [names for _, names in shown]


@pytest.mark.parametrize(
    "text", ["患者王小明，男，45岁", "主治医师：欧阳静　记录：李 明", "请张医生看看", "患者高血压，女"]
)
def test_names_are_found_by_the_sum_of_the_weights_of_their_features(text):
    (rule,) = deid_names.NAME_RULES
    assert list(rule.spans(text)) == deid_names.best(summed(text, deid_names.weights()))


def summed(text, weights):
    """The sum of weights of each place, from the features that training sees."""
    rows = [row for _, rows in deid_train.examples("", text, []) for row in rows]
    return {place: sum(weights.get(tag, 0) for tag in tags) for place, tags, _ in rows}


@pytest.mark.parametrize("arguments", [["--help"], ["RAW_DIR"]])
def test_a_call_for_help_or_with_words_trains_nothing(arguments, monkeypatch):
    monkeypatch.setattr(deid_train, "labelled_cases", lambda split: pytest.fail("it trains"))
    monkeypatch.setattr(sys, "argv", ["deid_train", *arguments])
    with pytest.raises(SystemExit):
        deid_train.main()
