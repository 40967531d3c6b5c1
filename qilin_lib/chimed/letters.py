"""Texts as decontamination compares them: letters and digits, folded, and the borders at which a question may begin.

Folded are case, width, compatibility forms (Unicode NFKC) and traditional characters (OpenCC's tables, character by
character). What is folded together need not be the same word: only that two writings of one word come out alike counts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from opencc import OpenCC

# A border is SOFT between scripts and beside digits ("A利舍平", "A3天"), HARD where something stands between letters,
# and around these words.
SOFT, HARD = 1, 2
_POLITE = (
    "医生", "医师", "大夫", "专家", "老师", "主任", "教授", "您好", "你好", "们好", "大家好", "在吗",
    "请问", "问一下", "问下", "问问", "想问", "咨询", "咨询下", "请教", "想知道", "想了解", "麻烦", "告诉我",
    "帮忙看看", "帮我看看", "请回答", "请解答", "求助", "求问", "求解答", "求回复", "求帮助",
    "谢谢", "谢了", "感谢", "多谢", "拜托", "在线等", "急急急", "一下", "呢", "啊", "呀",
)  # fmt: skip
# Before these, a statement's end becomes a question ("最长的肌肉是|什么").
_ASKING = ("什", "哪", "谁", "多少")
# What numbers a list, or a quantity.
_NUMBERS = "0123456789〇零一二三四五六七八九十"
# Numbers in circles and brackets mark options: each is a word of its own.
_MARKS = ((0x2460, 0x2500), (0x2776, 0x2794), (0x3220, 0x322A), (0x3280, 0x328A), (0x32B1, 0x32C0))
_END, _SEVERAL = 1, 2
# Blocks whose characters have compatibility forms or capitals; behind the last extension of the Han script.
_COMPATIBLE = ((0x30, 0x3400), (0xA000, 0xAC00), (0xF900, 0x10000), (0x1D400, 0x1D800), (0x2F800, 0x2FA20))
_LAST = 0x323B0
# Characters that OpenCC tells apart by the words they stand in only.
_BY_PHRASE = (("覆", "复"), ("瞭", "了"), ("藉", "借"), ("甦", "苏"), ("像", "象"), ("揹", "背"), ("钜", "巨"))
_HAN = [chr(code) for first, end in ((0x3400, 0x4DC0), (0x4E00, 0xA000)) for code in range(first, end)]


@dataclass(frozen=True, slots=True)
class Letters:
    """The letters of texts, end to end.

    codes: folded code points, uint32 [n]; borders: 0, SOFT or HARD before each letter and at the end, uint8 [n + 1];
    starts: the place of each text's first letter, and n, int64 [texts + 1].
    """

    codes: np.ndarray
    borders: np.ndarray
    starts: np.ndarray

    def text(self, number: int) -> str:
        """The letters of a text."""
        return decoded(self.codes[self.starts[number] : self.starts[number + 1]])

    def without_numbers(self) -> Letters:
        """The same texts without digits and Chinese numerals; the borders are those before the letters that stay."""
        kept = ~np.isin(self.codes, _codes(_NUMBERS))
        before = np.concatenate([[0], np.cumsum(kept)])
        return Letters(self.codes[kept], self.borders[np.append(kept, True)], before[self.starts])


def letters(texts: Sequence[str]) -> Letters:
    """The letters of `texts`. Time and memory are linear in their characters (some 40 bytes each)."""
    joined = "".join([f"{text}\x01" for text in texts])
    whole = _single(np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32))
    at = np.flatnonzero(whole > _END)
    codes = whole[at]
    borders = np.full(len(codes) + 1, HARD, dtype=np.uint8)
    script = (codes > ord("9")).astype(np.uint8) + (codes >= 0x2E80)
    borders[1:-1] = script[1:] != script[:-1]
    borders[1:-1][np.diff(at) > 1] = HARD
    starts = np.concatenate([[0], np.searchsorted(at, np.flatnonzero(whole == _END))])
    _around_words(codes, borders)
    return Letters(codes, borders, starts)


def folded(text: str) -> str:
    """The letters of one text."""
    return letters([text]).text(0)


def impolite(text: str) -> str:
    """Folded letters without the words of greeting, asking and thanking."""
    for word in _POLITE:
        text = text.replace(word, "")
    return text


def decoded(codes: np.ndarray) -> str:
    """Code points as a string."""
    return codes.tobytes().decode("utf-32-le", "surrogatepass")


def _around_words(codes: np.ndarray, borders: np.ndarray) -> None:
    begins = np.flatnonzero(_polite_beginnings().take(codes, mode="clip"))
    for word in _POLITE:
        at = begins[begins <= len(codes) - len(word)]
        for place, letter in enumerate(word):
            at = at[codes[at + place] == ord(letter)]
        borders[at] = borders[at + len(word)] = HARD
    for word in _ASKING:
        at = np.flatnonzero(codes[: len(codes) - len(word) + 1] == ord(word[0]))
        for place, letter in enumerate(word[1:], 1):
            at = at[codes[at + place] == ord(letter)]
        borders[at] = np.maximum(borders[at], SOFT)


@cache
def _polite_beginnings() -> np.ndarray:
    table = np.zeros(_LAST + 1, dtype=bool)
    table[_codes([word[0] for word in _POLITE])] = True
    return table


def _single(codes: np.ndarray) -> np.ndarray:
    """Folded code points, 0 for what is no letter; characters that stand for several are written out."""
    table, several = _table()
    whole = table.take(codes, mode="clip")
    at = np.flatnonzero(whole == _SEVERAL)
    if not len(at):
        return whole
    present = codes[at]
    sizes = np.ones(len(whole), dtype=np.int64)
    sizes[at] = [len(several[code]) for code in present.tolist()]
    places = (np.cumsum(sizes) - sizes)[at]
    whole = np.repeat(whole, sizes)
    for code in np.unique(present):
        for offset, letter in enumerate(several[code]):
            whole[places[present == code] + offset] = letter
    return whole


@cache
def _table() -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """What each code point becomes (uint32; 0: no letter), and the characters that become `_SEVERAL`: {code: codes}.

    What lies beyond the table is no letter, as its last entry says.
    """
    table = np.zeros(_LAST + 1, dtype=np.uint32)
    for first, end in ((0xAC00, 0xD7A4), (0x20000, _LAST)):
        table[first:end] = np.arange(first, end)
    codes = [code for first, end in _COMPATIBLE for code in range(first, end)]
    # Nothing composes across U+0000.
    forms = unicodedata.normalize("NFKC", "\0".join(map(chr, codes))).lower().split("\0")
    written: dict[int, str] = {}
    for code, plain in zip(codes, forms, strict=True):
        if plain.isalnum() and len(plain) == 1:
            table[code] = ord(plain)
        elif len(plain) > 1 and any(map(str.isalnum, plain)):
            written[code] = plain
    written |= {code: f" {_number(chr(code))} " for first, end in _MARKS for code in range(first, end)}
    table[_codes(_HAN)] = _codes(_HAN)
    table = _simplified()[table]
    several = {code: table[_codes(plain)] for code, plain in written.items()}
    table[list(several)] = _SEVERAL
    table[_END] = _END
    return table, several


def _number(mark: str) -> str:
    digit = unicodedata.digit(mark, None)
    return unicodedata.normalize("NFKC", mark).lower() if digit is None else str(digit)


def _simplified() -> np.ndarray:
    """Each code point, Han characters in one form: as OpenCC simplifies them, and the variants of Taiwan and Hong Kong.

    Of a character that the regions simplify in two ways (顎: 颚, 腭) both become one.
    """
    table = np.arange(_LAST + 1, dtype=np.uint32)
    simple = _converted("t2s", _HAN)
    table[_codes(_HAN)] = _codes(simple)
    merged = table.copy()
    regional = _converted("hk2s", _converted("tw2s", _HAN))
    differing = [(one, other) for one, other in zip(simple, regional, strict=True) if one != other]
    ones, others = zip(*differing, *_BY_PHRASE, strict=True)
    merged[_codes(ones)] = table[_codes(others)]
    return merged[table]


def _converted(way: str, characters: Sequence[str]) -> list[str]:
    return OpenCC(way).convert("\n".join(characters)).split("\n")


def _codes(characters: Sequence[str]) -> np.ndarray:
    return np.frombuffer("".join(characters).encode("utf-32-le"), dtype=np.uint32)
