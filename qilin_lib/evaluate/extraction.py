"""Answer letters from a model's free text (CMExam is scored on them).

A medical text is full of capitals that answer nothing (CT, B超, DNA, 维生素A, C反应蛋白); the released code's "first
run of capitals" takes them all. Here a letter counts only where something says that it is the answer. In order:
1. after an explicit cue ("答案", "故选", "应选", "更正为", "answer"): the last one that can be read counts, so that
   a correction beats what it corrects;
2. after a plain "选", or before "正确"/"对"/"√", when all such places agree (for multiple: all that are called right);
3. a reply that begins with letters, or has one line of nothing but letters;
4. the text of an option instead of its letter.
A next question that the model invents is read only when there is no answer before it. A refusal stops after step 1.
Nothing found, or more than one letter for a single-answer item: None, never a guess.
"""

from __future__ import annotations

import re
import unicodedata

_CUE = re.compile(
    r"(?<!不)(?:答案|(?:正确|最佳|标准)的?选项|(?:故|应|改|因此|所以|本题|我|正确|最终|最佳)(?:应该|应)?选择?|(?:更正|修正)[为:]|改为"
    r"|应该?[是为](?=\W{0,3}[A-Z](?![A-Za-z]))|[Aa]nswers?|[Cc]orrect (?:option|choice)|\\boxed\{)"
)
_NAMED = re.compile(r"(?:选?项)?[)\]】]?[错对]?,?\s*(?:故|所以|因此)?(?:[为是])(?:本题)?的?(?:正确|参考|标准|最佳)答案")
_DENIED = re.compile(
    r"[,。.、\s:(]*(?:选?项)?(?:的?(?:说法|描述|表述))?(?:[均都全]?[是为]?(?:错误|错(?![\w])|错的|不正确|有误|不对|不符)|[×✗✘❌])"
    r"|\s+(?:is|are)\s+(?:not|in|wrong)"
)
_PUNCTUATION = re.compile(r"(?:\s|[|:\-=>()\[\]【】「」『』“”\"'*#_,<`$])*")
_FILLER = re.compile(
    r"(?:选项|应该|应当|应|可能|大概|肯定|一定|正确|最终|就|即|还|是|为|选择|选|用|有|包括|如下|的|is|are|option|Option"
    r"|\\(?:boxed|text|textbf|mathrm|mathbf)\{|\d[.、)](?=\s*[A-Z])|\s|[|:\-=>()\[\]【】「」『』“”\"'*#_,<`$]){0,40}"
)
_CHOSEN = re.compile(
    r"(?<![不别勿筛])选择?(?!项)|(?<!不)(?:正确的|诊断|符合题意的)应?[是为]|就是|只能是|choose|select|it's"
)
_RUN = re.compile(r"(?<![A-Za-z0-9°\-])[A-Z]+(?![A-Za-z0-9\-])")
_LOWER_RUN = re.compile(r"([a-z]+)\s*(?:[。.,;)\]】]|$)", re.MULTILINE)
_SEPARATOR = re.compile(
    r"[)\]】」』\"'”*_.]*\s*(?:[,、;/&+和与及]|以及|and|(?<=\s)(?:\(?\d[.、)]|-))?\s*(?:选项)?[(\[【「『\"'“*_]*"
)
_SCOPE = re.compile(r"(?:这?[四五]个?)?(?:选项)?(?:之)?中,?(?:的|只有|选)?")
_TERM = re.compile(r"\s*(?:超(?!过)|型|族|组|群|细胞|反应蛋白|肽|带|波)")
_AFTER = re.compile(
    r"(?:选?项)?(?:$|[^\w]|正确|对(?!照)|[是为](?!错|不)|符合|[均都全](?:正确|对|是|符合|选)|[最和与及]|以及|[两三四五]个?|共"
    r"|解释|解析|理由|因|原因|描述|说法|的(?:说法|描述|表述)|吧|了|之?中)"
)
_RIGHT = re.compile(
    r"[\s:(.、]*(?:[两三四]?选?项)?[)\]】]?(?:的?(?:说法|描述|表述))?[均都全]?[是为]?(?:正确|对(?=[^\w]|[的为A-Z]|$)|符合题[意干]|[√✓✔✅])"
    r"|\s+(?:is|are)\s+(?:the\s+)?(?:correct|right|best)"
)
_OPENING = re.compile(r"(?:选?项)?(?:$|[^\w\s]|\s*\n|\s+(?:解释|解析|因为|理由|正确|是|项|选项))")
_LEAD = re.compile(rf"{_PUNCTUATION.pattern}(?:(?:选项|答){_PUNCTUATION.pattern})?")
_VITAMIN = re.compile(r"(?:维生素|维他命|维|抗原|蛋白|辅酶|因子|凝集原|凝集素|类|血型|型)\s*$")
_REFUSAL = re.compile(
    r"(?:无法|不能|难以)(?:确定|判断|回答|提供|给出|得出|作答|选择)|不知道|不清楚|抱歉|对不起|没有足够|信息不足|需要更多|[请议]咨询"
    r"|[Ss]orry|(?:cannot|unable to) (?:answer|provide|determine|give)|don't know"
)
_NEGATED = re.compile(r"[不非]\w{0,2}\0|\0[,。\s]*\w{0,2}(?:不|错|除外|有误|过敏|禁)")
_MARKS = re.compile(r"</?[a-z]+>|[①-⑳\u200b-\u200f\u2060\ufeff]")
_EXPLANATION = re.compile(r"[(【\[]?\s*(?:解释|解析|分析|理由|Explanation)\s*[)】\]]?\s*[:：]\s*")
_NEXT = re.compile(
    r"\n\s*(?:(?:问题?|题目|下一题|用户|[Hh]uman|[Uu]ser|[Qq]uestion)\s*\d*\s*[:：]|下列|以下[哪关]|患者[,，]\s*[男女]"
    r"|\d+\s*[.、．][^\n]*(?:[是为有?？]|[(（]\s*[)）])[。:：]?\s*\n)"
)
_RUN_ON = re.compile(rf"\n\s*\n|\n\s*答案\s*[:：]|{_NEXT.pattern}")


def extract_letters(text: str, options: dict[str, str], multiple: bool) -> str | None:
    """Sorted answer letters ("ABD") in `text`, or None when it gives no answer.

    `options` {"A": text, …} are the item's; letters outside them are never an answer. Unless `multiple`, an answer of
    several letters is None.
    """
    # Before NFKC, which makes ① a digit that would stick to the letter after it.
    text = _without_echo(unicodedata.normalize("NFKC", _MARKS.sub(" ", text)).strip(), options)
    further = _NEXT.search(text)
    found = _found(text[: further.start()], options, multiple) if further else ""
    letters = "".join(sorted(set(found or _found(text, options, multiple))))
    return letters if letters and (multiple or len(letters) == 1) else None


def split_reply(reply: str) -> tuple[str, str]:
    """(answer, explanation) of a reply begun with "答案：".

    Parted at "解释：" (the form taught in training). Without it the reply ends at the first blank line or next
    question, all of it is the answer, and the explanation is what follows the first line or sentence.
    """
    mark = _EXPLANATION.search(reply)
    if mark:
        return reply[: mark.start()].strip(), reply[mark.end() :].strip()
    stop = _RUN_ON.search(reply.lstrip())
    answer = reply.lstrip()[: stop.start()] if stop else reply
    first = re.search(r"[\n。]", answer)
    return answer.strip(), answer[first.end() :].strip() if first else ""


def _found(text: str, options: dict[str, str], multiple: bool) -> str:
    found = _explicit(text, options, multiple)
    if found or _REFUSAL.search(text):
        return found
    return _chosen(text, options, multiple) or _opening(text, options) or _by_text(text, options)


def _explicit(text: str, options: dict[str, str], multiple: bool) -> str:
    named = {}
    for run in _RUN.finditer(text):
        match = _NAMED.match(text, run.end())
        if match and set(run[0]) <= set(options):
            named[match.end()] = run[0]
    found = ""
    for cue in _CUE.finditer(text):
        if cue.end() in named:
            # CMExam's explanations name each of several answers so; the second is no correction of the first.
            found = "".join(named.values()) if multiple else named[cue.end()]
            continue
        bare = _PUNCTUATION.match(text, cue.end()).end()
        full = _FILLER.match(text, cue.end()).end()
        here = _texts_at(text, bare, options) or _letters_at(text, full, options) or _texts_at(text, full, options)
        found = here or found
    return found


def _chosen(text: str, options: dict[str, str], multiple: bool) -> str:
    named = [_letters_at(text, _FILLER.match(text, cue.end()).end(), options) for cue in _CHOSEN.finditer(text)]
    right, read = [], 0
    for run in _RUN.finditer(text):
        letters, end, _ = _read(text, run.start(), options) if run.start() >= read else ("", 0, False)
        if letters and _RIGHT.match(text, end) and not _VITAMIN.search(text[max(0, run.start() - 8) : run.start()]):
            right.append(letters)
        read = max(read, end)
    chosen = {"".join(sorted(set(letters))) for letters in named if letters}
    if len(chosen) == 1:
        return chosen.pop()
    if chosen:
        return ""
    return "".join(right) if multiple or len(set(right)) == 1 else ""


def _opening(text: str, options: dict[str, str]) -> str:
    """Letters the text opens with; or the one line that holds letters only."""
    start = _LEAD.match(text).end()
    letters, end, labelled = _read(text, start, options)
    if letters and (labelled or _OPENING.match(text, end)) and _ordered(letters) and not _DENIED.match(text, end):
        return letters
    lower = _LOWER_RUN.fullmatch(text, start)
    if lower and set(lower[1].upper()) <= set(options) and _ordered(lower[1]):
        return lower[1].upper()
    lines = [_read(line, 0, options) + (line,) for line in (raw.strip(" *()【】[].。") for raw in text.splitlines())]
    alone = [letters for letters, end, _, line in lines if letters and end == len(line) and _ordered(letters)]
    return alone[0] if len(alone) == 1 else ""


def _by_text(text: str, options: dict[str, str]) -> str:
    """The whole text made of option texts; else the only option named in it (not a shorter one inside a longer)."""
    whole = _texts_at(text, _PUNCTUATION.match(text).end(), options)
    if whole:
        return whole
    named, rest = [], text
    for letter, option in sorted(options.items(), key=lambda pair: -len(pair[1])):
        plain = _plain(option)
        if len(plain) > 1 and plain in rest:
            named.append(letter)
            rest = rest.replace(plain, "\0")
    return named[0] if len(named) == 1 and not _NEGATED.search(rest) else ""


def _letters_at(text: str, position: int, options: dict[str, str]) -> str:
    """Answer letters beginning at `position`, "" when what stands there is no answer."""
    lower = _LOWER_RUN.match(text, position)
    if lower and set(lower[1].upper()) <= set(options) and _ordered(lower[1]):
        return lower[1].upper()
    letters, end, _ = _read(text, position, options)
    scope = _SCOPE.match(text, end) if letters else None
    if scope:
        return _letters_at(text, scope.end(), options)
    return "" if _DENIED.match(text, end) else letters


def _read(text: str, position: int, options: dict[str, str]) -> tuple[str, int, bool]:
    """(letters, end, labelled) of a list like "ABD", "A、B和E" or "A 肺不张，C 肺实变"; labelled: with its own text."""
    found, end, labelled = "", position, False
    while run := _RUN.match(text, position):
        if not set(run[0]) <= set(options) or len(set(run[0])) < len(run[0]):
            break
        own = _own_text(text, run.end(), options[run[0]]) if len(run[0]) == 1 else None
        if own is None and (_TERM.match(text, run.end()) or not _AFTER.match(text, run.end())):
            break
        if own is None and re.match(r"\s*(?:或|还是|、?其中之一)", text[run.end() :]):
            return "", position, False
        found, end, labelled = found + run[0], own or run.end(), own is not None
        position = _SEPARATOR.match(text, end).end()
    return found, end, labelled


def _own_text(text: str, position: int, option: str) -> int | None:
    match = re.compile(r"[\s.、:,()]*" + re.escape(_plain(option))).match(text, position) if option else None
    return match.end() if match else None


def _texts_at(text: str, position: int, options: dict[str, str]) -> str:
    """Letters of the option texts that stand at `position`, in a list that nothing else follows directly."""
    plain = [(letter, _plain(option)) for letter, option in options.items() if _plain(option) not in ("", *options)]
    ranked, found = sorted(plain, key=lambda pair: -len(pair[1])), ""
    while True:
        at = next((pair for pair in ranked if text.startswith(pair[1], position)), None)
        if at is None:
            return found
        end = position + len(at[1])
        follows = _SEPARATOR.match(text, end).end()
        if follows == end and re.match(r"\w", text[end:]):
            return ""
        found, position = found + at[0], follows


def _without_echo(text: str, options: dict[str, str]) -> str:
    """The text less a copy of the whole list of options: repeating the question is no answer."""
    parts = [rf"{letter}[\s.、:)]*{re.escape(_plain(option))}" for letter, option in options.items() if option]
    return re.sub(r"[\s,;。]*".join(parts), "\n", text) if len(parts) > 1 else text


def _plain(option: str) -> str:
    return unicodedata.normalize("NFKC", option).strip().rstrip("。.")


def _ordered(letters: str) -> bool:
    # "CEA", "BE", "DBA" are tests and diseases; a model that means three options writes them in order.
    return list(letters) == sorted(letters)
