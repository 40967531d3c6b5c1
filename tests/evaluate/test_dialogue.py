"""Dialogues turn by turn: forms, prompts, statistics, and that nothing is asked which notebook 01 trains on."""

from __future__ import annotations

import json
import math
import os
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.writer import Writer

from qilin_lib import sample
from qilin_lib.chimed import sources
from qilin_lib.chimed.build import build_sets
from qilin_lib.chimed.clean import clean
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.benchmarks import dialogue, huatuo, prepare
from qilin_lib.evaluate.items import Item, Reading
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.replies import Reply
from qilin_lib.evaluate.scores import summarise
from qilin_lib.files import hashes
from qilin_lib.params import load

SHARES = {"heldout_share_cpt": 0.2, "heldout_share_sft": 0.5, "heldout_share_general": 0.2}
ILLS = "头痛 腹痛 咳嗽 失眠 皮疹 腰酸 耳鸣 鼻塞 心慌 便秘 腹泻 口干 脱发 盗汗 眩晕 胸闷 手麻 眼涩 牙疼 乏力".split()
HERBS = "清淡饮食 多饮温水 早睡早起 按时复查 适量运动 保暖避风 少食辛辣 热敷患处 放松心情 减少熬夜".split()


def cmtmedqa(number: int, turns: int = 2) -> dict[str, Any]:
    """A dialogue of its own words, so that no two are near-duplicates; `turns` exchanges before the last."""
    ill = ILLS[number % len(ILLS)]

    def told(place: int) -> str:
        words = random.Random(f"{number} {place}").sample(HERBS, 5)
        return f"第{number}号患者的{ill}，第{place}次回复：{'，'.join(words)}，编号{number * 7919 % 9973}再看{place}。"

    history = [[f"{ill}已经{number + place}天，先说情况{place}，{HERBS[place]}", told(place)] for place in range(turns)]
    return {
        "id": f"j{number}", "instruction": f"那{ill}还要注意哪些，{number}天后怎么办？", "input": "",
        "output": told(99), "history": history,
    }  # fmt: skip


def put_json(path: Path, rows: Any, indent: int | None = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=indent), encoding="utf-8")
    return path


def put_mc(folder: Path, *blocks: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chunyu.txt").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return folder


def made(raw: Path, out: Path, **changes: Any) -> Path:
    parameters = load(
        "01_build_chimed", {"workers": 1, "max_records_per_source": None, "seed": 17, **SHARES, **changes}
    )
    build_sets(parameters, raw, out, progress=lambda line: None)
    return out


def asked_of(name: str, folder: Path, built: Path | None) -> Reading:
    """What is asked, which is never trained on, and what is not."""
    items, invalid = dialogue.dialogue_items(name, folder, Lineage(built, [folder]))
    texts = learned(built) if built else ""
    assert not any(item.question in texts or item.reference in texts for item in items)
    return items, invalid


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def learned(built: Path) -> str:
    """All text of the training splits of CPT and SFT: read without any of the code under test."""
    rows = [row for name in ("cpt", "sft") for row in lines(built / f"{name}.jsonl") if row["split"] == "train"]
    return "\n".join(row.get("text") or "\n".join(turn["content"] for turn in row["messages"]) for row in rows)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    put_json(tmp_path / "raw/cmtmedqa/a.json", [cmtmedqa(number) for number in range(30)])
    return tmp_path / "raw"


# --- reading ----------------------------------------------------------------------------------------------------------


def test_mc_joins_turns_and_lists_what_it_cannot_use(tmp_path: Path):
    folder = put_mc(
        tmp_path / "mc",
        "id\t7\nP\t头痛三天\nP\t还恶心\nD\t量过血压吗\nP\t没有\nD\t先量血压\nD\t再来复诊",
        "id\t8\nD\t您好\nP\t您好",
        "id\t9\nP\t在吗",
        "id\t10\nP\t咳嗽\nD\t多久了\nP\t两天",
        "id\t11\nP\t咳嗽\nN\t护士说的\nD\t两天",
        "id\t7\nP\t又来了\nD\t您说",
        "id\t12\nP\t腹痛\nD 忘了制表符",
        "id\t\nP\t没有编号\nD\t嗯",
    )
    items, invalid = asked_of("mc", folder, None)
    assert [(item.id, item.history, item.question, item.reference, item.split) for item in items] == [
        ("7", (("头痛三天\n还恶心", "量过血压吗"),), "没有", "先量血压\n再来复诊", "test")
    ]
    assert [(row["line"], row["detail"]) for row in invalid] == [
        (9, "the assistant speaks first: 您好"),
        (13, "no answer: 在吗"),
        (16, "the dialogue does not end with the doctor"),
        (21, "unknown speaker: N"),
        (26, "id 7 came before"),
        (30, "unknown speaker: D 忘了制表符"),
        (34, "no id: line 34"),
    ]
    assert {(row["source"], row["set"], row["file"]) for row in invalid} == {("mc", "eval", "chunyu.txt")}


def test_a_reference_is_cleaned_as_training_text_is(tmp_path: Path):
    rows = [
        cmtmedqa(1) | {"output": "先量血压。<br>见<a href='x'>说明</a>&nbsp;再说"},
        cmtmedqa(2) | {"output": "<br>"},
    ]
    items, invalid = asked_of("cmtmedqa", put_json(tmp_path / "cmtmedqa/a.json", rows).parent, None)
    assert [item.reference for item in items] == [clean(rows[0]["output"])] and "<" not in items[0].reference
    assert [row["detail"] for row in invalid] == ["nothing is left of the doctor's answer once it is cleaned"]


# --- prompts and records ----------------------------------------------------------------------------------------------

ITEM = Item(
    "mc", "1", "unused", None, "第三问", None, None, "第三答", history=(("第一问", "第一答"), ("第二问", "第二答"))
)


def task(new: int) -> dialogue.Dialogues:
    return dialogue.Dialogues("mc", "fixed", "test", None, [], [], {"max_new_tokens": new}, "char")


@pytest.mark.parametrize(
    ("spare", "kept", "truncated"),
    [(0, ["第一问", "第一答", "第二问", "第二答", "第三问"], False), (-1, ["第二问", "第二答", "第三问"], True)]
    + [(-15, ["第三问"], True)],
)
def test_a_dialogue_is_given_turn_by_turn_the_oldest_exchange_goes_first_and_whole_and_it_is_said(
    spare: int, kept: list[str], truncated: bool, tokenizer: Any, template: Any
):
    turns = [text for exchange in ITEM.history for text in exchange]
    spoken = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate([*turns, ITEM.question])]
    whole = len(template.encode(spoken, tokenizer, add_generation_prompt=True))
    backend = SimpleNamespace(context=whole + 7 + spare, tokenizer=tokenizer, template=template)
    backend.generate = lambda given, new: [Reply(f"{len(prompt.ids)} {new}") for prompt in given]
    (prompt,) = task(7).prompts([ITEM], backend, 5)
    assert prompt.messages == spoken[-len(kept) :] and [turn["content"] for turn in prompt.messages] == kept
    exchanges = len(kept) // 2
    assert (prompt.shots, prompt.truncated, prompt.shared, prompt.reply_prefix) == (exchanges, truncated, 0, "")
    assert prompt.ids == template.encode(prompt.messages, tokenizer, add_generation_prompt=True)
    (record,) = task(7).answer([ITEM], [prompt], backend)
    about = {"finish": "stop", "exchanges": 2, "exchanges_kept": exchanges}
    assert record == {"output": f"{len(prompt.ids)} 7", **about}


def test_statistics_are_huatuos_and_by_length_of_the_context():
    records = [
        {"output": "先量血压再看", "reference": "先量血压", "exchanges": exchanges} for exchanges in (4, 0, 1, 3, 0, 7)
    ]
    records[1]["output"] = "不知道"
    table = summarise(dialogue.statistics(records), 50, 1)
    plain = summarise(huatuo.statistics(records), 50, 1)
    assert {name: table[name] for name in plain} == plain and "variants" in plain
    assert {name: part["rouge_l"]["n"] for name, part in table["exchanges"].items()} == {"0": 2, "1": 1, "3 or more": 3}
    alone = summarise(huatuo.statistics([record for record in records if record["exchanges"] == 0]), 50, 1)
    assert table["exchanges"]["0"] == {name: alone[name] for name in ("bleu_1", "bleu_4", "rouge_l")}


# --- what was trained on ----------------------------------------------------------------------------------------------


def test_only_what_neither_cpt_nor_sft_trains_on_is_asked(raw: Path, tmp_path: Path):
    built = made(raw, tmp_path / "out")
    items, invalid = asked_of("cmtmedqa", raw / "cmtmedqa", built)
    rows = {row["id"]: row for row in lines(built / "sft.jsonl")}
    assert len(rows) == 30 and 0 < len(items) < 30
    assert all(row["excerpt"] in learned(built) and row["reason"] == "in the training split" for row in invalid)
    assert len(items) + len(invalid) == 30 and {item.split for item in items} == {"heldout"}
    # Shares differ: some are held out of SFT and trained on in CPT.
    assert {item.id for item in items} < {own for own, row in rows.items() if row["split"] == "heldout"}
    for item in items:
        assert [turn["content"] for turn in rows[item.id]["messages"][-2:]] == [item.question, item.reference]


def test_a_near_duplicate_of_what_is_trained_on_is_not_asked(raw: Path, tmp_path: Path):
    twins = [row | {"output": row["output"] + "谢谢"} for row in map(cmtmedqa, range(12))]
    # All on one line, so that a place says nothing of which dialogue it is.
    put_json(raw / "cmtmedqa/b.json", twins, indent=None)
    built = made(raw, tmp_path / "out")
    dropped = [row for row in lines(built / "dropped.jsonl") if row["reason"] == "duplicate" and row["set"] == "sft"]
    items, invalid = asked_of("cmtmedqa", raw / "cmtmedqa", built)
    assert len(dropped) == 12 and len(items) + len(invalid) == 42
    assert {row["reason"] for row in invalid} == {"in the training split"}


def test_a_duplicate_of_another_source_is_known_by_its_keeper(tmp_path: Path):
    copied = [cmtmedqa(number, 0) for number in range(12)]
    # MedDialog comes before CMtMedQA, so that it keeps what both have.
    chats = [[f"病人：{row['instruction']}", f"医生：{row['output']}"] for row in copied]
    put_json(tmp_path / "raw/meddialog_cn/a.json", chats)
    put_json(tmp_path / "raw/cmtmedqa/a.json", copied)
    built = made(tmp_path / "raw", tmp_path / "out")
    items, invalid = asked_of("cmtmedqa", tmp_path / "raw/cmtmedqa", built)
    assert not any(row["id"].startswith("cmtmedqa") for row in lines(built / "sft.jsonl"))
    assert items and invalid and all(row["excerpt"] in learned(built) for row in invalid)


def test_what_was_de_identified_is_known_too(raw: Path, tmp_path: Path):
    rows = [row | {"instruction": row["instruction"] + "我的电话13912345678"} for row in map(cmtmedqa, range(30))]
    put_json(raw / "cmtmedqa/a.json", rows)
    built = made(raw, tmp_path / "out")
    items, invalid = asked_of("cmtmedqa", raw / "cmtmedqa", built)
    assert "13912345678" not in learned(built) and len(items) + len(invalid) == 30
    replies = [rows[int(row["detail"].split()[0].split("-")[1]) - 1]["output"] for row in invalid]
    assert replies and all(reply in learned(built) for reply in replies)


@pytest.mark.parametrize(
    ("left_out", "unused"), [({"sources": ["meddialog_cn"]}, 30), ({"max_records_per_source": 10}, 20)]
)
def test_what_notebook_01_left_out_is_asked(raw: Path, tmp_path: Path, left_out: dict, unused: int):
    put_json(raw / "meddialog_cn/a.json", [["病人：头痛三天怎么办", "医生：先量血压再说"]])
    items, invalid = asked_of("cmtmedqa", raw / "cmtmedqa", made(raw, tmp_path / "out", **left_out))
    splits = Counter(item.split for item in items)
    assert splits["unused"] == unused and splits["heldout"] + len(invalid) == 30 - unused


def test_a_copy_of_a_training_dialogue_in_mc_is_not_asked(raw: Path, tmp_path: Path):
    built = made(raw, tmp_path / "out")
    rows = [cmtmedqa(number) for number in range(30)]
    talks = []
    for number, row in enumerate(rows):
        turns = [*(text for pair in row["history"] for text in pair), row["instruction"], row["output"]]
        turns[0] += "　" * (number % 2)  # what cleaning takes away makes no other dialogue of it
        talks.append("\n".join([f"id\t{number}", *(f"{'PD'[at % 2]}\t{turn}" for at, turn in enumerate(turns))]))
    folder = put_mc(tmp_path / "raw2/mc", *talks, "id\t99\nP\t与别人无关的问题\nD\t与别人无关的回答")
    items, invalid = asked_of("mc", folder, built)
    new = {str(n) for n, row in enumerate(rows) if row["output"] not in learned(built)}
    assert len(items) + len(invalid) == 31 and {item.id for item in items} == new | {"99"}


def test_a_pair_of_dpo_is_trained_on_too(raw: Path, tmp_path: Path):
    better = "另一个更好的回答是先去看医生再说。"
    rows = [cmtmedqa(number) for number in range(30)]
    pairs = [{"instruction": row["instruction"], "output": [better, row["output"]]} for row in rows]
    put_json(raw / "zhongjing_rlhf/rlhf.json", pairs)
    held, trained = (
        asked_of("cmtmedqa", raw / "cmtmedqa", made(raw, tmp_path / str(share), heldout_share_dpo=share))
        for share in (0.99, 0.0)
    )
    assert held[0] and not trained[0] and len(trained[1]) == 30


def test_cmtmedqas_test_file_is_asked_and_not_trained_on(raw: Path, tmp_path: Path):
    put_json(raw / "cmtmedqa/CMtMedQA_test.json", [cmtmedqa(number) for number in range(20, 36)])
    built = made(raw, tmp_path / "out")
    items, invalid = asked_of("cmtmedqa", raw / "cmtmedqa", built)
    assert [item.id for item in items] == [f"cmtmedqa-test-{n:06d}" for n in range(1, 17)] and not invalid
    assert {item.split for item in items} == {"test"}
    # Ten of them stand among the training dialogues too: those 01 took out.
    dropped = {row["reason"] for row in lines(built / "dropped.jsonl") if row["source"] == "cmtmedqa"}
    assert dropped == {"contaminated"} and len(lines(built / "sft.jsonl")) == 20
    # Without decontamination such a dialogue is not asked.
    built = made(raw, tmp_path / "with", decontaminate=False, heldout_share_cpt=0.0, heldout_share_sft=0.0)
    items, invalid = asked_of("cmtmedqa", raw / "cmtmedqa", built)
    assert (len(items), len(invalid)) == (6, 10) and all(row["excerpt"] in learned(built) for row in invalid)


def test_other_files_than_those_of_the_build_are_refused(raw: Path, tmp_path: Path):
    built = made(raw, tmp_path / "out")
    inputs = {"raw": hashes(sources.files_read(raw))}
    (built / "manifest.json").write_text(json.dumps({"inputs": inputs}), encoding="utf-8")
    assert len(asked_of("cmtmedqa", raw / "cmtmedqa", built)[0]) > 0
    put_json(raw / "cmtmedqa/a.json", [cmtmedqa(number) for number in range(1, 30)])
    with pytest.raises(QilinError, match="is not what 01_build_chimed read as cmtmedqa/a.json; run notebook 01 again"):
        asked_of("cmtmedqa", raw / "cmtmedqa", built)


@pytest.mark.parametrize("name", ["cpt", "sft", "dpo", "dropped"])
def test_a_build_that_cannot_say_what_it_trained_on_is_refused(name: str, raw: Path, tmp_path: Path):
    built = made(raw, tmp_path / "out")
    (built / f"{name}.jsonl").unlink()
    with pytest.raises(QilinError, match=f"has no {name}.jsonl, so what was trained on is not known"):
        asked_of("cmtmedqa", raw / "cmtmedqa", built)


def test_the_task_with_a_limit_and_with_nothing_left(raw: Path, tmp_path: Path):
    params: Any = SimpleNamespace(
        max_items_further=3, perplexity=False, max_new_tokens_dialogue=9, tokenisation="char", seed=1
    )
    task = dialogue.read("cmtmedqa", raw / "cmtmedqa", params, Lineage(None, [raw / "cmtmedqa"]))[0]
    assert (len(task.items), task.cap, task.settings, task.likelihood) == (3, 3, {"max_new_tokens": 9}, False)
    built = made(raw, tmp_path / "out", heldout_share_cpt=0.0, heldout_share_sft=0.0)
    empty = dialogue.read("cmtmedqa", raw / "cmtmedqa", params, Lineage(built, [raw / "cmtmedqa"]))[0]
    assert (empty.items, len(empty.invalid)) == ([], 30)


@pytest.mark.skipif(not os.environ.get("QILIN_RAW_DIR"), reason="QILIN_RAW_DIR names no folder of real data")
def test_real_dialogues_are_read_whole():
    folder = Path(os.environ["QILIN_RAW_DIR"])
    for name, place in (("cmtmedqa", "cmtmedqa/CMtMedQA_test.json"), ("meddialog", "meddialog_cn/Med-dialog_100.json")):
        rows = json.loads((folder / place).read_text(encoding="utf-8"))
        items, invalid = asked_of(name, (folder / place).parent, None)
        assert len(items) + len(invalid) == len(rows) and len(items) >= 0.99 * len(rows)
        if name == "cmtmedqa" and not invalid:
            assert [len(item.history) for item in items] == [len(row.get("history") or []) for row in rows]
            assert all(item.reference == row["output"].strip() for item, row in zip(items, rows, strict=True))


@pytest.mark.parametrize("name", ["cmtmedqa", "huatuo"])
def test_the_perplexity_of_references_is_measured_if_asked_for(name: str) -> None:
    only = {"benchmarks": ["huatuo"], "further_benchmarks": ["cmtmedqa"], "protocols": ["fixed"]}
    for wanted in (True, False):
        tasks = prepare(sample.raw_dir(), load("06_eval", {**only, "perplexity": wanted}))
        (task,) = (one for one in tasks if one.name == name)
        items = task.items[:3]
        likely = Writer(lambda messages: "好。")
        # Every character of a reference is half a nat.
        likely.reference_logprobs = lambda asked, texts: [(-0.5 * len(text), len(text)) for text in texts]
        rows = task.answer(items, task.prompts(items, likely, 0), likely)
        rows = [row | {"reference": item.reference} for row, item in zip(rows, items, strict=True)]
        table = task.statistics(rows)
        assert ("perplexity" in table) == wanted == ("perplexity" in task.settings)
        if wanted:
            assert summarise(table, 100, 1)["perplexity"]["value"] == pytest.approx(math.exp(0.5))
