"""Texts as decontamination compares them: letters and digits, folded, and the borders at which a question may begin.

Folded are case, width, compatibility forms (Unicode NFKC) and traditional characters (OpenCC's tables).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from opencc import OpenCC

from qilin_lib.chimed.shingles import code_points

# Where a text may begin or end: SOFT between scripts and beside digits ("A利舍平", "A3天"), HARD where something stands
# between letters, and around words of greeting, asking and thanking.
SOFT, HARD = 1, 2
# Behind each text, and nowhere in one.
END = "\U0010ffff"
NUMBERS = "0123456789〇零一二三四五六七八九十"
_POLITE = (
    "医生", "医师", "大夫", "专家", "老师", "主任", "教授", "您好", "你好", "们好", "大家好", "在吗",
    "请问", "问一下", "问下", "问问", "想问", "咨询", "咨询下", "请教", "想知道", "想了解", "麻烦", "告诉我",
    "帮忙看看", "帮我看看", "请回答", "请解答", "求助", "求问", "求解答", "求回复", "求帮助",
    "谢谢", "谢了", "感谢", "多谢", "拜托", "在线等", "急急急", "一下", "呢", "啊", "呀",
)  # fmt: skip
# {word: the borders before and behind it}. Before what asks, a statement ends as a question ("最长的肌肉是|什么").
_BORDERS = dict.fromkeys(_POLITE, (HARD, HARD)) | dict.fromkeys(("什", "哪", "谁", "多少"), (SOFT, 0))
# Numbers in circles and brackets mark options: each is a word of its own.
_MARKS = ((0x2460, 0x2500), (0x2776, 0x2794), (0x3220, 0x322A), (0x3280, 0x328A), (0x32B1, 0x32C0))
# Characters that regions simplify in two ways, and those that OpenCC tells apart by the words they stand in only.
_SAME = str.maketrans("么敍枱潀痺睪簷粧糭著苧衞衹颚鲶覆瞭藉甦像揹钜", "幺叙台潨痹睾檐妆粽着苎卫只腭鲇复了借苏象背巨")
# What each code point becomes, filled as characters are met: no letter, or so many _SEVERAL as its _FORMS has letters.
_UNMET, _NONE, _SEVERAL = 0, 1, 2
_TABLE = np.zeros(0x110000, dtype=np.uint32)
_TABLE[ord(END)] = ord(END)
_FORMS: dict[int, np.ndarray] = {}
_BEGINS = np.zeros(len(_TABLE), dtype=bool)
_BEGINS[[ord(word[0]) for word in _BORDERS]] = True
_NUMBERS = np.zeros(len(_TABLE), dtype=bool)
_NUMBERS[[*map(ord, NUMBERS)]] = True
converter = cache(OpenCC)


class Letters(NamedTuple):
    """The letters of texts, end to end, END behind each.

    codes: folded code points, uint32 [n]; borders: 0, SOFT or HARD before each letter and at the end, uint8 [n + 1].
    """

    codes: np.ndarray
    borders: np.ndarray

    def __str__(self) -> str:
        return self.codes.tobytes().decode("utf-32-le")

    def without_numbers(self) -> Letters:
        """The same texts without digits and Chinese numerals; the borders are those before the letters that stay."""
        kept = np.flatnonzero(~_NUMBERS.take(self.codes))
        return Letters(self.codes[kept], self.borders[np.append(kept, len(self.codes))])


def letters(texts: Sequence[str]) -> Letters:
    """The letters of `texts`. Time and memory are linear in their characters (some 40 bytes each)."""
    whole = _folded("".join([text.replace(END, " ") + END for text in texts]))
    at = np.flatnonzero(whole > _NONE)
    codes = whole[at]
    script = (codes > ord("9")).astype(np.uint8) + (codes >= 0x2E80) + (codes == ord(END))
    borders = np.full(len(codes) + 1, HARD, dtype=np.uint8)
    borders[1:-1] = script[1:] != script[:-1]
    borders[1:-1][(np.diff(at) > 1) | (script[1:] == 3) | (script[:-1] == 3)] = HARD
    begins = np.flatnonzero(_BEGINS.take(codes))
    begins = begins[np.argsort(codes[begins], kind="stable")]
    firsts = codes[begins]
    for word, (before, behind) in _BORDERS.items():
        at = begins[slice(*np.searchsorted(firsts, (ord(word[0]), ord(word[0]) + 1)))]
        at = at[at <= len(codes) - len(word)]
        for place, letter in enumerate(word[1:], start=1):
            at = at[codes[at + place] == ord(letter)]
        borders[at] = np.maximum(borders[at], before)
        borders[at + len(word)] = np.maximum(borders[at + len(word)], behind)
    return Letters(codes, borders)


def folded(texts: Sequence[str]) -> list[str]:
    """The letters of each text."""
    return str(letters(texts)).split(END)[:-1]


def impolite(text: str) -> str:
    """Folded letters without the words of greeting, asking and thanking."""
    for word in _POLITE:
        text = text.replace(word, "")
    return text


def _folded(text: str) -> np.ndarray:
    """Folded code points, _NONE for what is no letter; characters that stand for several are written out."""
    codes = code_points(text)
    whole = _TABLE.take(codes)
    for code in np.unique(codes[whole == _UNMET]).tolist():
        form = _form(chr(code))
        _TABLE[code] = _NONE if form.isspace() else ord(form) if len(form) == 1 else _SEVERAL
        if _TABLE[code] == _SEVERAL:
            _FORMS[code] = _folded(form)
    whole = _TABLE.take(codes)
    at = np.flatnonzero(whole == _SEVERAL)
    if not len(at):
        return whole
    forms = [_FORMS[code] for code in codes[at].tolist()]
    counts = np.ones(len(whole), dtype=np.int64)
    counts[at] = [*map(len, forms)]
    whole = np.repeat(whole, counts)
    whole[whole == _SEVERAL] = np.concatenate(forms)
    return whole


def _form(character: str) -> str:
    """What a character is compared by: letters, and blanks for what parts them."""
    plain = unicodedata.normalize("NFKC", character).lower()
    if any(first <= ord(character) < end for first, end in _MARKS):
        plain = f" {plain if plain != character else int(unicodedata.numeric(character, 0))} "
    simple = converter("t2s").convert
    return "".join([simple(letter).translate(_SAME) if letter.isalnum() else " " for letter in plain])
