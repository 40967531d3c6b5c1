"""Cleaning that keeps clinical content: doses, lab values, "P<0.05", "4×10^9/L" and "尿蛋白+++" keep their meaning."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from html.entities import html5

# Control characters, zero-width and direction marks, soft hyphen, byte-order mark. Newline and tab stay.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\ufff9-\ufffb"
_ODD_SPACES = "\t\u00a0\u3000\u2000-\u200a\u202f\u205f"
_CONTROL = re.compile(f"[{_CONTROLS}]")
# What most texts have nothing of: one scan for all of it saves a scan for each.
_RARE = re.compile(f"[<&\\\\=．％０-９Ａ-Ｚａ-ｚ\uf000-\uf0ff{_CONTROLS}{_ODD_SPACES}]")
# Symbols that a PDF's Symbol font has at private places; what else stands there is a bullet.
_SYMBOLS = dict(zip("\uf061\uf062\uf064\uf067\uf06d\uf0a3\uf0b3\uf0b0\uf0b1\uf0b4", "αβδγμ≤≥°±×", strict=True))
_SYMBOL = re.compile("[\uf000-\uf0ff]")
_WIDE = re.compile("[０-９Ａ-Ｚａ-ｚ]+")
_POINT, _PERCENT = re.compile(r"(?<=[0-9])．(?=[0-9])"), re.compile(r"(?<=[0-9])％")
_BREAK = re.compile(r"<\s{0,9}(?:br|/p|/div|/li|/tr)(?:\s[^<>]{0,300})?/?>", re.IGNORECASE)
_ELEMENTS = [
    (re.compile(r"<script\b", re.IGNORECASE), re.compile(r"</script\s{0,9}>", re.IGNORECASE)),
    (re.compile(r"<style\b", re.IGNORECASE), re.compile(r"</style\s{0,9}>", re.IGNORECASE)),
    (re.compile("<!--"), re.compile("-->")),
]
# A citation or a trade mark is no exponent.
_EXPONENT = re.compile(r"<sup(?:\s[^<>]{0,300})?>(?=[-+−–]?[0-9A-Za-z])", re.IGNORECASE)
# Only names of HTML elements, because "<" and ">" are also comparisons in lab reports.
_TAG = re.compile(
    r"</?(?:p|div|span|br|strong|em|font|img|table|tbody|thead|tr|td|th|ul|ol|li|dl|dt|dd|h[1-6]|hr|sup|sub|script|"
    r"style|center|small|big|pre|code|blockquote|section|article|o:p)(?:\s[^<>]{0,300})?/?>",
    re.IGNORECASE,
)
# One-letter elements only in pairs: "a<b" is a comparison.
_LETTER_TAG = re.compile(r"<(/?)([abiusq])(?:\s[^<>]{0,300})?>", re.IGNORECASE)
# Any number of times escaped: "&amp;amp;lt;".
_AND = r"&(?:(?:amp|#0{0,9}38|#[xX]0{0,9}26);)*"
_ENTITY = re.compile(_AND + r"(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Forms of broken pages: a full-width mark or none where ";" belongs, a number without "#".
_BROKEN_ENTITY = re.compile(
    rf"{_AND}(?:(#\d{{2,7}}|#[xX][0-9a-fA-F]{{2,6}}|[A-Za-z][A-Za-z0-9]{{1,31}})；"
    r"|(lt|gt|nbsp|quot|amp|[mn]dash|[lr][sd]quo)(?:。|(?![A-Za-z=;]))|(\d{4,7});)"
)
_UNKNOWN = chr(0xFFFD)
_NEWLINE = re.compile(r"(?<!\\)(?:\\r)?\\n(?![a-z])")
# What is left of a page's scripts when its tags were taken away.
_SCRIPT = re.compile(
    r"(?:\b[A-Za-z_]\w{0,20}(?: ?= ?new ?Image\b|[.。]src ?=)|\bdocument[.。]write\()[^\n\u3400-\u9fff]*", re.ASCII
)
_REPEATED = re.compile(r"([！？，、；：～~!?,;])\1{2,}")
_DOTS = re.compile(r"…*(?:。{3,}|…{3,}|\.{4,})[。…]*")
_SPACES = re.compile(f"[ {_ODD_SPACES}]+")
_BLANK_LINES = re.compile(r"\n{3,}")
_STOPS = "，。、；：！？,; "
# A general text that speaks of markup means its entities.
_MARKUP = re.compile(r"<[A-Za-z/!]|`|html|xml|实体|转义", re.IGNORECASE)
_PASSES = 8


def clean(text: str) -> str:
    """Clean medical text; what is clean stays as it is. Time is linear.

    NFC; entities resolved; no control characters, HTML, remnants of scripts or "[详细]"; an exponent in <sup> is
    "^9"; full-width letters and digits half-width; a literal "\\n" a newline; single spaces, at most one blank line; no
    stop at the beginning.
    """
    return _settled(text, _medical)


def clean_general(text: str) -> str:
    """General-domain text: NFC, no control characters, and entities resolved in a text that speaks of no markup.

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
    text = _composed(text)
    if _RARE.search(text):
        text = _SPACES.sub(" ", _no_remnants(_no_markup(_no_controls(_resolved(text)))))
    elif text.isalnum():
        return text  # Most values of a knowledge graph: nothing below finds anything in letters and digits.
    elif "  " in text:
        text = _SPACES.sub(" ", text)
    if "[详细]" in text:
        text = text.replace(" [详细]", "").replace("[详细]", "")
    text = _REPEATED.sub(r"\1", text)
    if "。。。" in text or "………" in text or "...." in text:
        text = _DOTS.sub("……", text)
    # Single spaces are all that is left of blanks at the ends of lines.
    text = _few_blank_lines(text.replace(" \n", "\n").replace("\n ", "\n")).strip()
    return text.lstrip(_STOPS) or text


def _general(text: str) -> str:
    text = _no_controls(_composed(text))
    if "&" in text and not _MARKUP.search(text):
        text = _no_controls(_ENTITY.sub(_character, text))
    return _few_blank_lines(text).strip()


def _composed(text: str) -> str:
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def _no_controls(text: str) -> str:
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\u2028", "\n"))


def _resolved(text: str) -> str:
    return _BROKEN_ENTITY.sub(_character, _ENTITY.sub(_character, text)) if "&" in text else text


def _character(found: re.Match[str]) -> str:
    """What an entity stands for; "" for what its page could not show; an unknown name as it stands."""
    *names, bare = found.groups() if found.re is _BROKEN_ENTITY else (found[1], None)
    name = next(filter(None, names), None) or f"#{bare}"
    if not name.startswith("#") and f"{name};" not in html5:
        return found[0]
    return html.unescape(f"&{name};").replace(_UNKNOWN, "")


def _no_markup(text: str) -> str:
    if "<" not in text:
        return text
    for opening, closing in _ELEMENTS:
        text = _without(text, opening, closing)
    return _without_pairs(_TAG.sub("", _EXPONENT.sub("^", _BREAK.sub("\n", text))))


def _without(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str:
    kept, at = [], 0
    while (start := opening.search(text, at)) and (end := closing.search(text, start.end())):
        kept.append(text[at : start.start()])
        at = end.end()
    return "".join([*kept, text[at:]])


def _without_pairs(text: str) -> str:
    """The text without the one-letter tags that belong together."""
    opened: dict[str, list[tuple[int, int]]] = {}
    gone = []
    for tag in _LETTER_TAG.finditer(text):
        waiting = opened.setdefault(tag[2].lower(), [])
        if not tag[1]:
            waiting.append(tag.span())
        elif waiting:
            gone += waiting.pop(), tag.span()
    kept, at = [], 0
    for start, end in sorted(gone):
        kept.append(text[at:start])
        at = end
    return "".join([*kept, text[at:]])


def _no_remnants(text: str) -> str:
    if "\\" in text:
        text = _NEWLINE.sub("\n", text)
    if "=" in text:
        text = _SCRIPT.sub("", text)
    text = _SYMBOL.sub(lambda found: _SYMBOLS.get(found[0], ""), text)
    text = _WIDE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return _PERCENT.sub("%", _POINT.sub(".", text))


def _few_blank_lines(text: str) -> str:
    return _BLANK_LINES.sub("\n\n", text) if "\n\n\n" in text else text
