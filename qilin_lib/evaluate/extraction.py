"""Answer letters from a model's free text (CMExam is scored on them).

A medical text is full of capitals that answer nothing (CT, B超, DNA, 维生素A); the released code's "first run of
capitals" takes them all. Here a reply is read in these steps.
1. Each mention of options, letters or the text of one, is marked (`mentions`); names that hold a letter are none.
2. What stands before a retraction ("等等", "不对", "Wait") is dropped. What follows the next question that a model
   invents is read only where there is no answer before it.
3. The words around a mention say what is said of it (data/cues.yaml): that it is the answer, that it follows, that it
   is right, or wrong. What others say, what would hold of another question and what is asked decide nothing.
4. The last mention called the answer counts, unless it leaves two ("A或B") or contradicts the first words of the reply
   without taking them back. A refusal without such a mention is no answer.
5. Then, in this order: all options but those set apart ("其余均对") or struck out; all, if a reply says so; the letters
   that a reply begins with, or that are its last line; the last conclusion ("因此", "的是"); what is said to fit the
   question; what is called right, or of a list the one whose verdict is not that of the others; what the case is said
   to fit; the one that a short reply names; what its question asks for (`stem`).
Nothing found, or more than one letter for a single-answer item: None, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from qilin_lib.evaluate.cues import CUES
from qilin_lib.evaluate.mentions import MARK, Mention, Options, marked, normal, plain
from qilin_lib.evaluate.stem import fitting, negative, several

NEXT = CUES.next
LONGEST = 16_000
"""Characters that are read; of a longer reply both ends."""
SHORT = 60
"""Characters of a reply that may give the text of an option and nothing else."""
ONLY_PRAISED = ("concludes", "supported")
WINDOW = 60
"""Characters beside a mention in which its cue stands; it bounds the work of a sentence that never ends."""

_SENTENCE = re.compile(r"(?:[^。!?;\n.]|(?<=@)\.(?=[ \t]*[^\sA-Z@])|\.(?!\s|$))+[。!?;\n.]?|[。!?;\n.]")
# What stands in the lines below such words belongs to their sentence.
_BELOW = re.compile(r"(?:(?<=[:是为选案论择答])|(?<=正确选项))\s*\n\s*(?:[-•>]\s*)?")
_HEAD = re.compile(r"(?:^|[\n。;,:]|\s)[\W\d_]*(?:选项|说法|[Oo]ption|至于|其中|而|但)?[\W\d_]*$")
# The end of what is said of the last of a list of options.
_LAST = re.compile(
    r"\n\s*\n|\n(?=\W*(?:综|因此|所以|故|总|结论|答案|小结|由|题目|本题))"
    r"|(?<=[。;])(?=综上|因此|所以|故|总之|由此|题目|本题)"
)
_STOP = re.compile(r"(?<=[。!?\n])")
_CLAUSE = re.compile(rf"[,;。!?\n{MARK}]")
# Signs beside a mention in its line.
_SIGNS = rf"[^\w\n{MARK}]"
_LINE = re.compile(rf"^{_SIGNS}*{MARK}(?={_SIGNS}*\w)", re.MULTILINE)
_AMONG = re.compile(r"(?:之)?中(?!枢)")
_RETRACTED = re.compile(rf"(?:(?<=[。!?;,\n.—:…(])|(?<=\.\s)) *(?:{CUES.retracted.pattern})")
_BEGINS = re.compile(
    rf"[^\w{MARK}]*(?:(?:选项|答)[^\w{MARK}]*)?{MARK}"
    rf"(?=$|[^\w\s:{MARK}]|\s+[-–—]\s|\s*\n|\s*\(|\s+(?:解释|解析|因为|理由|正确|是)|\s*$)"
)

_PRAISED = re.compile(r"正确的?(?!答案)[^答,。;:]{0,6}[是为有:]\W*$")
# A last line of a mention alone, or behind a word or two: "✅ C", "选项：C".
_CLOSES = re.compile(rf"\n{_SIGNS}*(?:[^\W\d]{{1,6}}{_SIGNS}*:)?{_SIGNS}*{MARK}{_SIGNS}{{0,3}}\Z")
_HEADLINE = re.compile(rf"{_SIGNS}*{MARK}{_SIGNS}*\n")
_ALONE = re.compile(rf"^{_SIGNS}*{MARK}{_SIGNS}*$", re.MULTILINE)


class Said(NamedTuple):
    """A mention, `at` which character of the marked text it stands, what stands before it in its sentence (which starts
    at `sentence`) and what follows; `open`: whether it can decide anything; `right`: whether its question asks for what
    is right, None if that is not known."""

    mention: Mention
    at: int
    before: str
    after: str
    sentence: int
    open: bool
    right: bool | None

    @property
    def letters(self) -> str:
        return self.mention.letters

    def says(self, label: str) -> bool:
        """Whether the words around it say so."""
        # Of a question for what is wrong, "错误的是C" gives the answer in so many words.
        faulty = not self.right and label == ("concludes" if self.right is None else "answers")
        return any(getattr(CUES, name).say(self.before, self.after) for name in (label, *["faulty"] * faulty))

    @property
    def faulty(self) -> bool:
        """Whether it is called what its question asks for in the negative."""
        return self.right is False and CUES.faulty.say(self.before, self.after)

    @property
    def praised(self) -> bool:
        """Whether it is called right where its question asks for what is wrong."""
        return self.right is False and bool(self.verdict or _PRAISED.search(self.before))

    @property
    def rejected(self) -> bool:
        return self.says("denied") or self.says("wrong") or self.right and self.says("faulty")

    @property
    def dismissed(self) -> bool:
        """Whether it is rejected, or the verdict that ends its clause is a bad one."""
        return self.rejected or self.verdict is False

    @property
    def verdict(self) -> bool | None:
        """The verdict that ends its clause."""
        return _verdict(_CLAUSE.split(self.after, maxsplit=1)[0])


def extract_letters(text: str, options: Options, multiple: bool, cut: bool = False, question: str = "") -> str | None:
    """Sorted answer letters ("ABD") in `text`, or None when it gives no answer.

    `options` {"A": text, …} are the item's; letters outside them are never an answer. Unless `multiple`, an answer of
    several letters is None. `cut`: the text was to go on, so an option's text alone decides nothing. `question`: the
    item's; with it a reply is understood that calls nothing its answer.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}\n{text[-LONGEST // 2 :]}"
    text = normal(text)
    text = text[max((match.start() for match in _RETRACTED.finditer(text)), default=0) :]
    # Before copies of the options go: those of an invented question may be the same.
    further = NEXT.search(text)
    for part in (text[: further.start()], text) if further else (text,):
        # Behind an invented question other words may be meant.
        part = _without_echo(part, options)
        letters = "".join(sorted(set(_answer(part, options, multiple, cut, "" if further else question))))
        if letters:
            return letters if multiple or len(letters) == 1 else None
    return None


def _answer(text: str, options: Options, multiple: bool, cut: bool, question: str) -> str:
    short = len(text) <= SHORT and text.count("。") < 3 and not cut
    text, found = marked(text, options)
    said = list(_said(text, found, not negative(question) if question else None))
    left_open = bool(said) and not said[-1].mention.sure and said[-1].says("concludes")
    undecided = not multiple and (left_open or any(both.end() > text.rfind(MARK) for both in CUES.both.finditer(text)))
    decided = _last(said, "answers", multiple)
    if decided is not None:
        return "" if undecided or _contradicted(text, said, decided) else decided
    if undecided or CUES.refuses.search(text):
        return ""
    if cut:
        # A list of the options begins with such a line, too.
        own = [one.letters for one in said if one.mention.own]
        return own[0] if len(own) == 1 and said[0].mention.own and _HEADLINE.match(text) else ""
    # CMExam may have several right answers to any question, but most ask for one.
    lone = not multiple or not several(question)
    for reason, letters in _proposals(text, said, options, multiple, question):
        # One letter of several that is only praised on the way is a part of the answer.
        if letters and (lone or len(letters) > 1 or reason not in ONLY_PRAISED or letters == said[-1].letters):
            return letters
    if CUES.unclear.search(text):
        return ""
    letters = _named(text, said) if short else ""
    return letters or (fitting(text, said, _verdicts(text, said), question) if lone else "")


def _proposals(
    text: str, said: list[Said], options: Options, multiple: bool, question: str
) -> Iterator[tuple[str, str]]:
    """What a reply that calls nothing its answer may mean, the surest first, with the reason."""
    yield "others", _others(said, options, multiple)
    denied = {letter for one in said if one.dismissed for letter in one.letters}
    if multiple and CUES.rest.search(text):
        yield "rest", "".join(set(options) - denied) if denied else ""
    if multiple and CUES.every.search(text) and not CUES.rest.search(text) and not denied:
        yield "every", "".join(options)
    yield "opening", _opening(text, said)
    yield "closing", _closing(text, said)
    yield "concludes", _last(said, "concludes", multiple) or ""
    yield "sought", _called(said, "sought", multiple)
    yield "judged", _judged(text, said, options, multiple, negative(question))
    yield "supported", _called([one for one in said if not one.rejected], "supported", multiple)


def _said(text: str, found: list[Mention], right: bool | None) -> Iterator[Said]:
    rest = iter(found)
    for sentence in _SENTENCE.finditer(_BELOW.sub(lambda lines: " " * len(lines[0]), text)):
        asked = sentence[0].rstrip().endswith("?")
        for place in re.finditer(MARK, sentence[0]):
            before = sentence[0][max(0, place.start() - 3 * WINDOW) : place.start()]
            at = sentence.start() + place.start()
            after = _STOP.split(text[at + 1 : at + 1 + WINDOW], maxsplit=1)[0]
            decides = not asked and not _elsewhere(before) and not _AMONG.match(after)
            yield Said(next(rest), at, before[-WINDOW:], after, sentence.start(), decides, right)


def _elsewhere(before: str) -> bool:
    """Whether a mention after these words is what others say or what would hold of another question."""
    for kind in (CUES.others, CUES.supposed):
        last = max((cue.end() for cue in kind.cue.finditer(before)), default=0)
        if last and not kind.until.search(before, last):
            return True
    return False


def _last(said: list[Said], label: str, multiple: bool) -> str | None:
    """The letters of the last mention that is said to be so, "" where it leaves the choice open, None if none is."""
    such = [one for one in said if one.open and one.says(label) and (one.faulty or not one.says("denied"))]
    if label == "concludes":
        such = [one for one in such if not one.rejected and (multiple or len(one.letters) == 1)]
    if not such:
        return None
    if such[-1].praised:
        # "错误的是B,正确的是A、C、D".
        such = [one for one in such if one.faulty] or such
    last, named = such[-1], getattr(CUES, label).after
    if multiple and named(last.after):
        # CMExam's explanations name each of several answers so; the second is no correction of the first.
        return "".join(one.letters for one in such if named(one.after))
    beside = [one for one in such if one.sentence == last.sentence and not set(one.letters) & set(last.letters)]
    turned = named(last.after) or CUES.turns.search(last.before.rpartition(MARK)[2])
    if beside and not turned or not last.mention.sure:
        return ""
    return last.letters


def _contradicted(text: str, said: list[Said], decided: str) -> bool:
    """Whether an earlier answer is another than `decided`, and no word up to the last mention takes it back."""
    for one in said:
        answers = one.open and (one.says("answers") or one is said[0] and _BEGINS.match(text))
        if (
            answers
            and not one.rejected
            and not one.praised
            and one.mention.own
            and (
                not set(one.letters) & set(decided)
                or min(len(one.letters), len(decided)) > 1
                and set(one.letters) != set(decided)
                and one.says("answers")
            )
        ):
            return not CUES.withdrawn.search(text, max(0, one.at - 10), said[-1].at)
    return False


def _others(said: list[Said], options: Options, multiple: bool) -> str:
    """Of "除C外其余都对": the others where several may be right, else C."""
    excepted = next((one.letters for one in reversed(said) if one.open and one.says("excepted")), "")
    if not excepted or not multiple and len(excepted) == 1:
        return excepted
    left = (
        set(options) - set(excepted) - {letter for one in said if multiple and one.rejected for letter in one.letters}
    )
    return "".join(left) if multiple or len(left) == 1 else ""


def _called(said: list[Said], label: str, multiple: bool) -> str:
    """The letters that are said to be so; of a single-answer item one, or none."""
    letters = {letter for one in said if one.open and one.says(label) for letter in one.letters}
    return "".join(letters) if multiple or len(letters) == 1 else ""


def _judged(text: str, said: list[Said], options: Options, multiple: bool, against: bool) -> str:
    """What is called right, or of a single-answer item the one that is set apart from all others."""
    every, wrong = set(options), {letter for one in said if one.rejected for letter in one.letters}
    affirmed = [one.letters for one in said if one.open and not one.rejected and one.says("affirmed")]
    right, named = set("".join(affirmed)), {letter for one in said for letter in one.letters}
    verdicts = _verdicts(text, said)
    if set(verdicts) == every:
        right = {letter for letter, good in verdicts.items() if good}
        wrong = every - right
        if multiple and wrong and (against or CUES.wanted.search(text, text.rfind(MARK))):
            return "".join(wrong)
    if multiple:
        whole = wrong or right == every or named <= right or any(len(letters) > 1 for letters in affirmed)
        return "".join(right) if whole and not right & wrong else ""
    if len(right) == 1:
        return "".join(right)
    good = {letter for letter, value in verdicts.items() if value}
    bad = set(verdicts) - good
    if right & wrong:
        return ""
    apart = [every - wrong, *[every - right] * against]
    if right | wrong == every or any(set(one.letters) == every - wrong for one in said):
        apart.append(wrong)
    if len(verdicts) >= max(3, len(every) - 1):
        apart += [good, bad]
    return next(("".join(one) for one in apart if len(one) == 1), "")


def _verdicts(text: str, said: list[Said]) -> dict[str, bool]:
    """{letter: whether it is called right} by what is said from where a line or clause begins with it to the next."""
    heads = [one for one in said if len(one.letters) == 1 and _HEAD.search(text[max(0, one.at - 20) : one.at])]
    verdicts: dict[str, bool] = {}
    end = len(text)
    for one in reversed(heads):
        said_of = text[one.at + 1 : min(end, one.at + 5 * WINDOW)]
        if end == len(text):
            said_of = _LAST.split(said_of.lstrip(), maxsplit=1)[0]
        line = text[text.rfind("\n", 0, one.at) + 1 : one.at]
        sign = CUES.sign.search(line) if MARK not in line else None
        verdict = not sign["wrong"] if sign else _verdict(said_of)
        if verdict is not None:
            verdicts[one.letters] = verdict
        end = one.at
    return verdicts


def _verdict(text: str) -> bool | None:
    """What comes at once, or else the last verdict that ends a clause."""
    found = list(CUES.verdict.finditer(text))
    ends = [one for one in found if re.match(r"\W|$|[的了]", text[one.end() :])]
    first = [one for one in ends if not re.search(r"\w{3}", text[: one.start()])]
    chosen = first[:1] or ends[-1:] or found[:1]
    return not chosen[0]["wrong"] if chosen else None


def _opening(text: str, said: list[Said]) -> str:
    """Letters the text opens with, unless it goes through the options."""
    if (
        not _BEGINS.match(text)
        or not said[0].open
        or said[0].rejected
        or max(len(_verdicts(text, said)), len(_LINE.findall(text))) >= 3
    ):
        return ""
    return said[0].letters if said[0].mention.own and said[0].mention.sure else ""


def _closing(text: str, said: list[Said]) -> str:
    """Letters that are the last line, unless that ends a list of the options."""
    if not _CLOSES.search(text) or not said[-1].open or said[-1].rejected or len(_ALONE.findall(text)) > 1:
        return ""
    return said[-1].letters if said[-1].mention.own and said[-1].mention.sure else ""


def _named(text: str, said: list[Said]) -> str:
    """The only option whose text a short reply names."""
    letters = {one.letters for one in said}
    clear = all(one.open and not one.rejected and not one.mention.own for one in said)
    return letters.pop() if len(letters) == 1 and clear and not CUES.unlike.search(text) else ""


def _without_echo(text: str, options: Options) -> str:
    """The text less a copy of the whole list of options: repeating the question is no answer."""
    parts = [rf"{letter}[\s.、:)]*{re.escape(plain(option))}" for letter, option in options.items() if option]
    return re.sub(r"[\s,;。]*".join(parts), "\n", text) if len(parts) > 1 else text
