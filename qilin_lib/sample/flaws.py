"""Plants known flaws (copies, leaks, personal data, broken rows) and lists them, so that cleaning can be tested."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from qilin_lib.sample import forms
from qilin_lib.sample.knowledge import Knowledge
from qilin_lib.sample.personal import MAKERS, invented
from qilin_lib.sample.sheets import RawLine, Sheet, json_line
from qilin_lib.sample.wording import rng

ENCYCLOPEDIA = "huatuo_encyclopedia_qa/train_datasets.jsonl"
GRAPH = "huatuo_knowledge_graph_qa/train_datasets.jsonl"
SFT = "medicalgpt_sft/medical_sft.jsonl"
CMD = "cmd/cmd.jsonl"
MEDDIALOG = "meddialog_cn/train_data.json"
ALPACA = "general_zh/alpaca_zh.json"
ZHONGJING = "zhongjing_rlhf/rlhf.json"
REWARD = "medicalgpt_reward/train.json"
CMTMEDQA = "cmtmedqa/CMtMedQA.json"
TOYHOM = ("toyhom_dialogue/IM_内科/内科.csv", "toyhom_dialogue/Surgical_外科/外科.csv")
TEST = "huatuo26m_test/test_datasets.jsonl"
# (file, times): where personal data is written into an existing record.
PERSONAL = (
    (TOYHOM[0], 10), (TOYHOM[1], 8), (SFT, 8), (MEDDIALOG, 6), (CMD, 5), (CMTMEDQA, 4), (ENCYCLOPEDIA, 3),
    (ZHONGJING, 3), (REWARD, 3),
)  # fmt: skip
# (from, to, times): copies within a file keep the form, copies between files take the form of the second.
COPIES = (
    (ENCYCLOPEDIA, ENCYCLOPEDIA, 5), (ENCYCLOPEDIA, SFT, 4), (GRAPH, GRAPH, 4), (GRAPH, ENCYCLOPEDIA, 3),
    (TOYHOM[0], TOYHOM[0], 5), (TOYHOM[0], SFT, 4), (TOYHOM[1], CMD, 3), (SFT, SFT, 3), (MEDDIALOG, MEDDIALOG, 2),
    (CMD, CMD, 2), (ZHONGJING, ZHONGJING, 2), (REWARD, REWARD, 2), (ALPACA, ALPACA, 2),
    ("kg_39health/disease.csv", "kg_39health/disease.csv", 2),
    ("kg_cpubmed/cpubmed_kg_v2.txt", "kg_cpubmed/cpubmed_kg_v2.txt", 4),
)  # fmt: skip
NEAR = (
    (ENCYCLOPEDIA, ENCYCLOPEDIA, 8), (ENCYCLOPEDIA, SFT, 5), (TOYHOM[0], TOYHOM[0], 8), (TOYHOM[1], SFT, 5),
    (SFT, SFT, 5), (SFT, CMD, 4), (ZHONGJING, ZHONGJING, 3), (REWARD, REWARD, 3),
)  # fmt: skip
HUATUO_LEAKS = (ENCYCLOPEDIA, SFT, TOYHOM[0], GRAPH, CMD, ALPACA)
EXAM_LEAKS = (SFT, ALPACA, ENCYCLOPEDIA, GRAPH)
TRUNCATED = (
    ENCYCLOPEDIA, GRAPH, SFT, CMD, REWARD, "general_zh/belle_zh.json", "general_zh/sharegpt_zh.jsonl",
    "kg_xywy/medical.json", "dpo_zh/dpo_zh.jsonl",
)  # fmt: skip


@dataclass
class Planting:
    """The sheets being spoiled, what has been planted, and the records that must not be used again."""

    sheets: dict[str, Sheet]
    dice: random.Random
    planted: list[dict[str, str]] = field(default_factory=list)
    used: list[Any] = field(default_factory=list)

    def pick(self, path: str, fits: Callable[[Any], bool] = lambda record: True) -> int:
        """Place of a record of `path` that carries no flaw yet; it is marked as used."""
        records = self.sheets[path].records
        taken = {id(record) for record in self.used}
        free = [n for n, record in enumerate(records) if id(record) not in taken and fits(record)]
        place = self.dice.choice(free)
        self.used.append(records[place])
        return place

    def note(self, kind: str, path: str, detail: str, text: str) -> None:
        """Write down one flaw; `text` is a piece of it that stands in the file as it is."""
        source = self.sheets[path].source
        self.planted.append({"source": source, "kind": kind, "file": path, "detail": detail, "text": text})

    def add(self, path: str, record: Any) -> None:
        """Put a record at a seeded place."""
        records = self.sheets[path].records
        records.insert(self.dice.randint(0, len(records)), record)
        self.used.append(record)


def plant(sheets: Sequence[Sheet], known: Knowledge, seed: int) -> list[dict[str, str]]:
    """Spoil `sheets` in place; returns planted.json's list of {source, kind, file, detail, text}."""
    work = Planting({sheet.path: sheet for sheet in sheets}, rng(seed, "flaws"))
    _personal_data(work)
    _leaks(work, known)
    for source, target, times in COPIES:
        for _ in range(times):
            _copy(work, source, target)
    for source, target, times in NEAR:
        for _ in range(times):
            _near_copy(work, source, target)
    _broken(work)
    return sorted(work.planted, key=lambda item: (item["kind"], item["file"], item["detail"], item["text"]))


def excerpt(text: str) -> str:
    """The longest piece of `text` that JSON and CSV writers leave as it is."""
    return max(re.split(r'[\n\r\t"\\]', text), key=len)


def _personal_data(work: Planting) -> None:
    kinds = list(MAKERS)
    for path, times in PERSONAL:
        for _ in range(times):
            kind = kinds[len(work.planted) % len(kinds)]
            value, said = invented(kind, work.dice)
            record = work.sheets[path].records[work.pick(path, _has_parts)]
            forms.add_to_question(record, said)
            work.note("personal_data", path, kind, value)


def _has_parts(record: Any) -> bool:
    return not (isinstance(record, dict) and "instruct" in record)


def _leaks(work: Planting, known: Knowledge) -> None:
    for number in range(12):
        record = work.sheets[TEST].records[work.pick(TEST)]
        _leak(work, HUATUO_LEAKS[number % 6], "huatuo", "内科", record["questions"], record["answers"])
    rows = work.sheets["cmexam/test.csv"].records
    for number, row in enumerate(work.dice.sample(rows, min(9, len(rows)))):
        if number % 4 == 3:
            work.add("cmexam/train.csv", list(row))
            work.note("test_leak", "cmexam/train.csv", "cmexam test row copied", excerpt(row[0]))
        else:
            told = f"答案：{row[2]}。{row[3]}"
            _leak(work, EXAM_LEAKS[number % 4], "cmexam", "", f"{row[0]}\n{row[1]}", told, stem=row[0])
    for split, times in (("val", 6), ("test", 4)):
        items = [item for item in known.ceval if item["split"] == split]
        for number, item in enumerate(work.dice.sample(items, min(times, len(items)))):
            _leak_ceval(work, item, number)


def _leak_ceval(work: Planting, item: dict[str, Any], number: int) -> None:
    # Copies in the wild often lose the blank or write it as brackets.
    stem = item["question"] if number % 2 else item["question"].replace("____", "（　　）")
    if number == 3:
        path = "general_zh/general_text.txt"
        line = f"试题：{stem}答案是{item[item['answer']]}。".replace("\n", "")
        work.add(path, line)
        work.note("test_leak", path, f"ceval {item['subject']} {item['split']}", excerpt(stem.replace("\n", "")))
        return
    options = "\n".join(f"{letter}. {item[letter]}" for letter in "ABCD")
    label = f"ceval {item['subject']} {item['split']}"
    _leak(work, EXAM_LEAKS[number % 4], label, "", f"{stem}\n{options}", f"选{item['answer']}。", stem=stem)


def _leak(
    work: Planting, path: str, label: str, department: str, question: str, answer: str, stem: str | None = None
) -> None:
    work.add(path, forms.made(work.sheets[path].source, department, question, answer))
    work.note("test_leak", path, f"{label}: question and answer copied", excerpt(stem or question))


def _copy(work: Planting, source: str, target: str) -> None:
    record = work.sheets[source].records[work.pick(source)]
    if source == target:
        twin = deepcopy(record) if not isinstance(record, str) else record
    else:
        department = work.sheets[target].records[0][0] if target in TOYHOM else ""
        twin = forms.made(work.sheets[target].source, department, *forms.parts(record))
    work.add(target, twin)
    work.note("exact_duplicate", target, f"copy of a record of {source}", excerpt(_text(record)))


def _text(record: Any) -> str:
    if isinstance(record, str):
        return record.split("\t")[0]
    if isinstance(record, list) and len(record) > 15:
        return record[0]
    return forms.parts(record)[0]


def _near_copy(work: Planting, source: str, target: str) -> None:
    def long(record: Any) -> bool:
        return len(forms.parts(record)[1]) >= 50

    record = work.sheets[source].records[work.pick(source, long)]
    question, answer = forms.parts(record)
    if source == target:
        twin = deepcopy(record)
        forms.add_to_answer(twin, work.dice.choice(("谢谢！", "哦。", "仅供参考。", "嗯。")))
        forms.add_to_question(twin, work.dice.choice(("谢谢", "！", "呢", "？？")))
    else:
        twin = forms.made(work.sheets[target].source, "", question + "？", answer.replace("，", ",", 1) + "。")
    work.add(target, twin)
    work.note("near_duplicate", target, f"a few characters changed from a record of {source}", excerpt(question))


def _broken(work: Planting) -> None:
    for path in TRUNCATED:
        sheet, place = work.sheets[path], work.pick(path)
        line = json_line(sheet.records[place], sheet.spaced)
        sheet.records[place] = RawLine(line[: len(line) * 2 // 3])
        work.note("broken_row", path, "truncated JSON line", sheet.records[place].text)
    for path, detail, spoil in BREAKS:
        _break(work, path, detail, spoil)


def _break(work: Planting, path: str, detail: str, spoil: Callable[[Any], Any]) -> None:
    sheet = work.sheets[path]
    place = work.pick(path, lambda record: _has_parts(record) and _fits(record, detail))
    broken = spoil(sheet.records[place])
    sheet.records[place] = broken
    work.used.append(broken)
    work.note("broken_row", path, detail, excerpt(_longest(broken)))


def _fits(record: Any, detail: str) -> bool:
    if detail.startswith("odd history"):
        return bool(record["history"])
    return detail != "answer letter not among the options" or len(record[2]) == 1


def _longest(value: Any) -> str:
    if isinstance(value, str):
        return value
    parts = value.values() if isinstance(value, dict) else value
    return max((excerpt(_longest(part)) for part in parts), key=len, default="")


def _cell(place: int, text: str) -> Callable[[list[str]], list[str]]:
    return lambda row: [*row[:place], text, *row[place + 1 :]]


def _key(name: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda record: {**record, name: value}


def _last_turn_lost(record: dict[str, Any]) -> dict[str, Any]:
    return {"conversations": record["conversations"][:-1]}


def _strange_role(record: dict[str, Any]) -> dict[str, Any]:
    first, *rest = record["conversations"]
    return {"conversations": [{**first, "from": "narrator"}, *rest]}


def _half_history(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "history": [record["history"][0][:1], *record["history"][1:]]}


# (file, what is wrong, how): the record itself is spoiled, so a broken row is no copy of a good one.
BREAKS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    (TOYHOM[0], "missing column", lambda row: row[:3]),
    (TOYHOM[1], "missing column", lambda row: row[:2]),
    ("kg_39health/disease.csv", "missing column", lambda row: row[:6]),
    ("kg_cpubmed/cpubmed_kg_v2.txt", "missing column", lambda line: "\t".join(line.split("\t")[:2])),
    ("cmexam/train.csv", "missing column", lambda row: row[:2]),
    ("cmexam/train.csv", "answer is nan", _cell(2, "nan")),
    ("cmexam/val.csv", "answer is nan", _cell(2, "nan")),
    (TOYHOM[0], "answer is nan", _cell(3, "nan")),
    (ENCYCLOPEDIA, "answer is nan", _key("answers", ["nan"])),
    (GRAPH, "answer is nan", _key("answers", ["nan"])),
    (TOYHOM[1], "empty question", lambda row: [row[0], "", "", row[3]]),
    (GRAPH, "empty question", _key("questions", [""])),
    (ENCYCLOPEDIA, "empty question", _key("questions", [[""]])),
    (REWARD, "empty question", _key("question", "")),
    (ALPACA, "empty question", _key("instruction", "")),
    ("cmexam/train.csv", "answer letter not among the options", _cell(2, "F")),
    ("cmexam/train.csv", "answer letter not among the options", _cell(2, "AG")),
    (CMD, "odd dialogue", _last_turn_lost),
    (SFT, "odd dialogue", _last_turn_lost),
    (MEDDIALOG, "odd dialogue", lambda turns: turns[:-1]),
    (CMTMEDQA, "odd history", _half_history),
    (CMD, "unknown role", _strange_role),
    (SFT, "unknown role", _strange_role),
    (MEDDIALOG, "unknown role", lambda turns: ["护士：" + turns[0][3:], *turns[1:]]),
    (ZHONGJING, "no rejected answer", lambda record: {**record, "output": record["output"][:1]}),
    (REWARD, "empty chosen answer", _key("response_chosen", "")),
    ("dpo_zh/dpo_zh.jsonl", "chosen equals rejected", lambda record: {**record, "rejected": record["chosen"]}),
)
