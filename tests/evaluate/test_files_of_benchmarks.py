"""Notebook 06 reads a benchmark's files by the code of notebook 01, and one that cannot be read stops no other."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import entities, store
from qilin_lib.evaluate.benchmarks import ceval, cmexam, dialogue, exams, huatuo, prepare
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.report import records

CEVAL = "id,question,A,B,C,D,answer\n" + "".join(f"{n},第{n}题正确的是,甲,乙,丙,丁,A\n" for n in range(5))
CMEXAM = 'Question,Options,Answer,Explanation\n感冒的病原体是,"A 病毒\nB 细菌",A,略\n头痛的原因是,"A 甲\nB 乙",B,略\n'
HUATUO = "".join(json.dumps({"questions": [f"第{n}问怎么办？"], "answers": ["休息。"]}) + "\n" for n in range(3))
CMMLU = ",Question,A,B,C,D,Answer\n" + "".join(f"{n},第{n}题正确的是,甲,乙,丙,丁,A\n" for n in range(5))
MEDQA = json.dumps({"question": "感冒的病原体是", "options": {"A": "病毒", "B": "细菌"}, "answer_idx": "A"}) + "\n"
NER = [{"text": "头痛三天", "entities": [{"start_idx": 0, "end_idx": 1, "type": "sym", "entity": "头痛"}]}]


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def zipped(members: dict[str, str]) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return raw.getvalue()


def parquet(rows: list[dict]) -> bytes:
    raw = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), raw)
    return raw.getvalue()


CEVAL_ZIP = zipped({f"{split}/physician_{split}.csv": CEVAL for split in ("dev", "val", "test")})
CEVAL_ROWS = [{"id": n, "question": "问", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "B"} for n in range(5)]
CMEXAM_ROWS = [
    {"Question": question, "Options": "A 病毒\nB 细菌", "Answer": answer, "Explanation": None}
    for question, answer in (("感冒的病原体是", "A"), ("头痛的原因是", "B"))
]
HUATUO_ROWS = [json.loads(line) for line in HUATUO.splitlines()]
CMMLU_ZIP = zipped({f"{split}/virology.csv": CMMLU for split in ("dev", "test")})
TALK = "id\t1\nP\t头痛三天怎么办\nD\t先量血压\n".encode("gb18030")
NER_TEXT = json.dumps(NER, ensure_ascii=False)
READERS = {
    "ceval": lambda raw: ceval.ceval_items(raw, "val"),
    "cmexam": cmexam.cmexam_items,
    "huatuo26m_test": huatuo.huatuo_items,
    "cmmlu": lambda raw: exams.cmmlu_items(raw / "cmmlu"),
    "medqa": lambda raw: exams.medqa_items(raw / "medqa"),
    "cmeee_v2": lambda raw: entities.read("cmeee", raw / "cmeee_v2")[1],
    "mc": lambda raw: dialogue.dialogue_items("mc", raw / "mc", Lineage(None, [])),
}
"""{folder: read(raw folder)}"""
ASKED = {
    "ceval": ([f"physician-{n}" for n in range(5)], {"第0题正确的是A", "问B"}),
    "cmexam": (["test-00000", "test-00001"], {"感冒的病原体是A"}),
    "huatuo26m_test": ([f"test-{n:05d}" for n in range(3)], {"第0问怎么办？休息。"}),
    "cmmlu": ([f"virology-{n:05d}" for n in range(5)], {"第0题正确的是A"}),
    "medqa": (["test-00000"], {"感冒的病原体是A"}),
    "cmeee_v2": (["dev-00000"], {'头痛三天[["sym", "头痛", 0, 2]]'}),
    "mc": (["1"], {"头痛三天怎么办先量血压"}),
}
"""{folder: ids, question and answer of the first item}"""


@pytest.mark.parametrize(
    ("folder", "files"),
    [
        ("ceval", {"ceval-exam.zip": CEVAL_ZIP}),
        ("ceval", {"ceval-exam/val/physician_val.csv": CEVAL, "ceval-exam/dev/physician_dev.csv": CEVAL}),
        (
            "ceval",
            {"val/physician_val.csv.gz": gzip.compress(CEVAL.encode("gb18030")), "dev/physician_dev.csv": CEVAL},
        ),
        ("ceval", {f"physician/{split}-00000-of-00001.parquet": parquet(CEVAL_ROWS) for split in ("dev", "val")}),
        ("cmexam", {"test.csv.gz": gzip.compress(CMEXAM.encode())}),
        ("cmexam", {"data/test-00000-of-00001.parquet": parquet(CMEXAM_ROWS)}),
        ("huatuo26m_test", {"test_datasets.jsonl.gz": gzip.compress(HUATUO.encode())}),
        ("huatuo26m_test", {"test-00000-of-00001.parquet": parquet(HUATUO_ROWS)}),
        ("huatuo26m_test", {"huatuo26M_test.json": json.dumps({"data": HUATUO_ROWS}).encode()}),
        ("cmmlu", {"cmmlu_v1_0_1.zip": CMMLU_ZIP}),
        ("medqa", {"test.jsonl.gz": gzip.compress(MEDQA.encode("gb18030"))}),
        ("cmeee_v2", {"dev.json.gz": gzip.compress(NER_TEXT.encode())}),
        ("cmeee_v2", {"dev.JSON": NER_TEXT.encode("gb18030")}),
        ("cmeee_v2", {"data.zip": zipped({"CMeEE-V2_dev.json": NER_TEXT})}),
        ("cmeee_v2", {"deeper/dev.parquet": parquet(NER)}),
        ("mc", {"chunyu.TXT.gz": gzip.compress(TALK)}),
    ],
)
def test_a_benchmark_as_downloaded(tmp_path: Path, folder: str, files: dict[str, Any]):
    for name, content in files.items():
        put(tmp_path / folder / name, content)
    found, invalid = READERS[folder](tmp_path)
    ids, first = ASKED[folder]
    assert not invalid and [item.id for item in found] == ids
    assert found[0].question + (found[0].gold or found[0].reference) in first
    if folder == "ceval":
        assert len(ceval.ceval_dev(tmp_path)["physician"]) == 5
    if folder == "cmmlu":
        assert len(exams.cmmlu_dev(tmp_path / "cmmlu", ["virology"], 5)["virology"]) == 5


def test_a_broken_row_of_a_benchmark_costs_itself(tmp_path: Path):
    put(tmp_path / "huatuo26m_test" / "test_datasets.jsonl", HUATUO + '{"questions": ["\n' + "[" * 100_000 + "\n")
    put(tmp_path / "cmexam" / "test.csv", CMEXAM + '问,"A 甲\nB 乙,A,略\n' + CMEXAM.split("\n", 1)[1])
    assert [len(part) for part in huatuo.huatuo_items(tmp_path)] == [3, 2]
    found, invalid = cmexam.cmexam_items(tmp_path)
    assert len(found) == 4 and {row["file"] for row in invalid} == {"test.csv"}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    put(tmp_path / "ceval" / "c.zip", CEVAL_ZIP)
    put(tmp_path / "cmexam" / "test.csv", CMEXAM)
    put(tmp_path / "huatuo26m_test" / "test_datasets.jsonl", HUATUO)
    put(tmp_path / "medqa" / "test.jsonl", MEDQA)
    return tmp_path


SPOILT = {
    "medqa": ("medqa", {"notes.xlsx": b"x"}),
    "cmeee": ("cmeee_v2", {"dev.json": b"[1, 2"}),
    "ccks2019": ("ccks2019", {"train.json": json.dumps(NER).encode()}),
    "cmmlu": ("cmmlu", {"test/virology.csv": b"\xff\xfe\xff", "dev/virology.csv": b""}),
    "mc": ("mc", {"readme.md": b"x"}),
    "meddialog": ("meddialog_cn", {"COVID.docx": b"x"}),
    "ceval": ("ceval", {"ceval.zip": CEVAL_ZIP[:100]}),
    "cmexam": ("cmexam", {"test.csv": b"a,b\n1,2\n"}),
    "huatuo": ("huatuo26m_test", {"test_datasets.jsonl": b'{"question": "x"}\n'}),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_benchmark_that_cannot_be_read_is_a_row_and_the_others_are_asked(
    raw: Path, name: str, params: SimpleNamespace
):
    folder, files = SPOILT[name]
    shutil.rmtree(raw / folder, ignore_errors=True)
    for file, content in files.items():
        put(raw / folder / file, content)
    made = {task.name: task for task in prepare(raw, params)}
    assert set(made) == {"ceval", "cmexam", "huatuo", "medqa", name}
    spoilt = made.pop(name)
    assert not spoilt.items and all(task.items for task in made.values())
    shown = records.items_table([*made.values(), spoilt])
    row = shown.frame[shown.frame["Benchmark"] == name].iloc[0]
    assert row["items asked"] == 0 and row["rows left out"] > 0
    (note,) = [note for note in shown.notes if note.startswith(f"{name}: ")]
    assert folder in note or any(file.split("/")[-1] in note for file in files)
    assert all(row["source"] == name and row["reason"] and row["detail"] for row in spoilt.invalid)


def test_a_benchmark_whose_folder_is_not_there_is_a_row(raw: Path, params: SimpleNamespace):
    shutil.rmtree(raw / "ceval")
    made = {task.name: len(task.items) for task in prepare(raw, params)}
    assert made["ceval"] == 0 and made["cmexam"] == 2


def test_the_example_is_of_a_benchmark_that_was_answered(tmp_path: Path):
    put(store.predictions(tmp_path, "fixed", "huatuo", "sft"), "{}\n")
    asked = ["ceval", "cmexam", "huatuo"], ["released", "fixed"]
    assert records.first_answered(tmp_path, *asked) == ("huatuo", "fixed")
    with pytest.raises(QilinError, match="holds no record"):
        records.first_answered(tmp_path / "other", *asked)
