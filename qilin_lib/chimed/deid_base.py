"""What the rules of de-identification are made of: a rule, its finders, and the lists of words in data/deid_words.yaml.

HIDDEN (for names NAMED) stands for text that an earlier rule took; no pattern may consume it. Every quantifier in
front of something that may fail is bounded, so that no text takes longer than its length allows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files

import yaml

# Private use: neither word characters nor Chinese ones.
HIDDEN, NAMED = "\ue000", "\ue001"
KINDS = (
    "邮箱", "网址", "身份证号", "证件号", "病历号", "电话", "账号", "车牌", "床号", "出生日期", "地址", "姓名",
)  # fmt: skip
Spans = Iterator[tuple[int, int]]
Finder = Callable[[str], Spans]
Accept = Callable[[re.Match[str]], object]

HAN = "[\u4e00-\u9fa5]"
# What may stand between a cue and its value: "号码是：", "： ".
IS = r"(?:是|为)? ?[：:]? ?"
WORDS: dict[str, str] = yaml.safe_load(
    files("qilin_lib.chimed").joinpath("data/deid_words.yaml").read_text(encoding="utf-8")
)


@dataclass(frozen=True, slots=True)
class Rule:
    """`spans(text)` yields (start, end) of identifiers of type `kind`, in order and without overlap.

    Every text with a match holds one of the `hints`, regular expressions that begin with a plain character.
    """

    kind: str
    hints: tuple[str, ...]
    spans: Finder


def by(pattern: str, accept: Accept = bool) -> Finder:
    """The group `id` of every match that `accept` takes."""
    search = re.compile(pattern).finditer

    def spans(text: str) -> Spans:
        return (match.span("id") for match in search(text) if accept(match))

    return spans


def listed(key: str) -> list[str]:
    """The words of one list of data/deid_words.yaml."""
    return WORDS[key].split()


def either(words: Iterable[str], then: str = "") -> str:
    """Alternatives, each of which begins with its own plain character; the longer of two comes first."""
    return "|".join(word + then for word in sorted(words, key=len, reverse=True))


def ended(words: Iterable[str], then: str = "") -> tuple[str, ...]:
    """Hints for words of two or more characters, by their ends: fewer first characters make a faster search."""
    ends: dict[str, set[str]] = {}
    for word in words:
        ends.setdefault(word[-1], set()).add(word[-2])
    return tuple(f"{last}(?<=[{''.join(sorted(before))}]{last}){then}" for last, before in sorted(ends.items()))


# What a reply begins with before the value that was asked for: "患者：好的，我叫".
_REPLY = (
    r"(?:(?:患者|病人|家属|用户|家长|本人|客户|母亲|父亲|患儿家长)[：:])? ?"
    r"(?:(?:好的?|嗯{1,3}|是的?|对|行|可以|有的?|您?你?好)[，,。！ ]{1,2})?"
    r"(?:(?:我|他|她|孩子|宝宝|患者|病人)?(?:的?(?:名字|姓名|电话|手机|微信|地址|生日|号码))?"
    r"(?:叫做?|是|在|住在?|：|:)?)? ?"
)


def answered(cue: str, value: str, accept: Accept = bool) -> Finder:
    """A value at the beginning of the line after a line that asks for it.

    The cue stands among the last 24 characters of its line, or of the turn: turns are lines (see deidentify).
    """
    cues, reply = re.compile(rf"(?:{cue})[^\n\d{HIDDEN}]{{0,24}}\n+").finditer, re.compile(_REPLY + value)

    def spans(text: str) -> Spans:
        for asked in cues(text):
            match = reply.match(text, asked.end())
            if match and accept(match):
                yield match.span("id")

    return spans
