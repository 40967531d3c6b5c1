"""Where a text names options: lists of letters ("ABD", "A、B和E"), option texts, ordinals, and what it strikes out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

Options = dict[str, str]
DENIED = re.compile(
    r"[,。.、\s:()|]*(?:[两三四]?选?项)?(?:的?(?:说法|描述|表述))?(?:[也均都全]?(?:可以|可|应|需|先|是|为)?"
    r"(?:错误|错(?![\w])|错的|不(?:正确|对|符)(?!的[是有为选])|有误|(?:排除|去掉|剔除)(?!\s*[A-Z]))|[×✗✘❌✖])|\s+(?:is|are)\s+(?:not|in"
    r"|wrong)"
    r"|(?:[两三四五]?个?选?项)?(?:[也均都全]?不(?![良足全同典]|能?排除|能?除外)(?!(?:选|是|含|包括)?\s*[A-Z])|说反|的?可能性?(?:不大|[较很]?[小低]|不高)|没有一"
    r"|无一|否(?=[,。;\n]|$))"
)
_UNSURE = re.compile(r"或|无法|不确定|因为|because|\bor\b")
STRUCK = re.compile(
    r"(?:去掉|除去?了?|排除|剔除|[并绝]?非|不(?:是|选|含|能选|宜选|应选|考虑|支持|包括|属于)?|没有|从)\s*$"
)
RUN = re.compile(r"(?<![A-Za-z0-9°\-])[A-Z]+(?![A-Za-z0-9\-])")
LOWER_RUN = re.compile(r"([a-z]+(?:[,、 ]{1,3}[a-z]){0,8})(?:[。.;)\]】\"”]|$|\s+(?=解))", re.MULTILINE)
_SEPARATOR = re.compile(
    r"[)\]】」』\"'”*_.]*\s*(?:[,、;/&+和与及同](?:\s*and\b)?|以及|and|(?<=\s)(?:\(?\d[.、)]|-))*\s*(?:选项)?[(\[【「『\"'“*_]*"
)
_BRACKET = re.compile(r"\s*\([^()]{0,40}\)(?=\s*(?:[,、;和与及]|以及))")
_SCOPE = re.compile(r"(?:这?[四五]个?)?(?:选项)?(?:之)?中,?(?:的|只有|选)?")
_TERM = re.compile(r"\s*(?:超(?!过)|型|族|组|群|细胞|淋巴|反应蛋白|肽|带|波|段|链)")
_AFTER = re.compile(
    r"(?:选?项)?(?:$|[^\w]|正确|对(?!照)|[是为](?!错|不)|[才就]是|符合|全部|[均都全皆](?:正确|对|是|符合|选|要|应|可|能|属)|[也肯]|入选|[最和与及同]|才(?:正确|对"
    r"|符合)|属于|需要|可(?!能)|会|更|一[个项]|以及|[两三四五]个?|共"
    r"|解释|解析|理由|因|原因|描述|说法|的(?:说法|描述|表述)|的?可能性|[吧了哦啦啊呢嘛才错]|无疑|[均都]?不|否|之?中|那|这|而|便|应|要|should|best)"
)
NAMES = re.compile(r"(?:维生素|维他命|维|抗原|蛋白|辅酶|因子|凝集原|凝集素|类|血型|型)\s*$")
_STRIKES = re.compile(
    r"[A-Z](?:[、和与及]?[A-Z])*(?:[两三四]?选?项)?[也均都全]?(?:不(?![良足全同典])|错|可?排除)|\(?[A-Z]\)?\s*说反"
)
_ORDINAL = re.compile(
    r"第(?P<places>[一二三四五六七八1-8][一二三四五六七八1-8、,和]*)\s*[个项种条](?!\w{0,8}(?:不|错|排除))"
    r"|选项\s*(?P<place>[一二三四五六七八])(?!\w)|(?P<side>[前后])(?P<many>[两三四五])[个项]|(?P<last>最后)一[个项]"
)
_NUMBERS = "一二三四五六七八"
# Letters answer alike in both scripts; only the words around them are read.
SIMPLIFIED = str.maketrans(
    "選擇項確應為對錯誤係揀即與啱綜無標準結論參從", "选择项确应为对错误是选即与对综无标准结论参从"
)


def standing(text: str, options: Options) -> Iterator[str]:
    """The lists of letters in a text that it does not strike out."""
    end = 0
    for run in RUN.finditer(text):
        if _UNSURE.search(text, 0, run.start()):
            return
        if run.start() >= end:
            letters, end, _ = read_list(text, run.start(), options)
            before = text[max(0, run.start() - 8) : run.start()]
            if letters and not (DENIED.match(text, end) or STRUCK.search(before) or NAMES.search(before)):
                yield letters


def ordinal(text: str, options: Options) -> str:
    """The letters of "第二个选项", "前两项", "最后一项"."""
    match, letters = _ORDINAL.search(text), "".join(options)
    if not match or match["last"]:
        return letters[-1] if match else ""
    if match["side"]:
        many = "两三四五".index(match["many"]) + 2
        return letters[:many] if match["side"] == "前" else letters[-many:]
    named = re.findall(r"[^、,和]", match["places"] or match["place"])
    places = [_NUMBERS.find(one) if one in _NUMBERS else int(one) - 1 for one in named]
    return "".join(letters[place] for place in places if place < len(letters))


def letters_at(text: str, position: int, options: Options) -> str:
    """Answer letters beginning at `position`, "" when what stands there is no answer."""
    small = LOWER_RUN.match(text, position)
    if small and (letters := lower(small[1], options)):
        return letters
    letters, end, _ = read_list(text, position, options)
    scope = _SCOPE.match(text, end) if letters else None
    if scope:
        return letters_at(text, scope.end(), options)
    return "" if DENIED.match(text, end) else letters


def read_list(text: str, position: int, options: Options) -> tuple[str, int, bool]:
    """(letters, end, labelled) of a list like "ABD", "A、B和E" or "A 肺不张，C 肺实变"; labelled: with its own text."""
    found, end, labelled, between = "", position, False, ""
    while run := RUN.match(text, position):
        between = text[end:position]
        if found and "\n\n" in between:
            break
        if found and (_STRIKES.match(text, position) if re.search(r"[,\n]", between) else between in ("(", " (")):
            break
        if not set(run[0]) <= set(options) or len(set(run[0])) < len(run[0]):
            break
        own = _own_text(text, run.end(), options[run[0]]) if len(run[0]) == 1 else None
        if own is None and (_TERM.match(text, run.end()) or not _AFTER.match(text, run.end())):
            # A list that goes on in words that nobody knows is not known to its end.
            return ("", position, False) if "、" in between else (found, end, labelled)
        if own is None and re.match(r"\s*(?:或|还是|、?其中之一)", text[run.end() :]):
            return "", position, False
        found, end, labelled = found + run[0], own or run.end(), own is not None
        bracket = _BRACKET.match(text, end)
        position = _SEPARATOR.match(text, bracket.end() if bracket else end).end()
    return found, end, labelled


def lower(written: str, options: Options) -> str:
    """The letters of "acd" or "a, c, d", "" for another word."""
    letters = re.sub(r"[^a-z]", "", written).upper()
    return letters if set(letters) <= set(options) and ordered(letters) else ""


def _own_text(text: str, position: int, option: str) -> int | None:
    match = re.compile(r"(?:选?项)?[\s.、:,()]*" + re.escape(plain(option))).match(text, position) if option else None
    return match.end() if match else None


def texts_at(text: str, position: int, options: Options) -> str:
    """Letters of the option texts that stand at `position`, in a list that nothing else follows directly."""
    words = [(letter, plain(option)) for letter, option in options.items() if plain(option) not in ("", *options)]
    ranked, found = sorted(words, key=lambda pair: -len(pair[1])), ""
    while True:
        at = next((pair for pair in ranked if text.startswith(pair[1], position)), None)
        if at is None:
            return found
        end = position + len(at[1])
        # "肺炎（B）" names its letter behind it.
        end += len(f"({at[0]})") if text.startswith(f"({at[0]})", end) else 0
        follows = _SEPARATOR.match(text, end).end()
        if follows == end and re.match(r"\w", text[end:]):
            return ""
        found, position = found + at[0], follows


def heads(text: str, options: Options) -> dict[str, str]:
    """{letter: line} of the lines, or sentences, that begin with an option."""
    lines = text.split("\n") if text.count("\n") >= len(options) - 1 else re.split(r"[\n。;]", text)
    return {letter: line for line in lines for letter in head(line, options)}


def head(line: str, options: Options) -> str:
    """The letter of the option with which a line begins, after numbers and marks; "" for none."""
    start = re.compile(r"[\W\d_]*").match(line).end()
    letter = re.compile(r"[A-Z](?![A-Za-z0-9])").match(line, start)
    if letter and letter[0] in options:
        return letter[0]
    return texts_at(line, start, options)[:1]


@lru_cache(maxsize=4096)
def plain(option: str) -> str:
    """An option's text as the text that is read writes it."""
    return unicodedata.normalize("NFKC", option).translate(SIMPLIFIED).strip().rstrip("。.")


def ordered(letters: str) -> bool:
    """Whether letters stand in the order of the options."""
    # "CEA", "BE", "DBA" are tests and diseases; a model that means three options writes them in order.
    return list(letters) == sorted(letters)
