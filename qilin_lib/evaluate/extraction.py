"""Answer letters from a model's free text (CMExam is scored on them).

A medical text is full of capitals that answer nothing (CT, B超, DNA, 维生素A, C反应蛋白); the released code's "first
run of capitals" takes them all. Here a letter counts only where something says that it is the answer. In order:
1. the last decision that calls itself one ("答案", "故选", "应选", "改为", "answer", \\boxed), so that a correction
   beats what it corrects; what is quoted, supposed or asked is no decision;
2. the one line that holds nothing but letters;
3. the last sentence that concludes ("选", "因此", "综上", "剩下", "的是"), if it leaves a letter standing;
4. the options that are called what was asked for ("符合题意", "入选"), else right ("正确", "是", "√"), one by one;
   of a single-answer item also the one that is set apart from all others ("除D外", "A、B、C对，D错");
5. a reply that begins with letters;
6. the text of an option instead of its letter.
What stands before "等等", "不对" or "Wait" is taken back. A next question that the model invents is read only when
there is no answer before it. A refusal stops after step 1.
Nothing found, or more than one letter for a single-answer item: None, never a guess.
"""

from __future__ import annotations

import re
import unicodedata

from qilin_lib.evaluate.mentions import (
    DENIED,
    LOWER_RUN,
    NAMES,
    RUN,
    SIMPLIFIED,
    STRUCK,
    Options,
    head,
    heads,
    letters_at,
    lower,
    ordered,
    ordinal,
    plain,
    read_list,
    standing,
    texts_at,
)

LONGEST = 16_000
"""Characters that are read; of a longer reply both ends."""
SHORT = 60
"""Characters of a reply that may give the text of an option and nothing else."""
WINDOW = 80
"""Characters after a cue in which its letters stand; it bounds the work of a sentence that never ends."""
_PUNCTUATION = re.compile(r"(?:\s|[|:\-=>()\[\]【】「」『』“”\"'*#_,<`$])*")
_DECIDED = re.compile(
    r"(?<![不非])(?:(?<!错误)(?<!错误的)答案|(?:正确|最佳|标准)的?(?:选[项择]|option)|(?:更正|修正)[为:]|[改换][为成选]|我的?(?:回答|选择)"
    r"|[Mm]y (?:pick|choice)|所选项"
    r"|(?<![不挑筛])(?:(?:故|应|宜|改|因此|所以|本题|我|正确|最终|最佳|会|该|当){1,4})选择?|结论|(?:最终|最后)(?=:)|正确:(?=\s*[A-Z])|确定是"
    r"|应该?[是为](?=\W{0,3}[A-Z](?![A-Za-z]))|(?m:^)\W{0,6}解?答\s*(?=:)|参考解答|(?:故|应|所以|因此)答(?=\W{0,3}[A-Z])"
    r"|(?:[Cc]orrect )?[Aa]nswers?|[Cc]orrect (?:option|choice)s?"
    r"|\\boxed\{|\"[a-z_]*(?:answer|choice|select|correct)[a-z_]*\"\s*(?=:)|\"(?:option|result|结果|选项)\"\s*(?=:))"
)
_CONCLUDED = re.compile(
    r"(?<![不别勿筛挑首备候])选择?(?![项题])|(?<!不)考虑为?(?=\W{0,3}[A-Z](?![A-Za-z]))|选项(?:(?:字母)?[是为]|(?=\s*[A-Z]\s*(?:[。.\n]|$)))"
    r"|因此|所以|故(?!事)|综上|综合|总之|对应|只?剩下?|留下"
    r"|保留|只有|唯有|非(?=[A-Z]莫属)|而是|锁定|认为是|倾向于?|正解|当然是"
    r"|go (?:with|for)|(?:must|should) be(?! [sc]\w+(?:ed|en)\b)|即(?![使将刻便])"
    r"|(?<![不也还能])[是为](?=\s*[A-Z]\s*(?:选?项)?(?:[。!\n]|$))"
    r"|(?<!不)(?:正确的|诊断|符合题意的)应?[是为]|的(?:是|为|有)|(?:错误|不正确|不符合|有误)的?(?:说法|选项|描述|表述|叙述|一项)[是为有]"
    r"|不[宜应能可该当][^。;!?,\n]{0,10}?[是为有]|正确的[^。;!?,\n]{1,8}?[是为有](?=:)|最[^。;!?,\n]{1,20}?,?[是为]|就是|只能是"
    r"|还是(?=\s*[A-Z])|[Hh]ence|[Tt]herefore|[Tt]hus|leaves|[Cc]hoice"
    r"|\bchoose\b|\bselect\b|it's|[Ii]t is"
)
_OF_OTHERS = re.compile(
    r"(?:小[王李张明红]|常见错误|很多人|不少人|多数人|大家|有些|部分人|网友|学员|初学者|老师|题库|往往|容易|易误|错选|学生|同学|有人|考生|错误的?答案|误以?为"
    r"|误选|一开始|为什么|为何)[^,。!?;\n]{0,12}$"
)
_OTHERS = re.compile(
    _OF_OTHERS.pattern + r"|先[想就]?$"
    r"|(?:若|如果|假如|要是)(?!.{0,3}(?:一定|必须|非要?|只能|让我|按|考虑到))[^。!?;\n]{0,24}$|[不别勿非][能应宜可会该当要须]{1,2}$|[A-Z]\s*或者?$"
)
_CORRECTED = re.compile(
    r"(?:(?<=[。!?;,\n.—:])|(?<=\.\s)) *(?:等等|等一下|且慢|(?<!\?)(?:哦?不(?=,)|不对(?=[,。!不]))|哦不|更正|纠正"
    r"|[我刚才前面上之]{0,5}(?:看|搞|记|弄|写|想|说|算)[错混]了?"
    r"|重新(?:看|想|审|分析)|[Ww]ait|Actually|Hmm)"
)
_SENTENCE = re.compile(r"(?:[^。!?;\n.]|\.(?!\s+[A-Z][a-z ]))*[。!?;\n.]?")
_NAMED = re.compile(
    r"[)\]*]* (?:is|are) the (?:correct |best |right )?answers?"
    r"|\s*(?:[两三四五]?个?选?项)?[)\]】]?[错对]?(?:[^。!?;\n,A-Z]{1,20}(?=,))?,?\s*(?:故|所以|因此)?[即就]?[为是](?:本题)?的?(?:(?:正确|参考"
    r"|标准|最佳)?答案|(?:正确|最佳)的?选[项择])"
)
_SOUGHT = re.compile(
    r"[\s\"]*(?:[两三四]?选?项)?[)\]】]?(?:[^。!?;\n,A-Z]{1,20},)?\s*(?:故|所以|因此|也|肯定|一定|同样|均|都)?"
    r"(?:(?:[故即]为|就是|正是)(?:所求|所问)|符合(?:题意|题目要求|题干要求)|[应当入]选(?![择项\w]))"
)
_FILLER = re.compile(
    r"(?:选项|应该|应当|应|可能|大概|肯定|一定|正确|最终|就|即|还|是|为|係|选择|选|用|填|有|包括|如下|共|的|\d个|is|are|[Oo]ptions?"
    r"|\\(?:boxed|text|textbf|mathrm|mathbf)\{|\d[.、)](?=\s*[A-Z])|\s|[|:\-=>()\[\]【】「」『』“”\"'*#_,<`$✅✔√→]){0,40}"
)
_RIGHT = re.compile(
    r"[\s:(.、\"|*]*(?:(?:[两三四五]|这一?)?个?选?项)?[)\]】]?(?:的?(?:说法|描述|表述))?(?:全部|[均都全])?(?:也|肯定|一定|确实|同样)?[是为]?"
    r"(?:正确|对(?=[^\w]|[的为A-Z]|$)|符合|才(?:是|正确|对|符合)|属于(?:本题|正确)|最(?:为|合适|恰当|符合)|无疑|更(?:合理|合适|恰当|符合|佳)"
    r"|的?可能性[更最][大高]"
    r"|[均皆]可(?=以|\W|$)"
    r"|(?:[应要]|[均都全应]{1,2})入?选|true|[√✓✔✅]|(?<=是)(?=[,。;\n]|$))"
    r"|[)\]*]*\s+(?:is|are)\s+(?:the\s+)?(?:correct|right|best|most)|\s+should be (?:selected|chosen)|\s+best\b"
)
_HELD = re.compile(r"[√✓✔✅]|正确|是|属于|符合|考虑|支持|可|需要|对")
_FAILED = re.compile(
    r"[×✗✘❌✖]|(?<![能是])否(?![定认则])|错|不(?:正确|对|是|属于|符|支持|考虑|需要|宜|可|推荐|入?选)|非|排除"
)
_OPENING = re.compile(r"(?:选?项)?(?:$|[^\w\s:]|\s*\n|\s+(?:解释|解析|因为|理由|正确|是|项|选项))")
_LEAD = re.compile(rf"{_PUNCTUATION.pattern}(?:(?:选项|答){_PUNCTUATION.pattern})?")
_REFUSAL = re.compile(
    r"(?:无法|不能|难以)(?:确定|判断|回答|提供|给出|得出|作答|作出选择|选择)|没有正确(?:答案|选项)|不知道|不清楚|抱歉|对不起|没有足够|信息不足|需要更多|[请议]咨询"
    r"|[Ss]orry|(?:cannot|unable to) (?:answer|provide|determine|give)|don't know|[Nn]one of (?:the"
    r"|these) (?:options|choices|above|given)"
    r"|[Nn]either [A-Z](?:,? (?:nor )?[A-Z]){2}"
    r"|(?<!其余)(?<!其他)(?<!另外)(?:所有|全部|给出|以上|上述|[四五]个)的?[四五]?个?选项[均都全]不(?:正确|对|符合)"
)
_NEGATED = re.compile(r"也可能|或者|[不非]\w{0,3}\0|\0[,。\s]*\w{0,2}(?:不|错|除外|有误|过敏|禁)")
_OTHERWISE = re.compile(
    r"(?:除了?|只有|唯有)?\s*(?<![A-Z、,和与及])([A-Z](?:[、,和与及]*[A-Z])*)(?:选?项)?(?:\([^()\n]*\))?\s*(?:[以之除]?外|不[^,。]{1,8}"
    r"|(?:说法|描述)?(?:有误|错误?)),?(?!.{0,10}[错不])"
    r"(?:的?(?:各|其余|其他)[两三四五]?[种个]?(?:选?项)?(?=[均都全要的]|选?项)|(?=[均都全]))"
    r"|(?:以上|上述|所有)[四五]?个?(?:选项|各项|项)(?:的?(?:说法|描述|表述))?(?=全部|[均都全])"
)
_EXCEPTED = re.compile(
    r"(?:除了?\s*([A-Z])(?![A-Za-z、,和与及]+[A-Z])(?:选?项)?(?:\([^()\n]*\))?(?:以外|之外|外)?,?(?:其[余他]|各|另外)?[^。;\n]{0,6}[均都全]"
    r"|(?:不包括|不含|例外的?[是为]|其中没有)\s*([A-Z])(?![\w、])"
    r"|(?:只有|唯有|仅)\s*([A-Z])(?:选?项)?(?:的?(?:说法|描述|表述))?[是为]?(?:错|不|有误|例外)|(?<![A-Z、和与])([A-Z])(?:选?项)?(?:属于?"
    r"|是)?[除例]外)"
)
_DROPPED = re.compile(r"(?:排除|不符合?|不选|不对|错误?|不考虑|[×❌✗])\W*$")
_OPENED = re.compile(r"[“「\"](?:标准|正确|参考)?$")
_CLOSED = re.compile(r"[”」\"](?!\s*:)")
_ROW = re.compile(r"[ \t]*\|[^\n]*")
_HOLDS = re.compile(r"(?:[两三四五]?个?选?项)?[也均都全]?(?:属于?|需要|可(?!能)|是|有|能|会|被|合理|恰当|成立)")
_RANKED = re.compile(r"(?<![A-Za-z])([A-Z])(?:\([^()\n]*\))?(?:\s*>+\s*[A-Z](?:\([^()\n]*\))?){2,}")
_REST = re.compile(r"其[余他](?:各|选)?(?:项|说法)?[^。;\n]{0,4}[均都全](?!不|错)")
_MARKS = re.compile(r"~~[^~\n]*~~|</?[a-z]+>|[①-⑳\u200b-\u200f\u2060\ufeff\ufe0f]|[\U0001f300-\U0001faff✨]|\\[ ,;]")
NEXT = re.compile(
    r"\n[ \t]*(?:[#【(（\[ *]*(?:第?\s*\d+\s*题?[.、:： ]*)?[\[【(（]?(?:(?:下一[题道个]|例题?|练习题?|[考试]题"
    r"|问|提问|问题|题[干目]?|[多单]选题?|[ABX]\d?型题(?:\([^()\n]*\))?"
    r"|指令|输入|用户|[Hh]uman|[Uu]ser|[Qq]uestion|[Ii]nstruction|Q)"
    r"\s*[\d一二三四五六七八九十]*\s*(?:[:：】\])）、]|\n))"
    r"|[^\n]{0,10}(?:下|另|再[来看做])[一几]?[道个]?题|下列|以下[哪关]|患者[,，]?\s*[男女]|\d+\s*[.、．][^\n]*(?:[是为有?？需括]"
    r"|[(（]\s*[)）])[。:：]?\s*\n"
    r"|(?![^\n]*(?:分析|解析|选项|如下|逐))(?:[(（]?\d+[.、．)）][^\n]{4,200}|[^\n]{4,200}(?:[是为有需括宜?？]"
    r"|[(（]\s*[)）])[。:：]?)\s*\n+[ \t]*[(（]?A\s*[.、．:：)）])"
)


def extract_letters(text: str, options: Options, multiple: bool, cut: bool = False) -> str | None:
    """Sorted answer letters ("ABD") in `text`, or None when it gives no answer.

    `options` {"A": text, …} are the item's; letters outside them are never an answer. Unless `multiple`, an answer of
    several letters is None. `cut`: the text was to go on, so an option's text alone decides nothing.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}\n{text[-LONGEST // 2 :]}"
    # Before NFKC, which makes ① a digit that would stick to the letter after it.
    text = unicodedata.normalize("NFKC", _MARKS.sub(" ", text)).translate(SIMPLIFIED).strip()
    text = _without_echo(re.sub(r"\}(?=[、,\s]*\\boxed\{)[、,\s]*\\boxed\{", ",", text), options)
    text = re.sub(r"(?<=[A-Z])\|(?=[A-Z])", "、", text)
    text = re.sub(r"(?<![A-Z\d])([A-Z])\s*[至到~–—-]\s*([A-Z])(?![A-Za-z\d-])", _range, text)
    if not multiple:
        text = _RANKED.sub(r"最可能的是\1。", text)
    else:
        text = re.sub(
            r"除了?[^,。;A-Z\n]{0,20}\(?[A-Z](?:[、和与及]?[A-Z])*\)?(?:选?项)?(?:[以之]?外)?,\s*(?=[A-Z])", "", text
        )
        text = _OTHERWISE.sub(lambda but: "、".join(letter for letter in options if letter not in (but[1] or "")), text)
    short = len(text) <= SHORT and text.count("。") < 3 and not cut
    # What stands before a correction is taken back.
    text = text[max((match.start() for match in _CORRECTED.finditer(text)), default=0) :]
    further = NEXT.search(text)
    found = _found(text[: further.start()], options, multiple, short, cut) if further else ""
    letters = "".join(sorted(set(found or _found(text, options, multiple, short, cut))))
    return letters if letters and (multiple or len(letters) == 1) else None


def _found(text: str, options: Options, multiple: bool, short: bool, cut: bool) -> str:
    decided = _last(text, options, multiple, _DECIDED)
    if decided or _REFUSAL.search(text):
        return decided
    found = (
        _alone(text, options)
        or _last(text, options, multiple, _CONCLUDED)
        or _called(text, options, _SOUGHT, multiple)
        or _judged(text, options, multiple)
    )
    if not multiple and len(set(found)) != 1:
        found = _odd(text, options) or found
    return found or _opening(text, options, cut) or (_by_text(text, options) if short else "")


def _last(text: str, options: Options, multiple: bool, cues: re.Pattern) -> str:
    """The letters of the last sentence with `cues` in which some follow: after its last decision, or its first
    conclusion. A question decides nothing."""
    named = _named(text, options)
    for sentence in reversed(list(_SENTENCE.finditer(text))):
        found = list(cues.finditer(text, sentence.start(), sentence.end())) if sentence[0][-1:] != "?" else []
        for cue in found if cues is _CONCLUDED else reversed(found):
            if cue.end() in named:
                # CMExam's explanations name each of several answers so; the second is no correction of the first.
                return "".join(named.values()) if multiple else named[cue.end()]
            quoted = _OPENED.search(text, max(0, cue.start() - 3), cue.start()) and _CLOSED.match(text, cue.end())
            others = quoted or _OTHERS.search(text, max(sentence.start(), cue.start() - 30), cue.start())
            if not others and (letters := _after(text, cue, sentence, options)):
                return letters
    return ""


def _named(text: str, options: Options) -> dict[int, str]:
    """{end: letter} of "A为正确答案"."""
    named: dict[int, str] = {}
    end = 0
    for run in RUN.finditer(text):
        letters, end, _ = read_list(text, run.start(), options) if run.start() >= end else ("", end, False)
        if letters and (match := _NAMED.match(text, end)):
            named.setdefault(match.end(), letters)
    return named


def _after(text: str, cue: re.Match, sentence: re.Match, options: Options) -> str:
    """The answer that a cue introduces: what stands there, else the first letters of its sentence that are not struck
    out, an ordinal, or for a conclusion the only option whose text it names."""
    bare = _PUNCTUATION.match(text, cue.end()).end()
    full = _FILLER.match(text, cue.end()).end()
    here = texts_at(text, bare, options) or letters_at(text, full, options) or texts_at(text, full, options)
    if len(here) == 1 and "\n" in text[cue.end() : full] and len(listed := _listed(text, full, options)) > 1:
        return listed
    if row := _ROW.match(text, text.rfind("\n", 0, cue.start()) + 1):
        if row.end() >= cue.end() and not re.search(r"\w", text[cue.end() : row.end()]):
            return head(row[0], options)
    rest = text[cue.end() : min(sentence.end(), cue.end() + WINDOW)]
    loose = cue.re is _CONCLUDED
    return (
        here
        or next(standing(rest, options), "")
        or ordinal(rest, options)
        or (_by_text(rest, options) if loose else "")
    )


def _listed(text: str, position: int, options: Options) -> str:
    """The letters with which the lines from `position` on begin, up to one that is denied or begins otherwise."""
    letters = ""
    for line in text[position : position + 10 * WINDOW].split("\n"):
        letter = head(line, options)
        if not letter or letter in letters or _FAILED.search(line):
            break
        letters += letter
    return letters


def _called(text: str, options: Options, what: re.Pattern, multiple: bool) -> str:
    """The letters after which `what` stands; of a single-answer item one, or none."""
    called = [letters for letters, _, end in _mentioned(text, options) if what.match(text, end)]
    return "".join(called) if multiple or len(set(called)) == 1 else ""


def _mentioned(text: str, options: Options) -> list[tuple[str, int, int]]:
    """(letters, start, end) of every list in a text that is no name (维生素A, A型) and not what others say."""
    found, end = [], 0
    for run in RUN.finditer(text):
        letters, end, _ = read_list(text, run.start(), options) if run.start() >= end else ("", end, False)
        start = run.start()
        if letters and not (
            NAMES.search(text, max(0, start - 8), start) or _OF_OTHERS.search(text, max(0, start - 30), start)
        ):
            found.append((letters, start, end))
    return found


def _judged(text: str, options: Options, multiple: bool) -> str:
    """The letters that are called right where they stand, or by lines that judge every option."""
    every = _mentioned(text, options)
    right = [letters for letters, _, end in every if _RIGHT.match(text, end)]
    mentioned = {letter for letters, *_ in every for letter in letters}
    if multiple and right and max(map(len, right)) == 1 and mentioned == set(right) < set(options):
        right = []  # some options are still to be judged
    lines = heads(text, options)
    if set(lines) == set(options) and all(_HELD.search(line) or _FAILED.search(line) for line in lines.values()):
        right = [letter for letter, line in lines.items() if not _FAILED.search(line)]
    return "".join(right) if multiple or len(set(right)) == 1 else ""


def _odd(text: str, options: Options) -> str:
    """The one option that is set apart from all others ("A、B、C均正确,D错误"; "除D外"; all but D struck out): a
    question may ask for what is not so."""
    excepted = {letter for match in _EXCEPTED.finditer(text) for letter in match.groups()} & set(options)
    held, struck = set(), set()
    for letters, start, end in _mentioned(text, options):
        if DENIED.match(text, end) or STRUCK.search(text, max(0, start - 8), start):
            struck |= set(letters)
        elif _RIGHT.match(text, end) or _HOLDS.match(text, end):
            held |= set(letters)
    struck |= {letter for letter, line in heads(text, options).items() if _DROPPED.search(line)} - held
    if not held and len(struck) == 1 and _REST.search(text):
        held = set(options) - struck
    if not held & struck and 1 in (len(struck), len(held)) and held | struck == set(options):
        excepted |= struck if len(struck) == 1 else held
    if not held and len(struck) == len(options) - 1:
        excepted |= set(options) - struck
    return excepted.pop() if len(excepted) == 1 else ""


def _alone(text: str, options: Options) -> str:
    """The one line that holds letters only."""
    lines = [line.strip(" *()【】[].。,") for line in re.split(r"[\n。]", text)]
    read = [(line, *read_list(line, 0, options)) for line in lines]
    alone = [
        letters for line, letters, end, _ in read if letters and line[end:] in ("", "选项", "项") and ordered(letters)
    ]
    return alone[0] if len(alone) == 1 else ""


def _opening(text: str, options: Options, cut: bool) -> str:
    """Letters the text opens with, unless it goes through the options, or was cut while it spoke of the first."""
    start = _LEAD.match(text).end()
    if small := LOWER_RUN.fullmatch(text, start):
        return lower(small[1], options)
    letters, end, labelled = read_list(text, start, options)
    opens = letters and (labelled or _OPENING.match(text, end)) and ordered(letters) and not DENIED.match(text, end)
    opens = opens and not (cut and text[end : end + 1] == ":")
    return letters if opens and len(heads(text, options)) < 3 else ""


def _by_text(text: str, options: Options) -> str:
    """The whole text made of option texts; else the only option named in it (not a shorter one inside a longer)."""
    whole = texts_at(text, _PUNCTUATION.match(text).end(), options)
    if whole:
        return whole
    named, rest = [], text
    for letter, option in sorted(options.items(), key=lambda pair: -len(pair[1])):
        words = plain(option)
        if len(words) > 1 and words in rest:
            escaped = re.escape(words)
            other = rf"(?:不是|而非|并非|不同于)\W*{escaped}|与\W*{escaped}[^,。;]{{0,4}}(?:鉴别|不同|区[分别])"
            named += [] if re.search(other, rest) else [letter]
            rest = rest.replace(words, "\0")
    others = {run[0] for run in RUN.finditer(rest)} & set(options) - set(named)
    return named[0] if len(named) == 1 and not others and not _NEGATED.search(rest) else ""


def _range(match: re.Match) -> str:
    return "、".join(map(chr, range(ord(match[1]), ord(match[2]) + 1))) or match[0]


def _without_echo(text: str, options: Options) -> str:
    """The text less a copy of the whole list of options: repeating the question is no answer."""
    parts = [rf"{letter}[\s.、:)]*{re.escape(plain(option))}" for letter, option in options.items() if option]
    return re.sub(r"[\s,;。]*".join(parts), "\n", text) if len(parts) > 1 else text
