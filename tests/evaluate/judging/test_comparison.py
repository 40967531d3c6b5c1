"""What judgments add up to, against statsmodels, choix, krippendorff and scikit-learn, and judges that are known."""

import random

import choix
import krippendorff
import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.metrics import cohen_kappa_score

from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.judging import comparison, kinds, sheet, verdicts
from qilin_lib.evaluate.judging.comparison import LOSS, TIE, WIN
from qilin_lib.evaluate.judging.kinds import Pair
from qilin_lib.evaluate.replies import ERROR, Reply
from qilin_lib.files import read_json, write_json

ZHONGJING = verdicts.preset("zhongjing")
PAIRS = kinds.Pairs(ZHONGJING)
SAYS = {WIN: "回答1更好", LOSS: "回答2更好", TIE: "平局", None: "我不能评价。"}


def games(n, models=("甲", "乙")):
    """What a judge is asked of answers of many lengths to `n` questions."""
    draw = random.Random(1)
    for number in range(n):
        item = Item("huatuo", f"q{number}", "test", None, "问", None, None, "")
        yield from PAIRS.asks(item, {model: "好" * draw.randint(5, 60) for model in models})


def judged_by(judge, asked, name="judge"):
    """Its records; `judge(asked)` says win, loss or tie of the answer shown first, or None."""
    return [verdicts.record(one, name, Reply("…"), PAIRS.read(one, SAYS[judge(one)])) for one in asked]


def fair(probability=0.8, seed=3):
    """A judge that mostly sees the better answer: A's, in whatever order it comes."""
    draw = random.Random(seed)

    def judge(asked):
        a_is_better = random.Random(asked.about["item"]).random() < 0.7
        says_a = a_is_better if draw.random() < probability else not a_is_better
        return WIN if says_a == (asked.about["order"] == "ab") else LOSS

    return judge


def by_chance(seed=5):
    draw = random.Random(seed)
    return lambda asked: draw.choice((WIN, LOSS, TIE))


def longer(asked):
    first = asked.length if asked.about["order"] == "ab" else -asked.length
    return TIE if first == 0 else WIN if first > 0 else LOSS


@pytest.mark.parametrize(
    ("judge", "named"),
    [
        (fair(0.95), set()),
        (lambda asked: WIN, {"first", "orders agree"}),
        (lambda asked: LOSS, {"second", "orders agree"}),
        (longer, {"longer"}),
        (by_chance(), {"orders agree"}),
    ],
)
def test_the_controls_name_what_a_judge_follows(judge, named):
    found = comparison.controls(judged_by(judge, games(120)), 300, 1)
    assert {row.control for row in found.itertuples() if row.warning} == named


def test_the_control_judges_follow_length_and_order():
    asked = [*games(20)]
    for name, judge in (("longer", longer), ("first", lambda one: WIN)):
        assert [kinds.CONTROLS[name](one).text for one in asked] == [SAYS[judge(one)] for one in asked]


def test_pairs_of_one_item_are_one_draw_of_how_far_the_orders_agree():
    """Five models' ten pairs of an item say the same as two models' one."""

    def judge(asked):
        kind = int(asked.about["item"][1:]) % 4
        return WIN if kind == 0 or (kind < 3) == (asked.about["order"] == "ab") else LOSS

    two, five = (
        comparison.controls(judged_by(judge, games(40, models)), 300, 1).iloc[-1] for models in ("甲乙", "甲乙丙丁戊")
    )
    assert (two["n"], five["n"]) == (40, 400)
    assert five[["share", "low", "high"]].tolist() == pytest.approx(two[["share", "low", "high"]].tolist())


def test_a_judgment_is_kept_whole_and_an_error_is_no_verdict():
    first, second = games(1)
    kept = verdicts.record(second, "judge", Reply("回答1更好"), PAIRS.read(second, "回答1更好"))
    assert (kept["verdict"], kept["order"], kept["parsed"], kept["raw"]) == (LOSS, "ba", True, "回答1更好")
    assert {*kept} >= {"item", "model_a", "model_b", "judge", "prompt_sha", "length"}
    failed = verdicts.record(first, "judge", Reply("回答1更好", ERROR, error="quota"), WIN)
    assert (failed["verdict"], failed["parsed"], failed["error"]) == (None, False, "quota")
    (row,) = comparison.comparison([kept, failed], 100, 1).to_dict("records")
    assert (row["unread"], row["n"], row["win_rate"]) == (1, 1, None)


def test_items_are_won_where_both_orders_say_so_and_nothing_is_claimed_of_two():
    says = {"q0": "11", "q1": "12", "q2": "21", "q3": "??", "q4": "00", "q5": "10"}
    words = {"1": WIN, "2": LOSS, "0": TIE, "?": None}

    def judge(asked):
        return words[says[asked.about["item"]]["ab ba".split().index(asked.about["order"])]]

    (row,) = comparison.comparison(judged_by(judge, games(6)), 200, 1).to_dict("records")
    assert [row[name] for name in comparison.OUTCOMES] == [1, 1, 1, 2, 1]
    assert row["win_rate"] == pytest.approx(100 * np.mean([0.5, 1, 0, 0.5, 0.75]))
    assert row["low"] < row["win_rate"] < row["high"]
    (row,) = comparison.comparison(judged_by(longer, games(2)), 200, 1).to_dict("records")
    assert row["low"] is row["high"] is row["length_controlled"] is None


def test_of_a_judge_that_cannot_be_read_every_model_has_a_row_without_a_number():
    three = [*games(5, models=("甲", "乙", "丙"))]
    found = comparison.strengths(judged_by(lambda asked: None, three), 100, 1)
    assert found["model"].tolist() == ["甲", "乙", "丙"] and found["strength"].isna().all()
    own = judged_by(lambda asked: None if "丙" in asked.about.values() else TIE, three)
    assert comparison.strengths(own, 100, 1)["strength"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize("verdict", [WIN, TIE])
def test_items_that_all_ended_alike_leave_room_for_others(verdict):
    def same(asked):
        return LOSS if verdict == WIN and asked.about["order"] == "ba" else verdict

    own = judged_by(same, games(20))
    row = comparison.comparison(own, 200, 1).iloc[0]
    assert row["high"] - row["low"] > 15
    assert comparison.strengths(own, 200, 1)[["low", "high"]].isna().all(axis=None)


def test_the_length_controlled_rate_is_the_one_of_statsmodels():
    rng = np.random.default_rng(2)
    lengths = rng.normal(0, 100, 200)
    points = (rng.random(200) < 1 / (1 + np.exp(-(0.4 + 0.01 * lengths)))).astype(float)
    points[:20] = 0.5
    ours = comparison.length_controlled(points, lengths, 100, 1)
    design = sm.add_constant(np.tanh(lengths / lengths.std()))
    theirs = sm.GLM(points, design, family=sm.families.Binomial()).fit().params[0]
    assert ours["length_controlled"] == pytest.approx(100 / (1 + np.exp(-theirs)), abs=1e-3)
    assert ours["lc_low"] < ours["length_controlled"] < ours["lc_high"]
    biased = comparison.comparison(judged_by(longer, games(150)), 100, 1).iloc[0]
    assert biased["lc_low"] < 50 < biased["lc_high"]


def test_strengths_are_those_of_choix():
    names = ["甲", "乙", "丙"]
    own = judged_by(fair(), games(40, models=names))
    half_wins = []
    for row in comparison.judged(own).itertuples():
        a, b = names.index(row.model_a), names.index(row.model_b)
        half_wins += [(a, b)] * round(2 * row.points) + [(b, a)] * round(2 - 2 * row.points)
    # Two half wins an item: twice the likelihood, so twice the penalty.
    theirs = choix.opt_pairwise(3, half_wins, alpha=2 * comparison.PENALTY)
    ours = comparison.strengths(own, 100, 1)
    np.testing.assert_allclose(ours["strength"], theirs - theirs.mean(), atol=1e-3)
    assert (ours["low"] < ours["strength"]).all() and (ours["strength"] < ours["high"]).all()


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_agreement_is_that_of_scikit_learn_and_krippendorff(missing):
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 3, 60)
    rows = [np.where(rng.random(60) < 0.7, truth, rng.integers(0, 3, 60)) for _ in range(3)]
    hidden = [[None if rng.random() < missing else int(value) for value in row] for row in rows]
    both = [(a, b) for a, b in zip(*hidden[:2], strict=True) if a is not None and b is not None]
    share, kappa = 100 * np.mean([a == b for a, b in both]), cohen_kappa_score(*zip(*both, strict=True))
    assert comparison.agreed(*hidden[:2]) == pytest.approx((len(both), share, kappa))
    table = [[np.nan if value is None else value for value in row] for row in hidden]
    assert comparison.alpha(hidden) == pytest.approx(krippendorff.alpha(table, level_of_measurement="nominal"))
    assert comparison.agreed([1, 1], [1, 1])[2] is comparison.alpha([[1, 1], [1, None]]) is None


def test_judges_and_people_stand_side_by_side():
    asked = [*games(30)]
    people = judged_by(fair(0.9, 1), asked[::2], "human: 王") + judged_by(fair(0.9, 2), asked[::2], "human: 李")
    found = comparison.agreement(people + judged_by(fair(0.9, 7), asked, "model"))
    assert found["people"].tolist() == [2, 1, 1, 2]
    assert (found["n"] > 0).all() and found["alpha"].iloc[-1] > 0


def test_a_sheet_hides_who_wrote_and_comes_back_from_each_person(tmp_path):
    own = [Pair("q1", "</script><b>问", "甲", "乙", "答案一", "答案二"), Pair("q2", "问", "甲", "乙", "长" * 9, "短")]
    own += [Pair(f"q{n}", "问", "甲", "乙", "答", "案") for n in range(3, 31)]
    page, key = sheet.write(own, ZHONGJING, tmp_path, seed=3)
    text, secret = page.read_text(encoding="utf-8"), read_json(key)
    assert not [word for word in ("甲", "乙", "q1", "</script><b>", '"order"') if word in text]
    orders = [game["order"] for game in secret["games"].values()]
    assert 5 < orders.count("ab") < 25, "no side belongs to a model"
    better = {name: "first" if game["order"] == "ab" else "second" for name, game in secret["games"].items()}
    judges = set()
    for file, judge in (("monday", ""), ("tuesday", ""), ("third", "王")):
        write_json(tmp_path / f"{file}.json", {"sheet": secret["sheet"], "judge": judge, "verdicts": better})
        records = sheet.read(tmp_path / f"{file}.json", key)
        assert {one["verdict"] for one in records} == {WIN} and len(records) == 30
        assert {one["item"]: one["length"] for one in records}["q2"] == 8
        judges |= {one["judge"] for one in records}
    assert len(judges) == 3 and "human: 王" in judges


@pytest.mark.parametrize(
    "fault",
    [
        {"sheet": "other"},
        {"verdicts": {"x": "first"}},
        {"verdicts": {"x": ["first"]}},
        {"verdicts": "good"},
        {"verdicts": None},
        {"judge": 3},
        [],
    ],
)
def test_a_file_of_another_sheet_or_with_other_words_is_refused(tmp_path, fault):
    _, key = sheet.write([Pair("q1", "问", "甲", "乙", "答", "案")], ZHONGJING, tmp_path, seed=3)
    secret, export = read_json(key), tmp_path / "export.json"
    whole = {"sheet": secret["sheet"], "judge": "", "verdicts": dict.fromkeys(secret["games"], "first")}
    write_json(export, whole)
    assert sheet.read(export, key)
    write_json(export, whole | fault if fault else fault)
    said = "move it out of|verdicts" if fault == {"sheet": "other"} else "sheet|verdicts"
    with pytest.raises(sheet.QilinError, match=said):
        sheet.read(export, key)
