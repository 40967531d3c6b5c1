"""Sentences with their named entities: CMeEE-V2's dev file and CCKS-2019's test file (one JSON a line).

Places follow from how a sentence is put together. One row of each is wrong on purpose: notebook 06 must list it. They
are not in planted.json, which says what notebook 01 has to clean.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from qilin_lib.sample.facts import Disease
from qilin_lib.sample.sheets import Sheet
from qilin_lib.sample.wording import rng

CMEEE, CCKS = "cmeee_v2/CMeEE-V2_dev.json", "ccks2019/test.json"
SENTENCES, RECORDS = 40, 30
Piece = str | tuple[str, str]
"""Plain words, or (type, mention)."""
Span = tuple[str, int, int]
"""type, begin, end (excluded)."""

# Parts of the body inside a symptom or a disease are entities of their own in CMeEE.
BODY = tuple("腹股沟 膝关节 骨关节 关节 皮肤 面部 下肢 上腹 腰背 咽部 胸骨 胸 头 腹 颈 咽 鼻 耳 眼 肩 腰".split())
LABORATORY = ("常规", "血糖", "血脂", "功能", "蛋白", "电解质", "血沉", "尿酸", "抗体", "酶")
IMAGING = ("CT", "X线", "超声", "磁共振", "造影")
OPERATION = ("切除术", "置换手术", "取石手术", "修补", "移植")


def sheets(diseases: Sequence[Disease], seed: int) -> list[Sheet]:
    """Both files: 40 and 30 rows."""
    chosen = rng(seed, "entities").sample(list(diseases), len(diseases))
    dice = rng(seed, "entities:words")
    cmeee = [_cmeee(_sentence(chosen[n % len(chosen)], n, dice)) for n in range(SENTENCES)]
    ccks = [_ccks(_record(chosen[-1 - n % len(chosen)], dice)) for n in range(RECORDS)]
    cmeee[-1]["entities"][0]["start_idx"] += 1  # the place and the mention no longer agree
    ccks[-1]["entity_list"][0]["entity_index"]["end"] += 1000  # beyond the text
    return [
        Sheet("cmeee_v2", CMEEE, "json", cmeee),
        Sheet("ccks2019", CCKS, "jsonl", ccks),
    ]


def _sentence(disease: Disease, number: int, dice: random.Random) -> list[Piece]:
    """A sentence as textbooks write it, in CMeEE's types."""
    name, department = ("dis", disease["name"]), ("dep", disease["department"][-1])
    symptoms = [("sym", word) for word in dice.sample(disease["symptoms"], 2)]
    check = dice.choice(disease["checks"])
    checked = ("ite" if any(word in check for word in LABORATORY) else "pro", check)
    forms: list[list[Piece]] = [
        [name, "患者常见", symptoms[0], "和", symptoms[1], "，检查首选", checked, "。"],
        ["出现", symptoms[0], "、", symptoms[1], "时应到", department, "就诊，警惕", name, "。"],
        [name, "可用", ("dru", dice.choice(disease["drugs"])), "，并定期做", checked, "。"],
        [name, "若不治疗，可并发", ("dis", dice.choice(disease["complications"])), "，表现为", symptoms[0], "。"],
    ]
    return forms[number % len(forms)]


def _record(disease: Disease, dice: random.Random) -> list[Piece]:
    """A case record in CCKS-2019's types, flat."""
    name, part = ("疾病和诊断", disease["name"]), ("解剖部位", disease["part"])
    pieces: list[Piece] = ["患者因", part, "不适入院，主诉", "、".join(dice.sample(disease["symptoms"], 2)), "。"]
    done = [(kind, check) for check in disease["checks"] if (kind := _kind(check))]
    for kind, check in done[:2]:
        pieces += ["查", (kind, check), "，"]
    pieces += ["诊断为", name, "，予", ("药物", dice.choice(disease["drugs"])), "治疗。"]
    operations = [treatment for treatment in disease["treatments"] if treatment.endswith(OPERATION)]
    return [*pieces, "择期行", ("手术", operations[0]), "。"] if operations else pieces


def _kind(check: str) -> str:
    if any(word in check for word in IMAGING):
        return "影像检查"
    return "实验室检验" if any(word in check for word in LABORATORY) else ""


def _placed(pieces: Sequence[Piece]) -> tuple[str, list[Span]]:
    """The text, and the span of every piece that is an entity."""
    text, spans = "", []
    for piece in pieces:
        kind, words = ("", piece) if isinstance(piece, str) else piece
        if kind:
            spans.append((kind, len(text), len(text) + len(words)))
        text += words
    return text, spans


def _inside(text: str, spans: Sequence[Span]) -> list[Span]:
    """The first body part named inside each symptom and disease."""
    nested = []
    for kind, begin, end in spans:
        word = next((word for word in BODY if word in text[begin:end]), "")
        if kind in ("sym", "dis") and word and word != text[begin:end]:
            start = text.index(word, begin)
            nested.append(("bod", start, start + len(word)))
    return nested


def _cmeee(pieces: Sequence[Piece]) -> dict[str, Any]:
    text, spans = _placed(pieces)
    entities = [
        {"start_idx": begin, "end_idx": end - 1, "type": kind, "entity": text[begin:end]}
        for kind, begin, end in sorted([*spans, *_inside(text, spans)], key=lambda span: (span[1], -span[2]))
    ]
    return {"text": text, "entities": entities}


def _ccks(pieces: Sequence[Piece]) -> dict[str, Any]:
    text, spans = _placed(pieces)
    entities = [
        {"entity_index": {"begin": begin, "end": end}, "entity_type": kind, "entity": text[begin:end]}
        for kind, begin, end in spans
    ]
    return {"text": text, "entity_list": entities}
