"""Real files: what `units` yields of each, against a count by csv, json and open alone (QILIN_RAW_DIR).

A count is a list with one entry a row of the file, True where an independent rule says that the row is unusable.
Books become passages: there, the files, the entries and every character of the text are compared instead.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
from pathlib import Path

import pytest

from qilin_lib.chimed import sources
from qilin_lib.chimed.records import Record, Rejection

RAW = os.environ.get("QILIN_RAW_DIR")
pytestmark = pytest.mark.skipif(not RAW, reason="QILIN_RAW_DIR is not set")


def reads_of(name):
    if not (Path(RAW) / name).is_dir():
        pytest.skip(f"{name} is not in the raw folder")
    return [unit.read for unit in sources.units(sources.BY_NAME[name], Path(RAW))]


def blank(value):
    return value is None or str(value).strip().lower() in ("", "nan")


def json_rows(path):
    text = path.read_text(encoding="utf-8-sig")
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.split("\n") if line.strip()]


def csv_rows(path):
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("gb18030")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def leaf(value):
    return leaf(value[0]) if isinstance(value, list) and value else value


def talk(row):
    """Unusable: nobody answers, the assistant speaks first, an empty turn between two others, two voices in a turn."""
    said = [turn for turn in row["conversations"] if turn["from"] != "system"]
    while said and not said[-1]["value"].strip():
        said.pop()
    bad = any(not turn["value"].strip() or voices(turn["value"]) for turn in said)
    return bad or len({turn["from"] for turn in said}) < 2 or said[0]["from"] != "human"


def voices(text):
    """Whether lines or sentences of one text begin with the names of both sides, the first of them not the patient."""
    lines = [line.strip().replace("：", ":") for line in re.split(r"[\n。？！?!]", text)]
    sides = [("病人:", "患者:", "问:", "Human:", "User:"), ("医生:", "答:", "Assistant:")]
    return not lines[0].startswith(sides[0]) and all(any(line.startswith(names) for line in lines) for names in sides)


def instruction(row):
    asked, answer = row["instruction"], row["output"]
    return blank(asked) or blank(answer) or voices(f"{asked}\n{answer}")


def pair(chosen, rejected, asked=()):
    texts = [side["value"] if isinstance(side, dict) else side for side in (chosen, rejected)]
    spoilt = any(map(blank, texts)) or any(map(voices, [*texts, *asked]))
    return spoilt or texts[0].strip() == texts[1].strip()


# source -> (glob, rows of a file, whether a row is unusable)
RULES = {
    "cmexam": ("*.csv", csv_rows, lambda row: blank(row["Answer"])),
    "kg_39health": (
        "*.csv",
        lambda path: list(csv.reader(open(path, encoding="gb18030", newline="")))[1:],
        # Text behind the fifteen columns with a name, or a name that its page cut off.
        lambda row: any(cell.strip() for cell in row[15:]) or row[0].replace("[详细]", "").strip().endswith("..."),
    ),
    "kg_xywy": ("*.json", json_rows, lambda row: not any(v for k, v in row.items() if k not in ("_id", "name"))),
    "toyhom_dialogue": ("**/*.csv", csv_rows, lambda row: blank(row["answer"]) or blank(row["title"] + row["ask"])),
    "meddialog_cn": (
        "*.json",
        json_rows,
        lambda row: blank(row["medical_case"]) or blank(row["doctor_diagnosis"]) or voices(row["medical_case"]),
    ),
    "medicalgpt_sft": ("*.jsonl", json_rows, talk),
    "cmtmedqa": ("*.json", json_rows, lambda row: instruction({"instruction": row.get("instruct")} | row)),
    "general_zh": ("*.json*", json_rows, lambda row: talk(row) if "conversations" in row else instruction(row)),
    "medicalgpt_reward": ("*.json", json_rows, lambda row: pair(row["response_chosen"], row["response_rejected"])),
    "dpo_zh": (
        "*.jsonl",
        json_rows,
        lambda row: pair(row["chosen"], row["rejected"], [turn["value"] for turn in row["conversations"]]),
    ),
    "ceval": ("*/*.csv", csv_rows, lambda row: any(blank(row[name]) for name in ("question", "A", "B"))),
    "cmmlu": ("*/*.csv", csv_rows, lambda row: any(not row[name].strip() for name in ("Question", "A", "B"))),
    "huatuo26m_test": (
        "*.json*",
        json_rows,
        lambda row: blank(leaf(row["instruction"])) or blank(leaf(row["output"])),
    ),
}
OTHERS = {"remedi", "plain_text", "kg_cpubmed_sample"}


def test_every_source_of_the_raw_folder_is_counted_here():
    present = {name for name, state in sources.inventory(Path(RAW)).items() if state == "present"}
    assert present <= {*RULES, *OTHERS}


@pytest.mark.parametrize("name", RULES)
def test_rows_and_rejections_file_by_file(name):
    folder, found = Path(RAW) / name, {}
    for read in reads_of(name):
        if read.line:  # line 0: about the whole file
            found.setdefault(read.file, []).append(isinstance(read, Rejection))
    pattern, rows, unusable = RULES[name]
    counted = {
        path.relative_to(folder).as_posix(): [unusable(row) for row in rows(path)] for path in folder.glob(pattern)
    }
    assert {file: len(marks) for file, marks in found.items()} == {file: len(marks) for file, marks in counted.items()}
    assert found == counted


def kept_rows(name):
    """(row, payload) of every kept record of a source with a unit a row."""
    pattern, rows, _ = RULES[name]
    reads = {}
    for read in reads_of(name):
        reads.setdefault(read.file, []).append(read)
    for path in (Path(RAW) / name).glob(pattern):
        for row, read in zip(rows(path), reads[path.relative_to(Path(RAW) / name).as_posix()], strict=True):
            if isinstance(read, Record):
                yield row, read.payload


def has_more_than_a_question(row):
    """Whether texts stand before the question that a row answers, or after the answer."""
    voices_in_turn = [turn["from"] for turn in row.get("conversations", ()) if turn["value"].strip()]
    changes = len(list(itertools.groupby(voice for voice in voices_in_turn if voice != "system")))
    return bool(row.get("history")) or changes > (1 if "chosen" in row else 2)


@pytest.mark.parametrize("name", ["cmtmedqa", "general_zh", "medicalgpt_sft", "dpo_zh"])
def test_what_was_said_before_is_kept(name):
    found, stated = [], []
    for row, payload in kept_rows(name):
        turns = getattr(payload, "prompt", None) or payload.turns
        stated.append(has_more_than_a_question(row))
        found.append(len(turns) > (1 if "chosen" in row else 2))
    assert found == stated and (any(stated) or name in ("medicalgpt_sft", "dpo_zh"))


def test_every_pair_that_states_a_system_text_has_it():
    found = [(row["conversations"], payload.system) for row, payload in kept_rows("dpo_zh")]
    texts = [[turn["value"].strip() for turn in turns if turn["from"] == "system"] for turns, _ in found]
    assert [system for _, system in found] == ["".join(text) for text in texts] and any(map(any, texts))


def test_cmexam_letters_and_options():
    payloads = [read.payload for read in reads_of("cmexam") if isinstance(read, Record)]
    assert all(4 <= len(exam.options) <= 5 and set(exam.answer) <= set("ABCDE") for exam in payloads)
    assert not any("\\n" in text or not text for exam in payloads for _, text in exam.options)
    assert not any(exam.explanation.lower() == "nan" for exam in payloads)


def test_remedi_has_as_many_dialogues_as_first_turns():
    texts = [path.read_text(encoding="utf-8") for path in (Path(RAW) / "remedi").glob("*.txt")]
    found = reads_of("remedi")
    assert len(found) == sum(text.count("<|context|> <|endofcontext|>") for text in texts)
    assert not [read for read in found if isinstance(read, Rejection)]


def test_cpubmed_sample_is_one_disease_with_a_value_for_each_triple():
    (path,) = (Path(RAW) / "kg_cpubmed_sample").glob("*.json")
    triples = json.loads(path.read_text(encoding="utf-8"))
    (record,) = reads_of("kg_cpubmed_sample")
    assert {triple["head"] for triple in triples} == {record.payload.name}
    said = {(heading, value) for heading, values in record.payload.features for value in values}
    assert said == {(triple["relation"], triple["tail"]) for triple in triples}


# What the collection writes around titles and pictures; "图" alone is no caption.
MARKS = re.compile(r"(?:\\r图)?\\p[-a-z0-9]+\.bmp|\\[rx]")
BOOK_LINE = re.compile("(?!<篇名>|<目录>)(?:(?:内容|属性)：)?(?P<text>.*)")


def test_books_lose_headings_and_marks_and_nothing_else():
    folder = Path(RAW) / "plain_text"
    bodies = {}
    for read in reads_of("plain_text"):
        bodies.setdefault(read.file, []).append(read.payload.body)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*") if path.is_file()}
    assert set(bodies) == set(files)
    for file, path in files.items():
        if path.suffix == ".txt":
            lines = [BOOK_LINE.match(line) for line in path.read_bytes().decode("gb18030").splitlines()]
            # The first lines name title, author, dynasty and year.
            kept = [line["text"] for line in lines if line and not re.match("(书名|作者|朝代|年份)：", line["text"])]
            text = MARKS.sub("", "".join(kept))
            assert "".join("".join(bodies[file]).split()) == "".join(text.split()), file
