from __future__ import annotations

import csv
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.sample.knowledge import load
from qilin_lib.sample.render import build, fingerprint, raw_dir, render
from qilin_lib.sample.shares import share_out

Rendered = tuple[Path, dict[str, int]]
# The package hands on the function of the same name, so the module is reached by its full name.
MODULE = sys.modules["qilin_lib.sample.render"]
# Lower bounds per source; lines of plain text are paragraphs, lines of remedi are prefixes.
LEAST = {
    "ceval": 255, "cmexam": 160, "huatuo26m_test": 95, "huatuo_encyclopedia_qa": 430, "huatuo_knowledge_graph_qa": 430,
    "kg_xywy": 60, "kg_39health": 60, "kg_cpubmed": 1500, "plain_text": 500, "toyhom_dialogue": 480, "meddialog_cn": 65,
    "cmd": 65, "cmtmedqa": 55, "remedi": 60, "medicalgpt_sft": 240, "zhongjing_rlhf": 150, "medicalgpt_reward": 115,
    "dpo_zh": 60, "general_zh": 900,
}  # fmt: skip
GB18030 = ("kg_39health/disease.csv", "toyhom_dialogue/IM_内科/内科.csv", "toyhom_dialogue/Surgical_外科/外科.csv")


def tree_hash(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for part in parts for text in strings(part)]


def test_two_renders_have_the_same_bytes(rendered: Rendered, tmp_path: Path) -> None:
    render(tmp_path / "again")
    assert tree_hash(tmp_path / "again") == tree_hash(rendered[0])


def test_another_seed_gives_another_sample(rendered: Rendered, tmp_path: Path) -> None:
    render(tmp_path / "other", seed=18)
    assert tree_hash(tmp_path / "other") != tree_hash(rendered[0])


def test_counts_reach_the_lower_bounds(rendered: Rendered) -> None:
    folder, counts = rendered
    found: dict[str, int] = {}
    for path, count in counts.items():
        assert (folder / path).is_file(), path
        found[path.split("/")[0]] = found.get(path.split("/")[0], 0) + count
    assert {name: (found.get(name, 0), least) for name, least in LEAST.items() if found.get(name, 0) < least} == {}


def test_at_least_sixty_diseases_in_every_graph(rendered: Rendered) -> None:
    names = {disease["name"] for disease in load().diseases}
    triples = (rendered[0] / "kg_cpubmed/cpubmed_kg_v2.txt").read_text("utf-8").splitlines()
    table = (rendered[0] / "kg_39health/disease.csv").read_bytes().decode("gb18030").splitlines()
    assert len(names) >= 60
    assert names == {line.split("@@")[0] for line in triples}
    assert names == {line.split(",")[0] for line in table[1:]}


def test_encodings_are_those_of_the_real_files(rendered: Rendered) -> None:
    folder = rendered[0]
    for name in GB18030:
        raw = (folder / name).read_bytes()
        assert b"\r\n" in raw and raw.decode("gb18030")
        with pytest.raises(UnicodeDecodeError):
            raw.decode("utf-8")
    for name in ("train", "val", "test", "test_with_annotations"):
        assert (folder / f"cmexam/{name}.csv").read_bytes().startswith(b"\xef\xbb\xbfQuestion,Options,Answer"), name
    assert b"\\nB " in (folder / "cmexam/val.csv").read_bytes()
    assert b"\\nB " not in (folder / "cmexam/train.csv").read_bytes()


def test_textbook_is_half_utf8_half_gb18030(rendered: Rendered) -> None:
    def is_utf8(raw: bytes) -> bool:
        try:
            return bool(raw.decode("utf-8"))
        except UnicodeDecodeError:
            return not raw.decode("gb18030")

    kinds = [is_utf8(path.read_bytes()) for path in sorted((rendered[0] / "plain_text/textbook").glob("*.txt"))]
    assert abs(kinds.count(True) - kinds.count(False)) <= 1


def test_39health_has_its_tails_and_empty_columns(rendered: Rendered) -> None:
    lines = (rendered[0] / "kg_39health/disease.csv").read_bytes().decode("gb18030").split("\r\n")
    assert lines[0].endswith("rate,money,,,,,") and lines[0].count(",") == 19
    assert sum(" [详细]" in line for line in lines[1:]) >= 60


def test_mixed_schemas_and_prefixes(rendered: Rendered) -> None:
    folder = rendered[0]
    cmt = json.loads((folder / "cmtmedqa/CMtMedQA.json").read_text("utf-8"))
    assert {"instruct" in record for record in cmt} == {True, False}
    assert any(record.get("history") for record in cmt) and any(record.get("history") == [] for record in cmt)
    blocks = (folder / "remedi/train.txt").read_text("utf-8").strip().split("\n\n")
    assert len(blocks) == 30
    for block in blocks:
        lines = block.split("\n")
        for before, after in zip(lines, lines[1:], strict=False):
            said = before.split("<|currentuser|> ")[1].split(" <|")[0]
            assert f"<|user|> {said}" in after


def test_exam_splits_have_multiple_answers_and_balanced_letters(rendered: Rendered) -> None:
    for name in ("train", "val", "test"):
        with open(rendered[0] / f"cmexam/{name}.csv", encoding="utf-8-sig", newline="") as handle:
            answers = [row["Answer"] for row in csv.DictReader(handle)]
        singles = [answer for answer in answers if answer and len(answer) == 1]
        assert sum(len(answer or "") > 1 and answer.isupper() for answer in answers) >= 0.1 * len(answers), name
        assert max(singles.count(letter) for letter in "ABCDE") <= 0.35 * len(singles), name


def test_annotations_hold_the_same_test_items(rendered: Rendered) -> None:
    def rows(name: str) -> list[list[str]]:
        with open(rendered[0] / "cmexam" / name, encoding="utf-8-sig", newline="") as handle:
            return [row[:4] for row in csv.reader(handle)]

    assert rows("test.csv") == rows("test_with_annotations.csv")


def test_every_pair_has_one_place() -> None:
    diseases = load().diseases
    places = share_out(diseases, 17)
    pairs = [(disease["name"], aspect) for members in places.values() for disease, aspect in members]
    assert len(pairs) == len(set(pairs)) > 19 * len(diseases)


def test_no_two_sources_share_a_text_before_flaws_are_planted() -> None:
    owner: dict[str, str] = {}
    shared = []
    for sheet in build(load(), 17):
        # A graph's cell and a short graph answer are the same term by nature.
        for text in (text for text in strings(sheet.records) if len(text) >= 25 and "\t" not in text):
            if owner.setdefault(text, sheet.source) != sheet.source:
                shared.append((text, owner[text], sheet.source))
    assert shared == []


def test_render_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(QilinError, match="not empty"):
        render(tmp_path)


def test_raw_dir_renders_once_and_leaves_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = raw_dir(tmp_path)
    assert first.name == f"sample-{fingerprint()[:16]}" and (first / "planted.json").is_file()
    monkeypatch.setattr(MODULE, "render", lambda target: pytest.fail("rendered twice"))
    assert raw_dir(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_raw_dir_leaves_nothing_when_rendering_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(target: Path) -> None:
        (target / "half.txt").write_text("half")
        raise QilinError("stopped")

    monkeypatch.setattr(MODULE, "render", broken)
    with pytest.raises(QilinError):
        raw_dir(tmp_path)
    assert list(tmp_path.iterdir()) == []
