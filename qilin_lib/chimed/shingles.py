"""Character n-grams of a text's skeleton, and what makes two texts one: the same words with the same signs."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

_WORDS = re.compile(r"[^\W_]+")
_STRONG = "+<>≤≥±↑↓‰≠√×♂♀"
_MEANT = "-.," + _STRONG
_SIGNS = re.compile(f"[{re.escape(_MEANT)}]+")
_FORMS = str.maketrans("−–—~～≦≧·", "-----≤≥.")
# A sign, a comparison; a minus in brackets or before a number; whatever parts two numbers. The first character stands
# in one class, which the engine finds fast; what it must be followed by is said after it.
_SIGN = re.compile(
    r"[-+＋±<>＜＞≤≥≦≧↑↓‰≠√×♂♀(（−–—－0-9０-９](?:(?<=[<>＜＞])[=＝]?|(?<=[+＋±≤≥≦≧↑↓‰≠√×♂♀])|(?<=[(（])[-−–—－]+[)）]"
    r"|(?<=\d)[\W_]+(?=\d)|(?<=[-−–—－])(?=\d)(?<![A-Za-z0-9_−–—－-].))"
)
# Characters around a sign by which its place is known in another text.
_AROUND = 8
# A gram's hash is sum(code point * odd constant) mod 2**64, mixed. The constants depend on no library's version.
# So many characters hashed at once stay in a core's cache.
_CHUNK = 1 << 14
_ODD = np.frombuffer(hashlib.shake_256(b"character n-grams").digest(64 * 8), dtype="<u8") | np.uint64(1)


def skeleton(text: str) -> str:
    """Letters, digits and CJK characters only, NFKC, lower case: "Ｂ超  检查。" -> "b超检查"."""
    bones = "".join(_WORDS.findall(text))
    # Punctuation is gone already, so that almost every text is NFKC now and skips the slow normalisation.
    if not unicodedata.is_normalized("NFKC", bones):
        bones = "".join(_WORDS.findall(unicodedata.normalize("NFKC", bones)))
    return bones.lower()


def identity(text: str) -> str:
    """The skeleton of a text with the signs that change what it says: "P＜0.05，(－) 2.5mg" -> "p<0.05-2.5mg".

    Kept are _STRONG, a minus in brackets or before a number, and one of . - , for whatever parts two numbers.
    """
    parts, last = [], 0
    for found in _SIGN.finditer(text):
        cut = found.start() + found[0][0].isdecimal()
        parts += [*_WORDS.findall(text, last, cut), _sign(text[cut : found.end()])]
        last = found.end()
    if not last:
        return skeleton(text)
    parts += _WORDS.findall(text, last)
    whole = "".join(parts)
    if not unicodedata.is_normalized("NFKC", whole):
        whole = "".join(part if part[0] in _MEANT else skeleton(part) for part in parts)
    return whole.lower()


@lru_cache(1 << 14)
def _sign(between: str) -> str:
    marks = unicodedata.normalize("NFKC", between).translate(_FORMS)
    if strong := "".join(mark for mark in marks.replace("<=", "≤").replace(">=", "≥") if mark in _STRONG):
        return strong
    return marks if marks == "." else "-" if "-" in marks else ","


def differ_in_signs(one: str, other: str) -> bool:
    """Whether two texts (each its `identity`) somewhere have the same letters with other signs between them."""
    if not (_SIGNS.search(one) or _SIGNS.search(other)):
        return False
    one, other = f"\n{one}\n", f"\n{other}\n"
    forms, others = _signed(one), _signed(other)
    for letters in forms.keys() | others.keys():
        own, theirs = forms.get(letters, frozenset()), others.get(letters, frozenset())
        if own.isdisjoint(theirs):
            # Where they stand in a text as they are, they stand there without signs.
            bare, also_bare = letters in one, letters in other
            if (own or bare) and (theirs or also_bare) and not (bare and also_bare):
                return True
    return False


def _signed(text: str) -> dict[str, set[str]]:
    """{`_AROUND` letters in a row: the forms in which they stand with signs between them}."""
    letters = _SIGNS.sub("", text)
    size = min(_AROUND, len(letters))
    forms: dict[str, set[str]] = {}
    last = 0
    # Where each letter stands in the text.
    places: list[int] = []
    starts: set[int] = set()
    for found in _SIGNS.finditer(text):
        places += range(last, found.start())
        last = found.end()
        starts.update(range(max(0, len(places) - size + 1), len(places)))
    places += range(last, len(text))
    for start in starts:
        if start + size <= len(letters):
            form = text[places[start] : places[start + size - 1] + 1]
            forms.setdefault(letters[start : start + size], set()).add(form)
    return forms


def gram_set(bones: str, size: int) -> frozenset[str]:
    """The distinct character n-grams of a skeleton; a shorter skeleton is its own only gram, an empty one has none."""
    if len(bones) <= size:
        return frozenset([bones] if bones else [])
    return frozenset(bones[at : at + size] for at in range(len(bones) - size + 1))


def gram_hashes_many(skeletons: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """64-bit hashes (uint64, one a position) of the character n-grams of skeletons, end to end, and their offsets.

    Those of skeleton i are hashes[offsets[i] : offsets[i + 1]], int64 [len(skeletons) + 1]; same cases as `gram_set`.
    """
    lengths = np.fromiter(map(len, skeletons), dtype=np.int64, count=len(skeletons))
    counts = np.where(lengths < size, lengths > 0, lengths - size + 1)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if not offsets[-1]:
        return np.empty(0, dtype=np.uint64), offsets
    # U+0000 adds nothing to a hash: a skeleton shorter than a gram, followed by it, keeps the hash that it has alone.
    gap = "\0" * (size - 1)
    hashes = window_hashes(code_points(gap.join(skeletons) + gap), size)
    starts = np.cumsum(lengths + size - 1) - (lengths + size - 1)
    return hashes[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)], offsets


def window_hashes(codes: np.ndarray, width: int) -> np.ndarray:
    """The hash of the `width` code points (uint32) from each place on, uint64 [max(0, len(codes) - width + 1)]."""
    total = np.zeros(max(0, len(codes) - width + 1), dtype=np.uint64)
    for at in range(0, len(total), _CHUNK):
        part = total[at : at + _CHUNK]
        wide = codes[at : at + len(part) + width - 1].astype(np.uint64)
        for offset in range(width):
            part += wide[offset : offset + len(part)] * _ODD[offset]
    return _mixed(total)


def growing_hashes(codes: np.ndarray, at: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """For each length from 1 to `most` the hashes, as `window_hashes`, of so many code points from places `at`, rising.

    As many as there are windows that end within `codes`.
    """
    total = np.zeros(len(at), dtype=np.uint64)
    for offset in range(most):
        at = at[: np.searchsorted(at, len(codes) - offset)]
        total = total[: len(at)] + codes[at + offset] * _ODD[offset]
        yield _mixed(total.copy())


def _mixed(total: np.ndarray) -> np.ndarray:
    total ^= total >> np.uint64(31)
    total *= np.uint64(0x9E3779B97F4A7C15)
    total ^= total >> np.uint64(29)
    return total


def code_points(text: str) -> np.ndarray:
    """The code points of a text, uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
