"""What judgments add up to, against statsmodels, choix, krippendorff and scikit-learn, and judges that are known."""

import random

import choix
import krippendorff
import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.metrics import cohen_kappa_score

from qilin_lib.evaluate.judging import agreement, comparison, sheet, verdicts
from qilin_lib.evaluate.judging.comparison import LOSS, TIE, WIN, Pair
from qilin_lib.evaluate.replies import ERROR, Reply

ZHONGJING = verdicts.preset("zhongjing")
SAYS = {WIN: "回答1更好", LOSS: "回答2更好", TIE: "平局"}


def pairs(n, seed=1, models=("甲", "乙")):
    draw = random.Random(seed)
    return [
        Pair(f"q{item}", "问", a, b, "好" * draw.randint(5, 60), "好" * draw.randint(5, 60))
        for item in range(n)
        for at, a in enumerate(models)
        for b in models[at + 1 :]
    ]


def judged_by(judge, games, name="judge"):
    return [comparison.record(game, name, judge(game)) for game in games]


def fair(probability=0.8, seed=3):
    """A judge that mostly sees the better answer: A's, in whatever order it comes."""
    draw = random.Random(seed)

    def judge(game):
        a_is_better = random.Random(game.pair.item).random() < 0.7
        says_a = a_is_better if draw.random() < probability else not a_is_better
        return Reply(SAYS[WIN if says_a == (game.order == "ab") else LOSS])

    return judge


def by_chance(seed=5):
    draw = random.Random(seed)
    return lambda game: Reply(SAYS[draw.choice((WIN, LOSS, TIE))])


def longer(game):
    a, b = len(game.pair.answer_a), len(game.pair.answer_b)
    first, second = (a, b) if game.order == "ab" else (b, a)
    return Reply(SAYS[TIE if first == second else WIN if first > second else LOSS])


@pytest.mark.parametrize(
    ("judge", "named"),
    [
        (fair(0.95), set()),
        (lambda game: Reply(SAYS[WIN]), {"first", "orders agree"}),
        (lambda game: Reply(SAYS[LOSS]), {"second", "orders agree"}),
        (longer, {"longer"}),
        (by_chance(), {"orders agree"}),
    ],
)
def test_the_controls_name_what_a_judge_follows(judge, named):
    found = comparison.controls(judged_by(judge, comparison.games(pairs(120), ZHONGJING)), 300, 1)
    assert {row.control for row in found.itertuples() if row.warning} == named


def test_a_judgment_is_kept_whole_and_an_error_is_no_verdict():
    first, second = comparison.games(pairs(1), ZHONGJING)
    kept = comparison.record(second, "judge", Reply("回答1更好"))
    assert (kept["verdict"], kept["order"], kept["parsed"], kept["raw"]) == (LOSS, "ba", True, "回答1更好")
    assert {*kept} >= {"item", "model_a", "model_b", "judge", "prompt_sha"}
    failed = comparison.record(first, "judge", Reply("回答1更好", ERROR, error="quota"))
    assert (failed["verdict"], failed["parsed"], failed["error"]) == (None, False, "quota")
    (row,) = comparison.comparison([kept, failed], 100, 1).to_dict("records")
    assert (row["unread"], row["n"], row["win_rate"]) == (1, 1, None)


def test_items_are_won_where_both_orders_say_so():
    says = {"q0": "11", "q1": "12", "q2": "21", "q3": "??", "q4": "00", "q5": "10"}
    words = {"1": SAYS[WIN], "2": SAYS[LOSS], "0": SAYS[TIE], "?": "不知道"}

    def judge(game):
        return Reply(words[says[game.pair.item]["ab ba".split().index(game.order)]])

    (row,) = comparison.comparison(judged_by(judge, comparison.games(pairs(6), ZHONGJING)), 200, 1).to_dict("records")
    assert [row[name] for name in comparison.OUTCOMES] == [1, 1, 1, 2, 1]
    assert row["win_rate"] == pytest.approx(100 * np.mean([0.5, 1, 0, 0.5, 0.75]))
    assert row["low"] < row["win_rate"] < row["high"]


def test_nothing_is_claimed_of_two_items():
    (row,) = comparison.comparison(judged_by(longer, comparison.games(pairs(2), ZHONGJING)), 200, 1).to_dict("records")
    assert row["low"] is row["high"] is row["length_controlled"] is None


def test_of_a_judge_that_cannot_be_read_every_model_has_a_row_without_a_number():
    three = pairs(5, models=("甲", "乙", "丙"))
    own = judged_by(lambda game: Reply("我不能评价。"), comparison.games(three, ZHONGJING))
    found = comparison.strengths(own, 100, 1)
    assert found["model"].tolist() == ["甲", "乙", "丙"] and found["strength"].isna().all()

    def spares_the_third(game):
        return Reply("不知道" if "丙" in (game.pair.model_a, game.pair.model_b) else SAYS[TIE])

    own = judged_by(spares_the_third, comparison.games(three, ZHONGJING))
    assert comparison.strengths(own, 100, 1)["strength"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize("verdict", [WIN, TIE])
def test_items_that_all_ended_alike_leave_room_for_others(verdict):
    def same(game):
        return Reply(SAYS[LOSS if verdict == WIN and game.order == "ba" else verdict])

    own = judged_by(same, comparison.games(pairs(20), ZHONGJING))
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
    biased = comparison.comparison(judged_by(longer, comparison.games(pairs(150), ZHONGJING)), 100, 1).iloc[0]
    assert biased["lc_low"] < 50 < biased["lc_high"]


def test_strengths_are_those_of_choix():
    own = judged_by(fair(), comparison.games(pairs(40, models=("甲", "乙", "丙")), ZHONGJING))
    frame = comparison.judged(own)
    names = ["甲", "乙", "丙"]
    half_wins = []
    for row in frame.itertuples():
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
    assert agreement.kappa(*hidden[:2]) == pytest.approx(cohen_kappa_score(*zip(*both, strict=True)))
    assert agreement.share_agreed(*hidden[:2]) == pytest.approx(100 * np.mean([a == b for a, b in both]))
    table = [[np.nan if value is None else value for value in row] for row in hidden]
    assert agreement.alpha(hidden) == pytest.approx(krippendorff.alpha(table, level_of_measurement="nominal"))
    assert agreement.kappa([1, 1], [1, 1]) is agreement.alpha([[1, 1], [1, None]]) is None


def test_judges_and_people_stand_side_by_side():
    games = [*comparison.games(pairs(30), ZHONGJING)]
    people = judged_by(fair(0.9, 1), games[::2], "human: 王") + judged_by(fair(0.9, 2), games[::2], "human: 李")
    found = comparison.agreement(people + judged_by(fair(0.9, 7), games, "model"))
    assert found["people"].tolist() == [2, 1, 1, 2]
    assert (found["n"] > 0).all() and found["alpha"].iloc[-1] > 0


def test_a_sheet_hides_who_wrote_and_comes_back(tmp_path):
    own = [Pair("q1", "</script><b>问", "甲", "乙", "答案一", "答案二"), Pair("q2", "问", "甲", "乙", "长" * 9, "短")]
    page, key = sheet.write(own, ZHONGJING, tmp_path, seed=3)
    text = page.read_text(encoding="utf-8")
    assert "甲" not in text and "乙" not in text and "q1" not in text and "</script><b>" not in text
    secret = sheet.read_json(key)
    verdict = {name: "first" if game["order"] == "ab" else "second" for name, game in secret["games"].items()}
    export = tmp_path / "export.json"
    sheet.write_json(export, {"sheet": secret["sheet"], "judge": "王", "verdicts": verdict})
    records = sheet.read(export, key)
    assert [one["verdict"] for one in records] == [WIN, WIN] and {one["judge"] for one in records} == {"human: 王"}
    assert {one["item"]: one["length"] for one in records} == {"q1": 0, "q2": 8}


@pytest.mark.parametrize(
    "fault",
    [
        {"sheet": "other"},
        {"verdicts": {"x": "first"}},
        {"verdicts": "good"},
        {"verdicts": None},
        {"verdicts": {"x": ["first"]}},
        {"judge": 3},
        [],
    ],
)
def test_a_file_of_another_sheet_or_with_other_words_is_refused(tmp_path, fault):
    _, key = sheet.write(pairs(1), ZHONGJING, tmp_path, seed=3)
    secret = sheet.read_json(key)
    if fault == {"verdicts": "good"}:
        fault = {"verdicts": dict.fromkeys(secret["games"], "good")}
    export = tmp_path / "export.json"
    whole = {"sheet": secret["sheet"], "judge": "", "verdicts": dict.fromkeys(secret["games"], "first")}
    sheet.write_json(export, whole | fault if fault else fault)
    with pytest.raises(sheet.QilinError, match="sheet|verdicts"):
        sheet.read(export, key)


def test_two_people_without_a_name_stay_two(tmp_path):
    _, key = sheet.write(pairs(1), ZHONGJING, tmp_path, seed=3)
    secret, judges = sheet.read_json(key), set()
    for name, verdict in (("monday", "first"), ("tuesday", "second")):
        whole = {"sheet": secret["sheet"], "judge": "", "verdicts": dict.fromkeys(secret["games"], verdict)}
        sheet.write_json(tmp_path / f"{name}.json", whole)
        judges |= {one["judge"] for one in sheet.read(tmp_path / f"{name}.json", key)}
    assert len(judges) == 2


def test_no_side_of_the_sheet_belongs_to_a_model(tmp_path):
    page, key = sheet.write(pairs(30), ZHONGJING, tmp_path, seed=3)
    orders = [game["order"] for game in sheet.read_json(key)["games"].values()]
    assert 5 < orders.count("ab") < 25 and set(orders) == {"ab", "ba"}
    assert '"order"' not in page.read_text(encoding="utf-8")
