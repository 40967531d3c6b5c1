"""Where a text names options, as letters ("ABD", "A、B和E"), as an option's text, or as both ("B. 肺炎")."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

from qilin_lib.chimed.letters import converter
from qilin_lib.evaluate.cues import CUES

Options = dict[str, str]
MARK = "@"
"""Stands in the text that is read for one mention of options."""

LONGEST_PART, PART = 24, 0.5
_PIECES = re.compile(r"[()、,;]|[和与及]")

_INVISIBLE = re.compile(
    r"~~[^~\n]*~~|</?[a-z]+>|[\u200b-\u200f\u2060\ufeff\ufe0f]|[\U0001f300-\U0001faff✨]|\\[ ,;\[\]()]"
)
_CIRCLED = re.compile("[①-⑳]")
_LATEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{")
# "20 小时", "≥ 7.0 mmol/L": an option is written with or without these blanks.
_SPACED = re.compile(
    r"(?<=\d)[ \t]+(?=[\u4e00-\u9fff°%μ]|(?:mm?|[ckn]m|[mcnk]?g|m?[lL]|m?mol|mmHg|mcg|min|[hds])\b)"
    r"|(?<=[≥≤<>~])[ \t]+(?=\d)|(?<=[\u4e00-\u9fff])[ \t]+(?=[≥≤<>~])"
)
_EMPHASIS = re.compile(r"[*`$_]|(?m:^)#+")
# What Cantonese says in a reply of option and answer; the script itself is OpenCC's to simplify.
_CANTONESE = str.maketrans("係揀啱", "是选对")
_RANGE = re.compile(r"(?<![A-Z\d])([A-Z])[ \t]*[至到~–—-][ \t]*([A-Z])(?![A-Za-z\d-])")
_LETTERS = r"(?<![A-Za-z0-9°\-])[A-Z]+(?![A-Za-z0-9\-])"
_SMALL = re.compile(
    r"((?:答案|选项?|选择|[Aa]nswer(?: is)?|[Aa]ns|[Oo]ption|choose|it's)[\s:是为\"'(]*|\A[\s(]*)"
    r"([a-z]+(?:(?:[、,]\s?| )[a-z]\b){0,8})(?=[。.,;)\]】\"”]|$|\s+(?![a-z]))",
    re.MULTILINE,
)
_OPEN, _CLOSE = r"[(\[【「『\"'“]{0,2}", r"(?:选?项)?[)\]】」』\"'”]{0,2}"
_SAME = re.compile(rf"{_CLOSE}[ \t.、:,=—-]{{0,4}}{_OPEN}(?:选项)?{_OPEN}")
_FIRM = re.compile(rf"{_CLOSE}\s*(?:[、/&+|和与及同]|以及|,?\s*\band\b|,?[再外]加上?)\s*(?:选项)?{_OPEN}")
_LOOSE = re.compile(
    rf"{_CLOSE}\.?(?:\s*[,;]\s*|\s+|(?<=[)\]】])\s*(?=[(\[【])|\s*(?:\n\s*[-•(]\s*)?(?:\(?\d[.)、]\)?\s*)?)(?:选项)?{_OPEN}"
)
_EITHER = re.compile(r"(?:选?项)?\s*(?:或者?|还是|\bor\b)\s*(?:选项?|是)?")
_ENDED = re.compile(
    rf"{_CLOSE}(?:[两三四五]?个?选?项)?(?:\s*$|\s*[。.;!}}]|\s*\n|[均都](?!错|不)|[为是](?!错|不)|正确|\s*,(?!\s*[A-Z])"
    r"|\s+(?:are|is) (?!not|in|wrong))"
)
_TAIL = re.compile(r"[ ]?(?:这|那)?[一两二三四五六]?[个]?选?项(?!目)")
_ORDINAL = re.compile(
    r"(?:排在)?(?P<back>倒数)?第(?P<place>[一二三四五六七八1-8](?:[、,和及]第?[一二三四五六七八1-8])*)[个项种条位句点](?:选项|答案)?|选项\s*(?P<number>[一二三四五六七八](?!\w)|[甲乙丙丁戊])"
    r"|(?P<side>[前后]|\b(?:first|last)\b)\s*(?P<many>[两三四五]|two|three|four)(?:[个项者条种]|\s+(?:option|choice)s)"
    r"|(?P<last>最后)一[个项句条]|(?P<ends>首尾)两?[个项]"
    r"|\b(?P<rank>first|second|third|fourth|fifth|last) (?:option|choice)\b"
)
_NUMBERS = "一二三四五六七八"
_RANKS = dict(zip("甲乙丙丁戊", range(5), strict=True)) | {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4}
_MANY = {"两": 2, "三": 3, "四": 4, "五": 5, "two": 2, "three": 3, "four": 4}
# What repeats a mention where it is chosen ("故选之", "取后者").
_BACK = re.compile(r"(?:(?<=[选择取])(?:它|之|此项|该项|这一?[项个条])|(?<=[选择取是为])[前后]者)(?=\W|$)")


# Marks on both sides that make a part of an option stand for it.
_SET_APART = re.compile(rf"[“\"「『]{MARK}[”\"」』]|除(?:了|去)?{MARK}(?:[以之])?外")


class Mention(NamedTuple):
    """`letters` in the order written; `own`: with a letter, not by its text alone; `sure`: not one or another."""

    letters: str
    own: bool
    sure: bool
    start: int
    end: int


def normal(text: str) -> str:
    """A text as it is read: half width, simplified, without markup."""
    # Before NFKC, which makes ① a digit that would stick to the letter after it.
    text = _CIRCLED.sub(" ", _INVISIBLE.sub(" ", text))
    text = converter("t2s").convert(unicodedata.normalize("NFKC", text).translate(_CANTONESE))
    text = (
        _LATEX.sub(" ", re.sub(r"\}(?=[、,\s]*\\boxed\{)[、,\s]*\\boxed\{", ",", text))
        .replace("\\boxed{", "答案:")
        .replace("\\%", "%")
    )
    return _RANGE.sub(_range, _SPACED.sub("", _EMPHASIS.sub("", text))).strip()


def _range(match: re.Match) -> str:
    return "、".join(map(chr, range(ord(match[1]), ord(match[2]) + 1))) or match[0]


@lru_cache(maxsize=4096)
def plain(option: str) -> str:
    """An option's text as `normal` writes it."""
    return normal(option).rstrip("。.")


def marked(text: str, options: Options) -> tuple[str, list[Mention]]:
    """(a normal text with MARK for each mention, the mentions in order).

    A list is one mention, so is a letter with its text."""
    text = _SMALL.sub(lambda match: match[1] + _capitals(match[2], options), text.replace(MARK, " "))
    found = _chained(text, _joined(text, _single(text, options)))
    parts, last = [], 0
    for one in found:
        tail = _TAIL.match(text, one.end)
        parts += [text[last : one.start], MARK]
        last = tail.end() if tail else one.end
    return "".join([*parts, text[last:]]), found


def _capitals(written: str, options: Options) -> str:
    letters = re.sub(r"[^a-z]", "", written).upper()
    # "bad", "ace": words; a model that means several letters writes them in order.
    return written.upper() if set(letters) <= set(options) and list(letters) == sorted(set(letters)) else written


def _single(text: str, options: Options) -> list[Mention]:
    """Runs of letters, option texts and ordinals that are no part of a name."""
    words = {plain(option).lower(): letter for letter, option in options.items()}
    words = {word: letter for word, letter in words.items() if len(word) > 1 or word > MARK and not word.isascii()}
    ranked = sorted(words, key=len, reverse=True)
    pattern = re.compile("|".join([*map(_bounded, ranked), _LETTERS, _ORDINAL.pattern]))
    found = []
    for match in pattern.finditer(text):
        letters, own = words.get(match[0].lower(), ""), False
        if not letters and re.fullmatch("[A-Z]+", match[0]):
            letters, own = _letters(match, text, options), True
        elif not letters:
            letters = _ordinal(match, "".join(options))
        if letters:
            found.append(Mention(letters, own, True, match.start(), match.end()))
    found = sorted([*found, *_parts(text, found, options)], key=lambda one: one.start)
    return sorted([*found, *_repeated(text, found)], key=lambda one: one.start)


def _repeated(text: str, found: list[Mention]) -> Iterator[Mention]:
    """What stands for a mention before it: the topic of the last sentence with one, or "前者" and "后者" of two."""
    starts = [one.start for one in found]
    for match in _BACK.finditer(text):
        last = bisect(starts, match.start())
        before = [one for one in found[max(0, last - 9) : last] if len(one.letters) == 1]
        if before and "者" not in match[0]:
            first = text.rfind("。", max(0, before[-1].start - 200), before[-1].start)
            before = [one for one in before if one.start > first][:1]
        if at := before[-2:-1] if match[0] == "前者" else before[-1:]:
            yield Mention(at[0].letters, False, True, *match.span())


def _parts(text: str, found: list[Mention], options: Options) -> Iterator[Mention]:
    """What names an option by a part of its text that no other option holds ("酒精擦浴" of "用酒精大面积擦浴")."""
    owners, start, low = _owners(tuple(options.items())), 0, list(text.lower())
    for one in (one for one in found if low[one.start] != MARK):
        # Beside a letter of its own the text of an option only explains.
        first = text.rfind("\n", 0, one.start) + 1 if one.own else one.start
        last = text.find("\n", one.end) % (len(text) + 1) if one.own else one.end
        low[first:last] = MARK * (last - first)
    low = "".join(low)
    while start < len(low):
        end = start + 1
        while low[start : end + 1] in owners and end < len(low):
            end += 1
        letter = owners.get(low[start:end])
        set_apart = _SET_APART.search(low[start - 3 : start] + MARK + low[end : end + 2])
        if letter and (
            set_apart or _telling(low[start:end], low[start - 1 : start], low[end : end + 1], plain(options[letter]))
        ):
            yield Mention(letter, False, True, start, end)
        start = end


@lru_cache(maxsize=4096)
def _owners(options: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The options' parts, each with its option's letter, "" where two have it."""
    owners: dict[str, str] = {}
    for letter, option in options:
        option = plain(option).lower()
        for start, end in combinations(range(len(option) + 1), 2):
            if 2 <= end - start <= LONGEST_PART:
                part = option[start:end]
                owners[part] = letter if owners.get(part, letter) == letter else ""
    return owners


def _telling(part: str, before: str, after: str, option: str) -> bool:
    """Whether so much of an option's text names it."""
    core = part.strip(" ,.、()的;:")
    if re.match("[a-z0-9.~-][a-z0-9]", before + part[0]) or re.match("[a-z0-9]{2}", part[-1] + after):
        return False
    if core.isascii() and (len(core) < 3 or not re.search("[a-z]", core)):
        return False
    return len(core) > max(2, min(3, PART * len(option))) or len(core) > 1 and core in _PIECES.split(option.lower())


def _bounded(word: str) -> str:
    if len(word) == 1:
        return rf"(?<![^\W为是选]){word}(?=\W|$|是)"
    before = r"(?<![A-Za-z0-9.~–-])" if re.match(r"[A-Za-z0-9]", word) else ""
    after = r"(?![A-Za-z0-9])" if re.search(r"[A-Za-z0-9]$", word) else ""
    return f"{before}(?i:{re.escape(word)}){after}"


def _letters(match: re.Match, text: str, options: Options) -> str:
    """A run of letters, "" where it is part of a name or no list of options."""
    letters, before = match[0], text[max(0, match.start() - 10) : match.start()]
    if not set(letters) <= set(options) or len(set(letters)) < len(letters):
        return ""
    if list(letters) != sorted(letters) and not re.search(r"(?:答案|[:是为选])\s*$", before):
        return ""
    if len(letters) == 1 and text.startswith(plain(options[letters]), match.end()):
        return letters
    return "" if CUES.terms.match(text, match.end()) else letters


def _ordinal(match: re.Match, letters: str) -> str:
    """The letters of "第二个选项", "前两项", "最后一项"."""
    if match["last"] or match["rank"] == "last":
        return letters[-1]
    if match["ends"]:
        return letters[0] + letters[-1]
    if match["side"]:
        many = _MANY[match["many"]]
        return letters[:many] if match["side"] in ("前", "first") else letters[-many:]
    if (single := match["rank"] or match["number"]) in _RANKS:
        return letters[_RANKS[single] :][:1]
    letters = letters[::-1] if match["back"] else letters
    numbers = re.findall(rf"[{_NUMBERS}\d]", match["place"] or match["number"])
    places = [_NUMBERS.index(number) if number in _NUMBERS else int(number) - 1 for number in numbers]
    return "".join(letters[place : place + 1] for place in places)


def _named_twice(text: str, single: list[Mention]) -> Iterator[Mention]:
    """A letter and its own text as one mention."""
    last: Mention | None = None
    for one in single:
        between = text[last.end : one.start] if last else ""
        if last and one.letters in last.letters[-1:] and last.own != one.own and _SAME.fullmatch(between):
            end = one.end + (text[one.end : one.end + 1] == ")" and "(" in between)
            last = last._replace(own=True, end=end)
            continue
        if last:
            yield last
        last = one
    if last:
        yield last


def _joined(text: str, single: list[Mention]) -> list[Mention]:
    """Lists that say what joins them ("A、B和C", "A或B") as one mention."""
    found: list[Mention] = []
    for one in _named_twice(text, single):
        last = found[-1] if found else one
        wide = re.sub(r"\([^()√✓✔×✗✘对错正误是否符不]{0,40}\)", "", text[last.end : one.start])
        if found and _EITHER.fullmatch(wide):
            found[-1] = _both(last, one)._replace(sure=False)
        elif found and _FIRM.fullmatch(wide) and not set(one.letters) & set(last.letters):
            found[-1] = _both(last, one)
        else:
            found.append(one)
    return found


def _chained(text: str, every: list[Mention]) -> list[Mention]:
    """Lists with commas, blanks or lines between ("A, B, D"), if nothing is said of the last one alone."""
    found, first = [], 0
    for place, one in enumerate(every):
        more = every[place + 1] if place + 1 < len(every) else None
        if more and _LOOSE.fullmatch(text[one.end : more.start]) and one.letters < more.letters:
            continue
        chain = every[first : place + 1]
        if len(chain) > 1 and _ENDED.match(text, one.end):
            letters = "".join(part.letters for part in chain)
            chain = [
                Mention(
                    letters, any(part.own for part in chain), all(part.sure for part in chain), chain[0].start, one.end
                )
            ]
        found += chain
        first = place + 1
    return found


def _both(last: Mention, one: Mention) -> Mention:
    return Mention(last.letters + one.letters, last.own or one.own, last.sure and one.sure, last.start, one.end)
