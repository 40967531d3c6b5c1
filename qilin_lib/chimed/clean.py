"""Cleaning that keeps clinical content: doses, lab values, "P<0.05", "4×10^9/L" and "尿蛋白+++" keep their meaning."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from functools import partial
from html.entities import html5
from unicodedata import normalize

# Control characters, zero-width and direction marks, soft hyphen, byte-order mark. Newline and tab stay.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\ufff9-\ufffb"
_ODD_SPACES = "\t\u00a0\u3000\u2000-\u200a\u202f\u205f"
_CONTROL, _SPACES = re.compile(f"[{_CONTROLS}]"), re.compile(f"[ {_ODD_SPACES}]+")
# What most texts have nothing of: one scan for all of it saves a scan for each.
_RARE = re.compile(f"[<&\\\\=．％０-９Ａ-Ｚａ-ｚ\uf000-\uf0ff{_CONTROLS}{_ODD_SPACES}]")
# Symbols that a PDF's Symbol font has at private places; what else stands there is a bullet.
_SYMBOLS = dict(zip("\uf061\uf062\uf064\uf067\uf06d\uf0a3\uf0b3\uf0b0\uf0b1\uf0b4", "αβδγμ≤≥°±×", strict=True))
# Elements that go with what is in them.
_ELEMENTS = [(r"<script\b", r"</script\s{0,9}>"), (r"<style\b", r"</style\s{0,9}>"), ("<!--", "-->")]
_ELEMENTS = [(re.compile(opening, re.IGNORECASE), re.compile(end, re.IGNORECASE)) for opening, end in _ELEMENTS]
_ATTRIBUTES = r"(?:\s[^<>]{0,300})?"
# Only names of HTML elements, because "<" and ">" are also comparisons in lab reports.
_TAG = (
    r"(?i)</?(?:p|div|span|br|strong|em|font|img|table|tbody|thead|tr|td|th|ul|ol|li|dl|dt|dd|h[1-6]|hr|sup|sub|script|"
    rf"style|center|small|big|pre|code|blockquote|section|article|o:p){_ATTRIBUTES}/?>"
)
# One-letter elements only in pairs: "a<b" is a comparison.
_LETTER_TAG = re.compile(rf"<(/?)([abiusq]){_ATTRIBUTES}>", re.IGNORECASE)
# Any number of times escaped: "&amp;amp;lt;".
_AND = r"&(?:(?:amp|#0{0,9}38|#[xX]0{0,9}26);)*"
_ENTITY = re.compile(_AND + r"(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Of a text that was made JSON twice.
_ESCAPES = re.compile(r"(?<!\\)(?:\\u[0-9a-fA-F]{4})+")
# Forms of broken pages: a full-width mark or none where ";" belongs, a number without "#".
_BROKEN_ENTITY = re.compile(
    rf"{_AND}(?:(#\d{{2,7}}|#[xX][0-9a-fA-F]{{2,6}}|[A-Za-z][A-Za-z0-9]{{1,31}})；"
    r"|(lt|gt|nbsp|quot|amp|[mn]dash|[lr][sd]quo)(?:。|(?![A-Za-z=;]))|(?P<bare>\d{4,7});)"
)
# What is left of a page's scripts when its tags were taken away.
_SCRIPT = r"(?a)(?:\b[A-Za-z_]\w{0,20}(?: ?= ?new ?Image\b|[.。]src ?=)|\bdocument[.。]write\()[^\n\u3400-\u9fff]*"
_REPEATED = re.compile(r"([！？，、；：～~!?,;])\1{2,}")
_DOTS = re.compile(r"…*(?:。{3,}|…{3,}|\.{4,})[。…]*")
_STOPS = "，。、；：！？,; "
# A general text that speaks of markup means its entities.
_MARKUP = re.compile(r"<[A-Za-z/!]|`|html|xml|json|unicode|实体|转义|编码", re.IGNORECASE)
_PASSES = 8


def clean(text: str) -> str:
    """Clean medical text; what is clean stays as it is. Time is linear.

    NFC; entities and a literal "\\u60a3" resolved; no control characters, HTML, remnants of scripts or "[详细]"; an
    exponent in <sup> is "^9"; full-width letters and digits half-width; a literal "\\n" a newline; single spaces, at
    most one blank line; no stop at the beginning.
    """
    return _settled(text, _medical)


def clean_general(text: str) -> str:
    """General-domain text: NFC, no control characters, entities and escapes resolved where it speaks of no markup.

    Its tags, dots and indentation may be code.
    """
    return _settled(text, _general)


def _settled(text: str, once: Callable[[str], str]) -> str:
    # What one pass takes away may bring together what the next one finds; real texts are settled after one.
    for _ in range(_PASSES):
        before, text = text, once(text)
        if text == before:
            break
    return text


def _medical(text: str) -> str:
    text = normalize("NFC", text)
    if _RARE.search(text):
        for mark, step in _STEPS:
            if mark in text:
                text = step(text)
    elif text.isalnum():
        return text  # Most values of a knowledge graph: nothing below finds anything in letters and digits.
    if "  " in text:
        text = _SPACES.sub(" ", text)
    text = text.replace(" [详细]", "").replace("[详细]", "")
    if _REPEATED.search(text):
        text = _REPEATED.sub(r"\1", text)
    if "。。。" in text or "………" in text or "...." in text:
        text = _DOTS.sub("……", text)
    # Single spaces are all that is left of blanks at the ends of lines.
    text = _few_blank_lines(text.replace(" \n", "\n").replace("\n ", "\n"))
    return text.lstrip(_STOPS) or text


def _general(text: str) -> str:
    text = _no_controls(normalize("NFC", text))
    if ("&" in text or "\\u" in text) and not _MARKUP.search(text):
        text = _no_controls(_ENTITY.sub(_character, _ESCAPES.sub(_escaped, text)))
    return _few_blank_lines(text)


def _no_controls(text: str) -> str:
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\u2028", "\n"))


def _few_blank_lines(text: str) -> str:
    return (re.sub("\n{3,}", "\n\n", text) if "\n\n\n" in text else text).strip()


def _character(found: re.Match[str]) -> str:
    """What an entity stands for; "" for what its page could not show; an unknown name as it stands."""
    name = f"#{found[3]}" if found.lastgroup == "bare" else found[found.lastindex]
    if not name.startswith("#") and f"{name};" not in html5:
        return found[0]
    return html.unescape(f"&{name};").replace("\ufffd", "")


def _escaped(found: re.Match[str]) -> str:
    """What escapes stand for; U+FFFD, which costs the record, for one half of a pair."""
    return json.loads(f'"{found[0]}"').encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _no_elements(text: str) -> str:
    for opening, closing in _ELEMENTS:
        kept, at = [], 0
        while (start := opening.search(text, at)) and (end := closing.search(text, start.end())):
            kept.append(text[at : start.start()])
            at = end.end()
        text = "".join([*kept, text[at:]])
    return text


def _no_pairs(text: str) -> str:
    """The text without the one-letter tags that belong together."""
    opened: dict[str, list[int]] = {}
    gone: set[int] = set()
    for tag in _LETTER_TAG.finditer(text):
        waiting = opened.setdefault(tag[2].lower(), [])
        if not tag[1]:
            waiting.append(tag.start())
        elif waiting:
            gone |= {waiting.pop(), tag.start()}
    return _LETTER_TAG.sub(lambda tag: "" if tag.start() in gone else tag[0], text) if gone else text


def _replace(pattern: str, new: str | Callable[[re.Match[str]], str]) -> Callable[[str], str]:
    return partial(re.compile(pattern).sub, new)


# What a text with one of _RARE goes through: (a mark without which the step finds nothing, the step).
_STEPS: list[tuple[str, Callable[[str], str]]] = [
    ("\\u", partial(_ESCAPES.sub, _escaped)),
    ("&", partial(_ENTITY.sub, _character)),
    ("&", partial(_BROKEN_ENTITY.sub, _character)),
    ("", _no_controls),
    ("<", _no_elements),
    ("<", _replace(rf"(?i)<\s{{0,9}}(?:br|hr|/p|/div|/li|/tr|/d[td]|/h[1-6]){_ATTRIBUTES}/?>", "\n")),
    # An element that the page left open ends where the next one begins.
    ("<", _replace(rf"(?i)(?<=[^>\s])<(?:p|div|table|tr|[uod]l|li|d[td]|h[1-6]){_ATTRIBUTES}>", "\n")),
    ("<", _replace(rf"(?i)</t[dh]{_ATTRIBUTES}>", " ")),
    # A citation or a trade mark is no exponent.
    ("<", _replace(rf"(?i)<sup{_ATTRIBUTES}>(?=[-+−–]?[0-9A-Za-z])", "^")),
    ("<", _replace(_TAG, "")),
    ("<", _no_pairs),
    ("\\", _replace(r"(?<!\\)(?:\\r)?\\n(?![a-z])", "\n")),
    ("=", _replace(_SCRIPT, "")),
    ("", _replace("[\uf000-\uf0ff]", lambda found: _SYMBOLS.get(found[0], ""))),
    ("", _replace("[０-９Ａ-Ｚａ-ｚ]+", lambda found: normalize("NFKC", found[0]))),
    ("．", _replace(r"(?<=[0-9])．(?=[0-9])", ".")),
    ("％", _replace(r"(?<=[0-9])％", "%")),
    ("", partial(_SPACES.sub, " ")),
]
