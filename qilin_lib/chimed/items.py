"""Items of benchmarks, and by what each is known in a training record.

The benchmarks are the sources that feed the set "eval" (sources.yaml), as far as the raw folder has them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from qilin_lib.chimed.clean import clean
from qilin_lib.chimed.letters import impolite, letters
from qilin_lib.chimed.records import Dialogue, Exam, Record
from qilin_lib.chimed.shingles import gram_set
from qilin_lib.chimed.sources import REGISTRY

GRAM = 13
# An exam stem below SHORT_STEM letters ("下列说法正确的是") says nothing without its options or its answer; a patient's
# question below SHORT_QUESTION ("头晕") is no question.
SHORT_STEM, SHORT_QUESTION = 10, 5
# Letters from which an answer is nobody's but the item's; half of them are no numbers.
ANSWER = 30
# A short stem that ends so is completed by its answer ("最大的唾液腺是"), or at least asks something, and is not a mere
# heading or term ("传染性单核细胞增多症"). In folded letters, 什么 is 什幺.
COMPLETED = tuple("是为有于指括由用选见")
ASKING = (*COMPLETED, *"项种类者幺何吗哪谁")
# The share of a filled-in sentence's 13-grams that must stand in a record, and the letters of an answer that make a
# term and its answer an item.
NEARLY_ALL, TELLING = 0.9, 8
# An answer is known by its 5-grams. A doctor's may have lost what a wrong character or a missing eighth takes, an
# exam's explanation none: those of different items share long passages of textbooks.
ANSWER_GRAM = 5
RULES = ("options", "question", "cloze", "13-gram", "answer")
_SHORT_NAMES = {"huatuo26m_test": "huatuo"}
BENCHMARKS = {
    source.name: _SHORT_NAMES.get(source.name, source.name)
    for source in REGISTRY
    if any("eval" in feed.rows for feed in source.feeds)
}
_STOPS = "。.？?！!：: "
BLANK = re.compile(r"[_＿]{2,}|[（(]\s*[）)]|[\[【]\s*[\]】]")


@dataclass(frozen=True, slots=True)
class Item:
    """A benchmark item: its place, its question, and an exam's options, a dialogue's turns, its reference answer.

    `right`: the options that may fill a blank, all of them where the benchmark hides the answer. `wordings`: further
    wordings of the question.
    """

    benchmark: str
    place: str
    question: str
    options: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    answer: str = ""
    wordings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """One way in which an item (its number) is known: the letters to look for, and what must stand beside them.

    how "options": `text` is the stem, most of which must stand around all of `beside`, the options. Else a text shorter
    than a gram must stand between borders; of a longer one `share` of the 13-grams must be there, None: the share that
    the build is given; and the record must have `beside` too. An answer comes without its numbers, and its `share` is
    that of its 5-grams.
    """

    item: int
    how: str
    text: str
    share: float | None = None
    beside: tuple[str, ...] = ()


def item_of(record: Record) -> Item | None:
    """The benchmark item of a record that a benchmark's reader yielded; None for a payload that asks nothing."""
    benchmark, place = BENCHMARKS[record.source], f"{record.source}/{record.file}:{record.line}"
    match record.payload:
        case Exam(question, options, answer, explanation):
            right = [text for letter, text in options if not answer or letter in answer]
            texts = [text for _, text in options]
            return Item(benchmark, place, *_cleaned(question, texts, right), answer=clean(explanation))
        case Dialogue(turns, _, wordings):
            question, said, others = _cleaned(turns[0], turns, wordings)
            answer = clean(turns[-1 - len(turns) % 2])
            return Item(benchmark, place, question, turns=said, answer=answer, wordings=others)
    return None


def _cleaned(question: str, *texts: Sequence[str]) -> tuple[str, *tuple[tuple[str, ...], ...]]:
    return clean(question), *(tuple(map(clean, some)) for some in texts)


def probes(items: Sequence[Item]) -> list[Probe]:
    """All probes of all items, in order of the items."""
    fold = _Folded(text for item in items for text in _strings(item))
    sets: Counter[str] = Counter()
    for stem, _ in {(fold[item.question], frozenset(map(fold.__getitem__, item.options))) for item in items}:
        sets[stem] += 1
    found = []
    for number, item in enumerate(items):
        own = _of_exam(number, item, fold, sets) if item.options else _of_dialogue(number, item, fold)
        found += [probe for probe in own if probe.text]
        answer = fold.without_numbers[item.answer]
        if len(fold[item.answer]) >= ANSWER and len(answer) > ANSWER / 2:
            total = len(gram_set(answer, ANSWER_GRAM))
            missing = 0 if item.options else max(ANSWER_GRAM, len(answer) // 8)
            found.append(Probe(number, "answer", answer, max(0, total - missing) / total))
    return found


class _Folded(dict[str, str]):
    """{text: its letters} of many texts, folded at one stroke; `without_numbers`: the same without its numbers."""

    def __init__(self, texts: Iterable[str]) -> None:
        distinct = [*dict.fromkeys(texts)]
        folded = letters(distinct)
        bare = folded.without_numbers()
        super().__init__((text, folded.text(number)) for number, text in enumerate(distinct))
        self.without_numbers = {text: bare.text(number) for number, text in enumerate(distinct)}


def _strings(item: Item) -> Iterator[str]:
    yield from (item.question, item.answer, "".join(item.turns), *item.options, *item.wordings)
    yield from (text for _, text in filled(item))


def filled(item: Item) -> list[tuple[str, str]]:
    """(option, the question with the option in its blank) of an exam item whose question has a blank.

    An option of as many parts as there are blanks fills them in order; else it fills the first one. A question without
    a blank that ends in a word of COMPLETED has one behind it.
    """
    pieces = BLANK.split(item.question)
    if len(pieces) < 2:
        asked = item.question.rstrip(_STOPS)
        if not asked.endswith(COMPLETED):
            return []
        pieces = [asked, ""]
    found = []
    for option in item.right:
        parts = [part for part in re.split(r"[；;、，,\s]+", option) if part]
        parts = parts if len(parts) == len(pieces) - 1 else [option, *[""] * (len(pieces) - 2)]
        found.append((option, "".join(a + b for a, b in zip(pieces, [*parts, ""], strict=True))))
    return found


def _of_exam(number: int, item: Item, fold: _Folded, sets: Counter[str]) -> Iterator[Probe]:
    stem = fold[item.question]
    options = dict.fromkeys(filter(None, map(fold.__getitem__, item.options)))
    # Numbers stand everywhere: beside them the stem must be whole.
    numbers = all(map(str.isascii, options))
    if len(options) > 1 and not (numbers and len(stem) >= GRAM):
        yield Probe(number, "question" if numbers else "options", stem, beside=tuple(options))
    if len(stem) >= GRAM:
        yield Probe(number, "13-gram", stem)
    else:
        for answer in filter(None, map(fold.__getitem__, item.right if len(stem) >= SHORT_QUESTION else ())):
            if stem.endswith(ASKING) or len(answer) >= TELLING:
                yield Probe(number, "question", stem, beside=(answer,))
        if len(stem) >= SHORT_STEM and stem.endswith(ASKING) and sets[stem] == 1:
            yield Probe(number, "question", stem)
    yield from _filled(number, item, fold)


def _filled(number: int, item: Item, fold: _Folded) -> Iterator[Probe]:
    stem, pieces = fold[item.question], BLANK.split(item.question)
    for _, text in filled(item):
        # A long stem that ends in its blank is found with or without what fills it.
        if len(pieces) > 1 and (len(stem) < GRAM or pieces[-1].strip(_STOPS)):
            yield Probe(number, "cloze", fold[text], NEARLY_ALL)
        elif SHORT_QUESTION <= len(stem) < GRAM and len(pieces) == 1:
            # A long option would be most of the sentence.
            yield Probe(number, "cloze", fold[text], NEARLY_ALL, (stem,) if len(fold[text]) >= GRAM else ())


def _of_dialogue(number: int, item: Item, fold: _Folded) -> Iterator[Probe]:
    whole, asked = fold["".join(item.turns)], fold[item.question]
    # Many dialogues begin alike ("医生您好"), and then only all that is said is the item.
    for wording in (asked, *map(fold.__getitem__, item.wordings)):
        if len(impolite(wording)) >= SHORT_QUESTION:
            yield Probe(number, "13-gram" if len(wording) >= GRAM else "question", wording)
    if len(item.turns) > 2 or len(impolite(asked)) < SHORT_QUESTION:
        yield Probe(number, "13-gram", whole)
