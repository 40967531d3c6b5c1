"""What the rules of de-identification are made of: rules in groups, finders, and the words in data/deid_words.yaml.

HIDDEN (for names NAMED) stands for text that was taken, as one character; no pattern may consume it. Every quantifier
in front of something that may fail is bounded, so that no text takes longer than its length allows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from typing import NamedTuple

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
_WORDS: dict[str, str] = yaml.safe_load(
    files("qilin_lib.chimed").joinpath("data/deid_words.yaml").read_text(encoding="utf-8")
)


class Rule(NamedTuple):
    """`spans(text)` yields (start, end) of identifiers of type `kind`, in order and without overlap."""

    kind: str
    spans: Finder


class Group(NamedTuple):
    """Rules that find something only in texts in which `search` does, the search for the pattern `hint`."""

    hint: str
    search: Callable[[str], object]
    rules: tuple[Rule, ...]


def group(hint: str, *rules: Rule) -> Group:
    """Rules with their hint, whose alternatives begin with a plain character each: the engine skips quickly then."""
    return Group(hint, re.compile(hint).search, rules)


def each(heads: str, rest: str) -> str:
    """Alternatives that begin with one of `heads` and go on with `rest`."""
    return "|".join(re.escape(head) + rest for head in heads)


def by(pattern: str, accept: Accept = bool) -> Finder:
    """The last group of every match that `accept` takes."""
    search = re.compile(pattern).finditer

    def spans(text: str) -> Spans:
        return (match.span(match.lastgroup) for match in search(text) if accept(match))

    return spans


def near(anchor: str, pattern: str, accept: Accept = bool, reach: int = 24) -> Finder:
    """As `by`, for a pattern whose matches lie within `reach` characters of an anchor: nothing else is searched."""
    anchors, search = re.compile(anchor).finditer, re.compile(pattern).search

    def spans(text: str) -> Spans:
        last = 0
        for place in anchors(text):
            if place.start() >= last:
                start = max(last, place.start() - reach)
                while (match := search(text, start, place.end() + reach)) and match.start() <= place.end():
                    start = last = match.end()
                    if accept(match):
                        yield match.span(match.lastgroup)

    return spans


def listed(key: str) -> list[str]:
    """The words of one list of data/deid_words.yaml."""
    return _WORDS[key].split()


def trie(words: Iterable[str]) -> str:
    """Alternatives for plain words, by their first characters; the longer of two comes first."""
    tails: dict[str, set[str]] = {}
    for word in words:
        tails.setdefault(word[0], set()).add(word[1:])
    return "|".join(_branch(head, tails[head]) for head in sorted(tails))


def _branch(head: str, tails: set[str]) -> str:
    rest = trie(tails - {""})
    return re.escape(head) + (f"(?:{rest}){'?' if '' in tails else ''}" if rest else "")


# What a reply begins with before the value that was asked for: "患者：好的，我叫".
REPLY = (
    r"(?:(?:患者|病人|家属|用户|家长|本人|客户|母亲|父亲|患儿家长|答)[：:]“?)? ?"
    r"(?:(?:好的?|嗯{1,3}|是的?|对|行|可以|有的?|您?你?好)[，,。！ ]{1,2})?"
    r"(?:(?:我|他|她|孩子|宝宝|患者|病人)?(?:的?(?:名字|姓名|电话|手机|微信|地址|生日|号码))?"
    r"(?:叫做?我?|是|在|住在?|：|:)?)? ?"
)


def answered(cue: str, value: str, accept: Accept = bool) -> Finder:
    """A value at the beginning of the line after a line that asks for it.

    The cue stands among the last 24 characters of its line, or of the turn: turns are lines (see deidentify).
    """
    cues, reply = re.compile(rf"(?:{cue})[^\n\d{HIDDEN}]{{0,24}}\n+").finditer, re.compile(REPLY + value)

    def spans(text: str) -> Spans:
        for asked in cues(text):
            match = reply.match(text, asked.end())
            if match and accept(match):
                yield match.span("id")

    return spans
