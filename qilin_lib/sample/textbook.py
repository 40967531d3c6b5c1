"""Plain text: one textbook chapter per department and one file of health guides."""

from __future__ import annotations

import random
from typing import Any

from qilin_lib.sample import facts
from qilin_lib.sample.facts import Disease
from qilin_lib.sample.sheets import Sheet
from qilin_lib.sample.wording import listing, rng, sentence, vary

NUMERALS = "零一二三四五六七八九"
WIDTH = 26  # The real guides come from PDF pages and are broken in the middle of a sentence.


def sheets(diseases: list[Disease], seed: int) -> list[Sheet]:
    """plain_text/textbook/*.txt, every second one in GB18030, and plain_text/guides/guides.json."""
    chapters: dict[str, list[Disease]] = {}
    for disease in diseases:
        chapters.setdefault(disease["department"][0], []).append(disease)
    made = []
    for number, (department, members) in enumerate(sorted(chapters.items())):
        encoding = "gb18030" if number % 2 else "utf-8"
        path = f"plain_text/textbook/{number + 1:02d}-{department}常见病.txt"
        made.append(Sheet("plain_text", path, "lines", _chapter(department, members, seed), encoding=encoding))
    guides = [_guide(department, members, seed) for department, members in sorted(chapters.items())]
    wrap = {"source": "sample", "updated": "2024-01"}
    return [*made, Sheet("plain_text", "plain_text/guides/guides.json", "json", guides, wrap=wrap)]


def _chapter(department: str, members: list[Disease], seed: int) -> list[str]:
    dice = rng(seed, f"textbook:{department}")
    lines = [f"{department}常见病", "", f"本章介绍{department}门诊中较常遇到的{number_word(len(members))}种疾病。", ""]
    for place, disease in enumerate(members, start=1):
        lines += [f"第{number_word(place)}节　{disease['name']}", "", *_section(disease, dice), ""]
    return lines


def number_word(number: int) -> str:
    """Chinese numeral of 0 to 99."""
    tens, ones = divmod(number, 10)
    if not tens:
        return NUMERALS[ones]
    return ("" if tens == 1 else NUMERALS[tens]) + "十" + (NUMERALS[ones] if ones else "")


def _section(disease: Disease, dice: random.Random) -> list[str]:
    def told(key: str) -> str:
        return sentence(vary(disease[key], dice))

    def some(aspect: str) -> str:
        return facts.prose(disease, aspect, dice)

    name = disease["name"]
    alias = f"{name}又称{'、'.join(disease['alias'])}。" if disease["alias"] else ""
    spread = f"传染性：{disease['infectious']}。本病" + ("属于" if disease["insured"] else "不属于") + "医保疾病。"
    foods = listing(disease["diet_do"], dice, 3)
    return [
        f"【概述】{told('description')}{alias}{some('part')}{some('population')}{spread}",
        f"【病因】{told('cause')}",
        f"【临床表现】{some('symptoms')}{some('complications')}",
        f"【检查与诊断】{some('checks')}初诊可由{'、'.join(disease['department'])}承担。",
        f"【治疗】{told('treatment_text')}治疗方式包括{'、'.join(disease['treatments'])}。{some('drugs')}{some('course')}",
        f"【预后】{told('prognosis')}",
        f"【饮食】{told('diet_text')}宜选{foods}；少用{listing(disease['diet_dont'], dice, 3)}。",
        f"【预防】{told('prevention')}",
        f"【就医提示】{told('advice')}",
    ]


def _guide(department: str, members: list[Disease], seed: int) -> dict[str, Any]:
    dice = rng(seed, f"guide:{department}")
    title = f"{department}常见病居家健康指导"
    blocks = [f"- {number_word(1)} -", title]
    for place, disease in enumerate(members, start=1):
        body = facts.prose(disease, "advice", dice) + facts.prose(disease, "prevention", dice)
        body = f"（{number_word(place)}）{disease['name']}。{body}{facts.prose(disease, 'diet_do', dice)}"
        blocks += [body[cut : cut + WIDTH] for cut in range(0, len(body), WIDTH)]
    return {"title": title, "year": "2024", "content": "\n".join(blocks)}
