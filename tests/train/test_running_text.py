"""SFT's conversations among DCPT's documents: which, in what words, and that their blocks are trained on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from qilin_lib import files, runs
from qilin_lib.errors import QilinError
from qilin_lib.tokens.pack import load_blocks, pack
from qilin_lib.train import questions
from qilin_lib.train.methods import dcpt

ASKED, ANSWERED = {"role": "user", "content": "头痛怎么办"}, {"role": "assistant", "content": "多休息"}
ROWS = [
    {"id": str(n), "source": "a", "split": "heldout" if n < 2 else "train", "messages": [ASKED, ANSWERED]}
    for n in range(12)
]


def test_a_seeded_share_of_what_is_held_out_nowhere_is_drawn() -> None:
    half = dcpt.drawn(ROWS, {"5"}, 0.5, 1)
    assert half == dcpt.drawn(ROWS, {"5"}, 0.5, 1) != dcpt.drawn(ROWS, {"5"}, 0.5, 2)
    assert len(half) == 4 and {row["id"] for row in half} <= {str(n) for n in range(2, 12)} - {"5"}
    assert len(dcpt.drawn(ROWS, {"5"}, 1.0, 1)) == 9


def test_a_conversation_is_written_as_01_writes_it() -> None:
    rows = [ROWS[5], {**ROWS[6], "messages": [ASKED, ANSWERED, ASKED]}]
    plain, named = (row["text"] for row in dcpt.drawn(rows, set(), 1.0, 1))
    assert (plain, named) == ("头痛怎么办\n多休息", "患者：头痛怎么办\n医生：多休息\n患者：头痛怎么办")


@pytest.fixture
def stage(tmp_path: Path) -> SimpleNamespace:
    files.write_jsonl(tmp_path / "01_build_chimed" / "sft.jsonl", ROWS)
    files.write_json(tmp_path / "02_tokenize" / "packing.json", {"block_size": 16, "packing": "isolated"})
    for name, held in (("cpt", [{"id": "5"}]), ("general", [])):
        files.write_jsonl(tmp_path / "02_tokenize" / f"{name}_heldout.jsonl", held)
    (tmp_path / "03_dcpt").mkdir()
    parameters = SimpleNamespace(instructions_as_text=1.0, seed=1)
    return SimpleNamespace(
        parent=lambda name: tmp_path / name, dir=tmp_path / "03_dcpt", parameters=parameters, run=runs.Run(tmp_path)
    )


def test_their_blocks_hold_every_token_once(stage: SimpleNamespace, tiny_model_dir: Path, tiny_tokenizer) -> None:
    made = load_blocks(dcpt.prepare(stage, tiny_model_dir))
    said = files.read_json(stage.dir / "instructions.json")
    ids = tiny_tokenizer("头痛怎么办\n多休息", add_special_tokens=False)["input_ids"]
    assert said["conversations"] == 9 and said["of"] == 12 and said["tokens"] == 9 * len(ids)
    assert made.ids.ravel()[: len(ids) + 1].tolist() == [*ids, tiny_tokenizer.eos_token_id]
    assert made.useful_tokens == said["tokens_with_loss"]
    stage.parameters.instructions_as_text = 0.01
    (stage.dir / "instructions.npy").unlink()
    with pytest.raises(QilinError, match="none of the 12 conversations .* nearest valid: 0.0"):
        dcpt.prepare(stage, tiny_model_dir)


def test_both_are_read_as_one() -> None:
    one, other = (pack([[n] * 5 for n in numbers], 4, 0, 0) for numbers in ((1, 2), (3,)))
    whole = np.concatenate([one.ids, other.ids])
    assert dcpt.learnable(one, other) == list(range(len(whole)))
    batch = dcpt.stack([len(whole) - 1, 0, 1], one, other)
    assert np.array_equal(batch["input_ids"], whole[[-1, 0, 1]]) and batch["labels"].shape == (3, 4)


@pytest.mark.parametrize(
    "text",
    [
        "多大年纪了？",
        "您好，发烧几天了",
        "有没有对药物过敏？”",
        "哪里疼",
        "建议查血。之前吃过什么药",
        "月经是否规律 ",
        "Any pain?",
    ],
)
def test_a_turn_that_ends_in_a_question_is_one(text: str) -> None:
    assert questions.is_question(text)


@pytest.mark.parametrize(
    "text",
    ["建议多喝水。", "疼吗？那就先休息，明天复查。", "什么都可以吃。", "", "不必担心", "您问的是什么药？是阿莫西林。"],
)
def test_a_turn_that_ends_in_advice_is_none(text: str) -> None:
    assert not questions.is_question(text)


def rows(*kinds: str) -> list[list[dict[str, str]]]:
    """One conversation per word: a letter per assistant turn, q asks and a advises."""
    said = {"q": "多久了？", "a": "多休息。"}
    return [[{"role": "assistant", "content": said[kind]} for kind in word] for word in kinds]


def test_conversations_are_left_out_until_the_share_is_reached() -> None:
    often = np.array([1, 2, 1, 1, 1, 1, 0])
    drawn, said = questions.drawn(rows("q", "qa", "a", "a", "a", "aa", "q"), often, 0.5, 1)
    assert said["before"] == 2 / 8 and said["after"] >= 0.5 and said["wanted"] == 0.5
    assert drawn[:2].tolist() == [1, 2] and drawn[6] == 0, "what asks stays, as often as it was drawn"
    assert said["left_out"] == int((drawn[:6] == 0).sum()) == 3
    again, _ = questions.drawn(rows("q", "qa", "a", "a", "a", "aa", "q"), often, 0.5, 1)
    assert np.array_equal(drawn, again)


@pytest.mark.parametrize(("wanted", "left"), [(0.0, {"a"}), (1.0, {"q"}), (0.5, {"q", "a"})])
def test_both_directions(wanted: float, left: set[str]) -> None:
    kinds = ["q", "q", "a", "a"]
    kept = questions.chosen(np.array([questions.counted(one) for one in rows(*kinds)]), wanted, 3)
    assert {kind for kind, own in zip(kinds, kept, strict=True) if own} == left


def test_a_share_that_no_choice_has_is_refused() -> None:
    with pytest.raises(QilinError, match=r"question_share = 0.5: among 2 turns 0 are questions.*nearest valid: null"):
        questions.drawn(rows("a", "a"), np.array([1, 1]), 0.5, 1)
