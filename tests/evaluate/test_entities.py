"""Named entities: annotated files in their three forms, replies in every form that models give them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.entities import KINDS, gold, located, parse, read

TYPES = {"dis": "疾病", "sym": "临床表现", "dru": "药物", "ite": "医学检验项目"}
TEXT = "患者咳嗽、发热三天，诊断为支气管肺炎，予青霉素和头孢治疗，17-羟孕酮升高，仍咳嗽。"
CMEEE = {
    "text": "咳嗽多为有痰咳嗽。",
    "entities": [
        {"start_idx": 0, "end_idx": 1, "type": "sym", "entity": "咳嗽"},
        {"start_idx": 4, "end_idx": 7, "type": "sym", "entity": "有痰咳嗽"},
        {"start_idx": 5, "end_idx": 5, "type": "bod", "entity": "痰"},
    ],
}
COPY = {
    "text": "行胃镜检查，诊断为胃溃疡。",
    "entity_list": [{"entity_index": {"begin": 9, "end": 12}, "entity_type": "疾病和诊断", "entity": "胃溃疡"}],
}
RELEASED = {
    "originalText": "行胃镜检查，诊断为胃溃疡。",
    "entities": [{"label_type": "疾病和诊断", "overlap": 0, "start_pos": 9, "end_pos": 12}],
}


def write(path: Path, rows: Sequence[Any], lines: bool = False, mark: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text(mark + ("\n".join(whole) + "\n" if lines else f"[{', '.join(whole)}]"), encoding="utf-8")
    return path.parent


def changed(row: dict, **values: Any) -> dict:
    entity = row["entities"][0] | values
    return row | {"entities": [entity, *row["entities"][1:]]}


def without_mentions(row: dict) -> dict:
    return row | {"entities": [{k: v for k, v in entity.items() if k != "entity"} for entity in row["entities"]]}


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "lines", "mark", "expected"),
    [
        (
            "CMeEE-V2_dev.json",
            [CMEEE],
            False,
            "",
            [["sym", "咳嗽", 0, 2], ["sym", "有痰咳嗽", 4, 8], ["bod", "痰", 5, 6]],
        ),
        ("test.json", [COPY], True, "", [["疾病和诊断", "胃溃疡", 9, 12]]),
        ("subtask1_test_set_with_answer.json", [RELEASED], True, "\ufeff", [["疾病和诊断", "胃溃疡", 9, 12]]),
        ("validate.jsonl", [COPY], True, "", [["疾病和诊断", "胃溃疡", 9, 12]]),
    ],
)
def test_the_three_forms(tmp_path: Path, name: str, rows: list, lines: bool, mark: str, expected: list) -> None:
    split, (items, invalid) = read("some", write(tmp_path / "set" / name, rows, lines, mark))
    assert (split, invalid) == ("test" if "test" in name else "dev", [])
    assert json.loads(items[0].reference) == expected and items[0].id == f"{split}-00000"
    assert all(items[0].question[begin:end] == mention for _, mention, begin, end in gold(items[0].reference))


@pytest.mark.parametrize(
    ("row", "shift", "told"),
    [
        (CMEEE, 1, ""),
        (COPY, -1, ""),
        (without_mentions(CMEEE), 0, "no entity of it has its text, so an end is taken as its last character"),
        (RELEASED, 0, "no entity of it has its text, so an end is taken as the place behind it"),
        # Of two, one has its text: the other ends as it does.
        (changed(without_mentions(CMEEE), entity="咳嗽"), 1, ""),
    ],
)
def test_whether_an_end_is_the_last_character_is_read_from_the_texts_of_the_entities(
    tmp_path: Path, capsys: pytest.CaptureFixture, row: dict, shift: int, told: str
) -> None:
    moved = json.loads(json.dumps(row))
    for entity in moved.get("entities") or moved["entity_list"]:
        place = entity.get("entity_index", entity)
        place.update({name: place[name] + shift for name in ("end", "end_idx", "end_pos") if name in place})
    _, (items, invalid) = read("some", write(tmp_path / "set" / "dev.json", [moved]))
    wanted = ["咳嗽", "有痰咳嗽", "痰"] if "text" in row and "entities" in row else ["胃溃疡"]
    assert not invalid and [mention for _, mention, *_ in gold(items[0].reference)] == wanted
    said = capsys.readouterr().out
    assert (told in said and "dev.json" in said) if told else not said


def test_unusable_rows_are_listed_with_their_place_and_reason(tmp_path: Path) -> None:
    bad = {
        2: (changed(CMEEE, entity="发热"), "where the text has '咳嗽'"),
        3: (changed(CMEEE, end_idx=2), "where the text has '咳嗽多'"),
        4: (changed(CMEEE, end_idx=99), "lies at 0-100, but the text has 9 characters"),
        5: (changed(CMEEE, start_idx=-1), "lies at -1-2"),
        6: (changed(CMEEE, type=None), "lacks its type or its place"),
        7: (changed(CMEEE, start_idx="0"), "lacks its type or its place"),
        8: ({"text": " ", "entities": []}, "no text"),
        9: ({"text": "无标注"}, "no list of entities"),
        10: ('{"text": "断', "broken JSON"),
    }
    folder = write(tmp_path / "a" / "dev.jsonl", [CMEEE, *(row for row, _ in bad.values()), CMEEE], lines=True)
    _, (items, invalid) = read("cmeee", folder)
    assert len(items) == 2 and [row["line"] for row in invalid] == list(bad)
    for row in invalid:
        assert bad[row["line"]][1] in row["detail"], row
        assert (row["source"], row["set"], row["file"]) == ("cmeee", "eval", "dev.jsonl")


def test_the_test_file_goes_first_unless_it_has_no_entity(tmp_path: Path) -> None:
    folder = write(tmp_path / "CMeEE-V2_test.json", [{"text": "没有标注", "entities": []}, {"text": "也没有"}])
    write(folder / "CMeEE-V2_train.json", [CMEEE] * 3)
    with pytest.raises(QilinError, match="no file with 'test', 'dev' or 'val' in its name.*eval.further_benchmarks"):
        read("cmeee", folder)
    write(folder / "CMeEE-V2_dev.json", [CMEEE, {"text": "没有实体的句子", "entities": []}])
    split, (items, _) = read("cmeee", folder)
    assert (split, len(items), items[1].reference) == ("dev", 2, "[]")
    write(folder / "CMeEE-V2_test.json", [CMEEE])
    assert read("cmeee", folder)[0] == "test"
    write(folder / "other_test.json", [CMEEE])
    with pytest.raises(QilinError, match=r"2 annotated files .*CMeEE-V2_test.json, other_test.json.*keep one"):
        read("cmeee", folder)


def test_files_that_cannot_be_used_at_all(tmp_path: Path) -> None:
    folder = write(tmp_path / "a" / "dev.json", [changed(CMEEE, entity="发热")])
    with pytest.raises(QilinError, match="no usable row among 1"):
        read("cmeee", folder)
    (folder / "dev.json").write_text('[{"text": "断', encoding="utf-8")
    with pytest.raises(QilinError, match="dev.json, line 1: broken JSON"):
        read("cmeee", folder)


# --- replies ----------------------------------------------------------------------------------------------------------

COUGH, PNEUMONIA, PENICILLIN, CEPHALOSPORIN = (
    ("sym", "咳嗽"),
    ("dis", "支气管肺炎"),
    ("dru", "青霉素"),
    ("dru", "头孢"),
)
REPLIES = [
    ("疾病：支气管肺炎\n临床表现：咳嗽", [PNEUMONIA, COUGH], {"parsed": 2}),
    ("疾病: 支气管肺炎。\n\n  临床表现：“咳嗽”；\n", [PNEUMONIA, COUGH], {"parsed": 2}),
    ("1. 疾病：支气管肺炎\n2、临床表现：咳嗽\n（3）药物：头孢", [PNEUMONIA, COUGH, CEPHALOSPORIN], {"parsed": 3}),
    ("- **疾病**：支气管肺炎\n* 【临床表现】：咳嗽", [PNEUMONIA, COUGH], {"parsed": 2}),
    ("dis：支气管肺炎\nSYM：咳嗽\n药物（dru）：头孢", [PNEUMONIA, COUGH, CEPHALOSPORIN], {"parsed": 3}),
    ("疾病：支气管肺炎；药物：青霉素，头孢", [PNEUMONIA, PENICILLIN, CEPHALOSPORIN], {"parsed": 3}),
    ("支气管肺炎（疾病）\n咳嗽：临床表现\n药物 青霉素", [PNEUMONIA, COUGH, PENICILLIN], {"parsed": 3}),
    # The asked form "类型：实体" taken at its word.
    ("类型：疾病，实体：支气管肺炎\n- 类型: 临床表现 实体: 咳嗽", [PNEUMONIA, COUGH], {"parsed": 2}),
    ("类型：疾病；实体：支气管肺炎；类型：药物；实体：头孢", [PNEUMONIA, CEPHALOSPORIN], {"parsed": 2}),
    ("| 疾病 | 支气管肺炎 |\n医学检验项目-17-羟孕酮", [PNEUMONIA, ("ite", "17-羟孕酮")], {"parsed": 2}),
    ("疾病 (dis): 支气管肺炎\n药物（dru）: 头孢", [PNEUMONIA, CEPHALOSPORIN], {"parsed": 2}),
    ("支气管肺炎/疾病\n咳嗽 / 临床表现", [PNEUMONIA, COUGH], {"parsed": 2}),
    ("[疾病] 支气管肺炎\n【药物】头孢\n（临床表现）咳嗽", [PNEUMONIA, CEPHALOSPORIN, COUGH], {"parsed": 3}),
    ("17-羟孕酮：ite", [("ite", "17-羟孕酮")], {"parsed": 1}),
    ("药物：青霉素、头孢", [PENICILLIN, CEPHALOSPORIN], {"parsed": 2}),
    # The text has this, so it is one mention: annotated mentions do hold such marks.
    ("临床表现：咳嗽、发热", [("sym", "咳嗽、发热")], {"parsed": 1}),
    ("疾病：支气管肺炎\n疾病：支气管肺炎", [PNEUMONIA], {"parsed": 2}),
    ("疾病：肺结核\n药物：头孢", [("dis", "肺结核"), CEPHALOSPORIN], {"not_in_text": 1, "parsed": 1}),
    ("疾病：支气管 肺炎", [("dis", "支气管 肺炎")], {"not_in_text": 1}),
    ("病名：支气管肺炎", [("病名", "支气管肺炎")], {"unknown_type": 1}),
    ("以下是实体：\n疾病：支气管肺炎", [PNEUMONIA], {"unreadable": 1, "parsed": 1}),
    ("这段话讲了一名患者的病情，建议休息。", [], {"unreadable": 1}),
    ("疾病", [], {"unreadable": 1}),
    ("疾病：", [], {"unreadable": 1}),
    ("", [], {}),
    ("无", [], {"none": 1}),
    ("文本中没有医学命名实体。", [], {"none": 1}),
    ("疾病：无\n药物：头孢", [CEPHALOSPORIN], {"none": 1, "parsed": 1}),
    ('```json\n[{"type": "dis", "entity": "支气管肺炎"},\n {"类型": "药物", "实体": ["青霉素", "头孢"]}]\n```',
     [PNEUMONIA, PENICILLIN, CEPHALOSPORIN], {"parsed": 3}),
    ('{"疾病": ["支气管肺炎"], "药物": "头孢"}', [PNEUMONIA, CEPHALOSPORIN], {"parsed": 2}),
    ('{"entities": [{"label": "sym", "text": "咳嗽"}]}', [COUGH], {"parsed": 1}),
    ('[["疾病", "支气管肺炎"], ["药品", "头孢"]]', [PNEUMONIA, ("药品", "头孢")], {"parsed": 1, "unknown_type": 1}),
    ('{"type": "sym", "entity": "咳嗽"}\n{"type": "dru", "entity": "头孢"}', [COUGH, CEPHALOSPORIN], {"parsed": 2}),
    ('[{"type": "sym", "entity": "咳嗽"}, {"type": "dru", "ent', [COUGH], {"parsed": 1, "unreadable": 1}),
    ('结果如下：[{"type": "sym", "entity": "咳嗽"}]', [COUGH], {"parsed": 1, "unreadable": 1}),
    ('{"疾病": [], "药物": []}', [], {"none": 1}),
    ("[1, 2]", [], {"unreadable": 1}),
    ("**疾病（dis）：**\n- 支气管肺炎\n\n**药物**\n- 青霉素\n- 头孢\n\n以上是全部实体。",
     [PNEUMONIA, PENICILLIN, CEPHALOSPORIN], {"parsed": 3, "unreadable": 1}),
    ("### 药物：\n青霉素、头孢\n### 疾病\n1. 肺结核\n临床表现：咳嗽\n发热",
     [PENICILLIN, CEPHALOSPORIN, ("dis", "肺结核"), COUGH],
     {"parsed": 3, "not_in_text": 1, "unreadable": 1}),
    ("[" * 3000 + '"a"' + "]" * 3000, [], {"unreadable": 1}),
    ("[" * 600 + "]" * 600, [], {}),
    ('[{"实体": [{"类型": "疾病", "名称": "支气管肺炎"}]}]', [PNEUMONIA], {"parsed": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "pairs", "lines"), REPLIES, ids=[repr(reply)[:32] for reply, *_ in REPLIES])
def test_replies(reply: str, pairs: list, lines: dict) -> None:
    understood = parse(reply, TYPES, TEXT)
    assert understood.pairs == pairs
    assert understood.lines == dict.fromkeys(KINDS, 0) | lines
    assert understood.unparsed == (not set(lines) - {"unreadable"})


@pytest.mark.parametrize(
    "line", ["疾病" + " " * 4000 + "肺结核", "头孢\u3000" + "\t " * 2000 + "药物", "x" + " " * 4000]
)
def test_a_model_that_writes_blanks_without_end_is_read_at_once(line: str) -> None:
    begun = time.perf_counter()
    parse(line, TYPES, TEXT)
    assert time.perf_counter() - begun < 2


def test_every_line_is_counted_by_itself() -> None:
    dice = random.Random(3)
    words = [*TYPES, *TYPES.values(), *"：:、；无（）|-a", " ", "咳嗽", "头孢", "肺结核"]
    for _ in range(2000):
        lines = ["".join(dice.choices(words, k=dice.randint(1, 9))) for _ in range(4)]
        # But for a heading, which speaks for the lines below it.
        lines = [line for line in lines if line.strip("：:、；|- ") not in {*TYPES, *TYPES.values()}]
        whole, alone = parse("\n".join(lines), TYPES, TEXT), [parse(line, TYPES, TEXT) for line in lines]
        assert whole.lines == {kind: sum(one.lines[kind] for one in alone) for kind in KINDS}
        assert all(sum(one.lines.values()) >= 1 for one, line in zip(alone, lines, strict=True) if line.strip())
        assert whole.pairs == list(dict.fromkeys(pair for one in alone for pair in one.pairs))
        assert all(mention in TEXT for _, mention in whole.pairs) == (whole.lines["not_in_text"] == 0), lines


def test_every_occurrence_is_located_and_what_is_absent_stays_a_wrong_span() -> None:
    assert located([COUGH, PNEUMONIA], TEXT) == [("sym", 2, 4), ("sym", 39, 41), ("dis", 13, 18)]
    absent = located([("dis", "肺结核"), ("dis", "哮喘"), COUGH], TEXT)
    assert len(absent) == 4 and sum(begin < 0 for _, begin, _ in absent) == 2


@pytest.mark.parametrize("unit", [" ", "\u3000", "-", "[", "> ", '|"', "| ", "疾病 ", "、 ", "疾病--"])
def test_reading_is_linear_whatever_a_reply_repeats(unit: str) -> None:
    started = time.process_time()
    for reply in (f"疾病：肺炎{unit * 20_000}x", f"x{unit * 20_000}疾病", unit * 20_000):
        parse(reply, TYPES, TEXT)
    assert time.process_time() - started < 4
