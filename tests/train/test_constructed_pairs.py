"""Training data that is made: preference pairs by strategy, conversations as running text, shares of questions."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qilin_lib import files, params, runs, schema
from qilin_lib.errors import QilinError
from qilin_lib.params import ROOT
from qilin_lib.report import training
from qilin_lib.runs import Stage
from qilin_lib.tokens.pack import load_blocks, pack
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import construction, launch, questions
from qilin_lib.train import job as jobs
from qilin_lib.train.methods import dcpt

RULES = ROOT / "qilin_lib" / "sample" / "rules"
HEADACHE = construction.read_rule(RULES / "headache.yaml")


def talk(number: int, *texts: str, split: str = "train", part: str = "medical") -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"id": f"c{number}", "source": "a", "part": part, "split": split, "messages": messages}


ROWS = [
    *(talk(n, f"头痛{n}", "多久了？", "三天了", f"有没有呕吐{n}？", "没有", f"建议休息{n}。") for n in range(20)),
    *(talk(n, f"咳嗽{n}", f"建议多喝水{n}。") for n in range(20, 40)),
    talk(40, "头疼得厉害", "可以服用布洛芬，不用担心。"),
    talk(41, "头痛", "秘密", split="heldout"),
    talk(42, "头痛", "闲聊", part="general"),
]
WANTED = {"other_answer": 30, "broken_order": 8, "rule": 1000}


def made(seed: int = 1, **wanted: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return construction.construct(ROWS, wanted or WANTED, seed, 0.25, rules=[HEADACHE])


def text(row: dict[str, Any], side: str) -> str:
    return row[side][-1]["content"]


def test_the_same_seed_makes_the_same_pairs_and_no_strategy_moves_another() -> None:
    assert made() == made() and made()[0] != made(2)[0]
    alone = made(broken_order=8)[0]
    assert alone == [row for row in made()[0] if row["strategy"] == "broken_order"]


def test_every_pair_carries_its_strategy_and_is_counted() -> None:
    rows, counts = made()
    for name, count in counts.items():
        own = [row for row in rows if row["strategy"] == name == row["source"]]
        assert len(own) == count["used"] == min(count["wanted"], count["possible"])
        assert sum(row["split"] == "heldout" for row in own) == count["heldout"]
    assert counts["other_answer"]["used"] == 30 and counts["broken_order"]["used"] == 8
    assert counts["rule"]["possible"] == counts["rule"]["used"] > 0
    assert all(text(row, "chosen") != text(row, "rejected") for row in rows)


def test_a_conversation_is_held_out_with_all_its_pairs_and_what_sft_holds_out_is_not_read() -> None:
    sides: dict[str, set[str]] = {}
    for row in made()[0]:
        sides.setdefault(row["id"].rsplit("-", 1)[1], set()).add(row["split"])
        assert "秘密" not in str(row) and "闲聊" not in str(row)
    assert {len(own) for own in sides.values()} == {1}
    assert set.union(*sides.values()) == {"train", "heldout"}


def test_an_other_answer_is_of_another_conversation() -> None:
    own = {turn["content"]: row["id"] for row in ROWS for turn in row["messages"] if turn["role"] == "assistant"}
    for row in made(other_answer=99)[0]:
        origin = row["id"].rsplit("-", 1)[1]
        assert own[text(row, "rejected")] != origin or text(row, "rejected") == "多久了？"


def breaks_by_hand(prompt: list[dict[str, str]], reply: str) -> bool:
    """Written from the rule's sentences alone: advice before all was told or asked, vomiting asked before the place."""
    told = "".join(turn["content"] for turn in prompt)
    before = ("天" in told or "久" in told) and "部位" in told
    if reply.endswith("？"):
        return "呕吐" in reply and not before
    return not (before and "呕吐" in told) and ("建议" in reply or "服用" in reply)


def test_what_a_rule_rejects_breaks_it_and_what_it_prefers_does_not() -> None:
    rows = made(rule=99)[0]
    assert {"c40"} < {row["id"].rsplit("-", 1)[1] for row in rows}
    for row in rows:
        assert breaks_by_hand(row["prompt"], text(row, "rejected")), row
        assert not breaks_by_hand(row["prompt"], text(row, "chosen")), row
        assert HEADACHE.violation(row["prompt"], text(row, "rejected"))
        assert not HEADACHE.violation(row["prompt"], text(row, "chosen"))


@pytest.mark.parametrize(
    ("prompt", "reply", "violation"),
    [
        (["头痛"], "建议休息。", "advises (建议) before duration"),
        (["头痛"], "请问头痛有多久了？", ""),
        (["头痛"], "有没有呕吐？", "asks warning signs before duration"),
        (["头痛三天了"], "哪个部位疼？", ""),
        (["头痛三天了，一侧跳痛，没有呕吐"], "建议休息。", ""),
        (["头痛"], "您好。", ""),
    ],
)
def test_a_rule_file_in_the_sample_says_what_it_says(prompt: list[str], reply: str, violation: str) -> None:
    turns = [{"role": "user", "content": one} for one in prompt]
    assert HEADACHE.applies(turns) and HEADACHE.violation(turns, reply) == violation


def test_the_reward_s_best_stands_against_its_worst() -> None:
    asked = [{"role": "user", "content": "咳嗽21"}]
    pool = [
        {"id": name, "prompt": asked, "answer": answer, "reward": reward}
        for name, answer, reward in (
            ("c21", "好", 2.0), ("c21", "中", 1.0), ("c21", "差", -1.0), ("c22", "同", 1.0), ("c22", "同", 0.0),
            ("c21", " ", -9.0), ("c41", "甲", 1.0), ("c41", "乙", 0.0),
        )
    ]  # fmt: skip
    (row,), counts = construction.construct(ROWS, {"reward_ranked": 9}, 1, 0.0, pool=pool)
    assert (text(row, "chosen"), text(row, "rejected")) == ("好", "差") and counts["reward_ranked"]["possible"] == 1


def test_the_base_model_is_asked_no_more_than_wanted() -> None:
    seen: list[int] = []

    def answer(prompts: list[Any]) -> list[str]:
        seen.append(len(prompts))
        return ["", *("啊" for _ in prompts[1:])]

    rows, counts = construction.construct(ROWS, {"base_answer": 5}, 1, 0.0, answer=answer)
    assert seen == [5] and len(rows) == counts["base_answer"]["used"] == 4
    assert {text(row, "rejected") for row in rows} == {"啊"}


def test_accuracy_is_shown_by_strategy() -> None:
    scores = {"strategy": ["rule", "given", "rule"], "tokens_chosen": [1, 1, 1]}
    scores |= {f"reference_{side}": [0.0, 0.0, 0.0] for side in ("chosen", "rejected")}
    scores |= {"policy_chosen": [1.0, 0.0, 0.0], "policy_rejected": [0.0, 1.0, -1.0]}
    frame = training.by_strategy(scores).words.set_index("Strategy")["reward accuracy, percent"]
    # No interval below three pairs.
    assert frame.tolist() == ["100.0 (n=2)", "0.0 (n=1)"]
    assert "No pair was constructed" in repr(training.by_strategy({"tokens_chosen": [1]}))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"strategies": {"rule": 5}}, "strategy rule needs rules; nearest valid"),
        ({"strategies": {"reward_ranked": 5}}, "needs pool"),
        ({"strategies": {"ruel": 5}}, "did you mean 'rule'|rule"),
        ({"strategies": {"rule": 0}, "rules": ["x"]}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_constructed_is_a_sentence(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(QilinError, match=reason):
        params.load("05_dpo", {"constructed": given})


def test_a_stage_makes_its_pairs_once_in_a_process_of_its_own(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], *_: Any) -> None:
        commands.append(command)
        path, *phases = command[3:]
        jobs.main(path, *phases)

    monkeypatch.setattr(launch, "run", run)
    chimed = tmp_path / "01_build_chimed"
    files.write_jsonl(chimed / "sft.jsonl", ROWS)
    files.write_jsonl(chimed / "dpo.jsonl", [made(broken_order=1)[0][0] | {"id": "given", "split": "heldout"}])
    files.write_json(tmp_path / "02_tokenize" / "base.json", {"path": str(tiny_model_dir), "template": "baichuan"})
    wanted = {"strategies": {"base_answer": 2, "other_answer": 3}, "given": True}
    given = {"constructed": wanted, "max_target_length": 8, "nproc_per_node": 2}
    stage = Stage(params.load("05_dpo", given), tmp_path, "key", {}, False)
    path = construction.prepare(stage)
    rows, counts = list(files.read_jsonl(path)), files.read_json(path.with_name("facts.json"))
    assert [row["strategy"] for row in rows].count("base_answer") == counts["base_answer"]["used"] <= 2
    assert rows[0]["id"] == "given" and counts["given"] == {"used": 1, "heldout": 1}
    assert counts["other_answer"]["used"] == 3 and len(rows) == 4 + counts["base_answer"]["used"]
    assert construction.prepare(stage) == path and len(commands) == 1 and "torch" not in " ".join(commands[0])


def test_a_question_that_leaves_no_room_for_the_base_model_s_answer_is_left_out_and_counted(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model reads 512 tokens, 500 of which its answer may take."""
    asked: list[int] = []

    def answers(_: Any, __: Any, prompts: list[list[int]], most: int) -> dict[str, list[str]]:
        asked.extend(len(ids) + most for ids in prompts)
        return {"texts": ["啊" for _ in prompts]}

    monkeypatch.setattr(construction.behaviour, "answers", answers)
    files.write_jsonl(tmp_path / "sft.jsonl", [talk(1, "咳嗽", "多喝水。"), talk(2, "头痛怎么办" * 90, "休息。")])
    constructed = {"strategies": {"base_answer": 2}, "heldout_share": 0.0, "given": False}
    given = {"constructed": constructed, "max_source_length": 400, "max_target_length": 500}
    job = SimpleNamespace(parameters=params.load("05_dpo", given), out=tmp_path / "out", template=BAICHUAN)
    job.parameters = SimpleNamespace(**job.parameters.model_dump(mode="json"))
    job.paths = SimpleNamespace(base=tiny_model_dir, sft=tmp_path / "sft.jsonl", dpo=None)
    construction.work(job)
    assert [row["id"] for row in files.read_jsonl(job.out / "pairs.jsonl")] == ["base_answer-0-c1"]
    assert len(asked) == 1 and asked[0] <= 512
    assert files.read_json(job.out / "facts.json")["base_answer"] == {
        "wanted": 2, "possible": 1, "used": 1, "heldout": 0, "too_long": 1,
    }  # fmt: skip


def test_files_from_outside_are_named_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    settings = schema.Constructed(strategies={"rule": 1, "reward_ranked": 1}, rules=["a.yaml"], pool="r")
    with pytest.raises(QilinError, match="constructed.pool = 'r': no pool of 08 there"):
        construction.outside(settings)
    files.write_jsonl(tmp_path / "r" / "08_rlhf" / "rejection" / "round1" / "pool.jsonl", [])
    assert {kind: list(paths) for kind, paths in construction.outside(settings).items()} == {
        "rules": ["a.yaml"],
        "pool": ["round1"],
    }
    with pytest.raises(QilinError, match="a.yaml: no file; nearest valid: .*headache.yaml"):
        construction.read_rule(tmp_path / "a.yaml")
    files.write_text(tmp_path / "a.yaml", "disease: x\nkeywords: [y]\nsteps: []\nadvice: [z]\n")
    with pytest.raises(QilinError, match="a.yaml: steps"):
        construction.read_rule(tmp_path / "a.yaml")


# --- conversations as running text, and questions ---------------------------------------------------------------------


ASKED, ANSWERED = {"role": "user", "content": "头痛怎么办"}, {"role": "assistant", "content": "多休息"}
TALKS = [
    {"id": str(n), "source": "a", "split": "heldout" if n < 2 else "train", "messages": [ASKED, ANSWERED]}
    for n in range(12)
]


def test_a_seeded_share_of_what_is_held_out_nowhere_is_drawn() -> None:
    half = dcpt.drawn(TALKS, {"5"}, 0.5, 1)
    assert half == dcpt.drawn(TALKS, {"5"}, 0.5, 1) != dcpt.drawn(TALKS, {"5"}, 0.5, 2)
    assert len(half) == 4 and {row["id"] for row in half} <= {str(n) for n in range(2, 12)} - {"5"}
    assert len(dcpt.drawn(TALKS, {"5"}, 1.0, 1)) == 9


def test_a_conversation_is_written_as_01_writes_it() -> None:
    rows = [TALKS[5], {**TALKS[6], "messages": [ASKED, ANSWERED, ASKED]}]
    plain, named = (row["text"] for row in dcpt.drawn(rows, set(), 1.0, 1))
    assert (plain, named) == ("头痛怎么办\n多休息", "患者：头痛怎么办\n医生：多休息\n患者：头痛怎么办")


@pytest.fixture
def stage(tmp_path: Path) -> SimpleNamespace:
    files.write_jsonl(tmp_path / "01_build_chimed" / "sft.jsonl", TALKS)
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
    # As a kill between the two files leaves it.
    (stage.dir / "instructions.json").unlink()
    assert dcpt.prepare(stage, tiny_model_dir) and files.read_json(stage.dir / "instructions.json") == said
    stage.parameters.instructions_as_text = 0.01
    (stage.dir / "instructions.json").unlink()
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
        "发烧吗？多久了",
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


@pytest.mark.parametrize("text", ["怎么 " * 3000 + "。", "阿 " * 9000, "头痛\n" * 9000])
def test_a_long_turn_takes_no_time(text: str) -> None:
    started = time.perf_counter()
    assert not questions.is_question(text) and time.perf_counter() - started < 1


def rows(*kinds: str) -> list[list[dict[str, str]]]:
    """One conversation per word: a letter per assistant turn, q asks and a advises."""
    said = {"q": "多久了？", "a": "多休息。"}
    return [[{"role": "assistant", "content": said[kind]} for kind in word] for word in kinds]


def test_conversations_are_left_out_until_the_share_is_reached() -> None:
    often = np.array([1, 2, 1, 1, 1, 1, 0])
    drawn, said = questions.drawn(rows("q", "qa", "a", "a", "a", "aa", "q"), often, 0.5, 1)
    asked, turns = drawn @ [1, 1, 0, 0, 0, 0, 1], drawn @ [1, 2, 1, 1, 1, 2, 1]
    assert said["before"] == 3 / 10 and said["after"] == asked / turns >= 0.5 and said["wanted"] == 0.5
    assert drawn[:2].tolist() == [1, 2] and drawn[6] == 0, "what asks stays, as often as it was drawn"
    assert said["left_out"] == int((drawn[:6] == 0).sum())
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
