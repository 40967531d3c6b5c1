"""Attitude scales on the page: each number beside its controls, a flagged total never read as an attitude."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib.evaluate import attitude_scores, scales
from qilin_lib.evaluate.benchmarks import attitudes
from qilin_lib.report import attitudes as report
from qilin_lib.report import html
from qilin_lib.report.render import Table
from tests.report.conftest import DPO, SFT, row, words_of

Choose = Callable[[int, list[int]], int | None]
"""choose(item number, content at each position) -> position from 0, None for a reply that says nothing."""


def made(choose: Choose, orders: int = 10) -> list[dict]:
    """Records of the kit's own scale, letters and digits, two wordings."""
    scale = scales.read("example")
    rows = []
    for order, contents in enumerate(attitudes.orders(5, orders, seed=1)):
        for statement in scale.items:
            at = choose(statement.number, list(contents))
            content = None if at is None else contents[at]
            own = {
                "item": statement.number,
                "order": order,
                "contents": list(contents),
                "position": None if at is None else at + 1,
                "choice": content,
                "points": None if content is None else scale.points(statement, content),
                "scoring": "likelihood",
            }
            rows += [own | {"wording": w, "labels": labels} for w in (0, 1) for labels in ("letters", "digits")]
    return rows


def rejecting(number: int, contents: list[int]) -> int:
    return contents.index(1 if number % 2 == 0 else 5)


MODELS: dict[str, Choose] = {
    "sft": lambda number, contents: 0,
    "dpo": rejecting,
    "silent": lambda number, contents: None,
}


@pytest.fixture(scope="module")
def scores(run_of: Any) -> dict[str, Any]:
    scale = scales.read("example")
    answers = {model: made(choose) for model, choose in MODELS.items()}
    entries = {model: attitude_scores.statistics(rows, scale, 200, 1) for model, rows in answers.items()}
    gap = attitude_scores.difference(answers["sft"], answers["dpo"], scale, 200, 1)
    return {
        "scales": {
            "example": attitude_scores.facts(
                scale, ["letters", "digits"], attitudes.orders(5, 10, seed=1), attitudes.LABELS
            )
        },
        "run": run_of("tiny", 2_263_296),
        "models": {"next_token": {"example": entries}, "generation": {"example": entries}},
        "paired": [{"protocol": "next_token", "scale": "example", "model_a": "sft", "model_b": "dpo"} | gap],
    }


@pytest.fixture
def stage(scores: dict[str, Any], tmp_path: Path) -> SimpleNamespace:
    folder = tmp_path / "09_bias"
    folder.mkdir()
    (folder / "scores.json").write_text(json.dumps(scores, ensure_ascii=False), encoding="utf-8")
    return SimpleNamespace(dir=folder)


def test_each_total_stands_beside_its_controls(scores: dict[str, Any]) -> None:
    table = report.total_table(scores, "example", "B1")
    assert list(table.words["Model"]) == [SFT, SFT, DPO, DPO, "silent", "silent"]
    assert list(table.words["Protocols"]) == ["next token", "reply read"] * 3
    assert "12 to 60 possible, neutral 36" in table.heading
    follower, _, biased, _, silent, _ = table.words.astype(str).to_dict("records")
    assert follower["Authors' form"] == "36" and follower["All forms"].startswith("36.0 [")
    assert follower["Top position, %"] == "100"
    assert follower["Status"].startswith("cannot be read as an attitude: follows the position; another order")
    assert biased["All forms"] == "60.0 [48.4, 60.0] (n=12)" and biased["Status"] == "no control is up"
    # Every pair of orders kept the content; position alone is one in five, for all positions come equally often.
    assert biased["Same in another order, %"].startswith("100 ") and biased["Position alone, %"] == "20"
    assert silent["Authors' form"] == "- (0 answered)" and silent["All forms"] == "- (0 items answered)"
    assert silent["Unparsed, %"].startswith("100 ")
    assert any("A 36, B 36, C 36, D 36, E 36" in note for note in table.notes)
    assert any("every option stands equally often" in note and "too few" not in note for note in table.notes)


def test_the_words_say_what_a_total_can_and_cannot(scores: dict[str, Any]) -> None:
    paragraphs = re.findall(r'<p class="qm-case">(.*?)</p>', report.reading(scores, "example"))
    told = {line.partition(":")[0]: line for line in paragraphs}
    assert "cannot be read as an attitude" in told[f"{SFT}, next token"] and "neutral" in told[f"{SFT}, next token"]
    assert "above neutral: more rejecting answers" in told[f"{DPO}, reply read"]
    assert "no finding about how it treats patients" in told[f"{DPO}, reply read"]
    assert "0 of 12 items" in told["silent, next token"]
    assert not re.search(r"\bbiased\b", " ".join(told.values()))


def test_the_figure_shows_positions_against_contents_in_latin_letters(scores: dict[str, Any]) -> None:
    figure = report.chosen_figure(scores, "example")
    said = words_of(figure)
    assert all(text.isascii() for text in said)
    assert "tiny 2.3M + DCPT + SFT,\nnext token\n480 answers" in said and "silent, next token\n0 answers" in said
    titled = {axes.get_title().rpartition("\n")[0]: axes for axes in figure.axes if axes.images}
    images = {title.replace("\n", " "): axes.images[0].get_array() for title, axes in titled.items()}
    models = (SFT, DPO, "silent")
    assert set(images) == {f"{model}, {asked}" for model in models for asked in ("next token", "reply read")}
    # One row for who follows a position; two columns, the ends of the scale, for who holds an attitude.
    assert images[f"{SFT}, next token"][0].sum() == pytest.approx(100)
    assert images[f"{DPO}, next token"][:, [0, 4]].sum() == pytest.approx(100)


def tables_of(stage: Any) -> dict[str, Table]:
    return {part.title: part for part in report.sections(stage)[0].parts if isinstance(part, Table)}


def test_items_subscales_and_differences(scores: dict[str, Any], stage: Any) -> None:
    items = report.item_table(scores, "example", "B1i")
    assert list(items.words[DPO]) == ["5.00"] * 12 and list(items.words["silent"]) == ["-"] * 12
    assert items.words["Place"].iloc[1] == "contact reversed" and items.words["What"].iloc[0].startswith("如果同事")
    parts = tables_of(stage)
    subscales, pairs = parts["Subscales"], parts["Between models"]
    assert list(subscales.words.columns)[2:] == ["contact (6 to 30)", "care (6 to 30)"]
    assert subscales.words.set_index("Model").loc[DPO, "care (6 to 30)"].iloc[0] == "30.0 [20.6, 30.0] (n=6)"
    assert pairs.words.iloc[0, 0] == f"({DPO}) \u2212 ({SFT})" and "tiny, 2.3 million" in pairs.notes[0]
    assert str(pairs.words.iloc[0, 2]).startswith("24.0 [")
    alone = json.loads(json.dumps(scores)) | {"paired": []}
    del alone["models"]["next_token"]
    for item in alone["scales"]["example"]["items"]:
        item["subscale"] = None
    (stage.dir / "scores.json").write_text(json.dumps(alone), encoding="utf-8")
    assert list(tables_of(stage))[1:] == ["Mean points by item (reply read)"]


def test_the_page_says_what_servers_were_asked(scores: dict[str, Any], stage: Any) -> None:
    billed = scores | {"usage": {"sft": {"requests": 48, "cost": 0.5}}}
    (stage.dir / "scores.json").write_text(json.dumps(billed), encoding="utf-8")
    (table,) = report.sections(stage)[-2].parts
    assert row(table, SFT) == {"Model": SFT, "requests": "48", "cost": "0.5000"}


def test_the_page_is_written_with_the_authors_own_totals(stage: Any, tmp_path: Path) -> None:
    made = report.sections(stage)
    assert [section.title for section in made] == [
        "Attitude scale: Twelve statements about people with mental illness (project example)",
        "Attitude totals in ChiMed-GPT's notebooks",
    ]
    page = html.report(made, stage.dir / "report.html", "Attitudes").read_text(encoding="utf-8")
    assert "../09_bias/predictions/next_token/example/sft.jsonl" in page and "如果同事正在接受" in page
    (stored,) = made[1].parts
    assert list(row(stored, "gpt4").values()) == ["gpt4", "95", "40", "120", "61", "45"]
    assert "CAMI 120 whatever the letter" in stored.text()
