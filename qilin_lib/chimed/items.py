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
from qilin_lib.chimed.sources import REGISTRY

GRAM = 13
# An exam stem below SHORT_STEM letters ("下列说法正确的是") says nothing without its options or its answer; a patient's
# question below SHORT_QUESTION ("头晕") is no question.
SHORT_STEM, SHORT_QUESTION = 10, 5
# Letters from which an answer is nobody's but the item's. All of it must be there: explanations of different items
# share long passages of textbooks.
ANSWER = 30
# A short stem that ends so asks something, and is not a mere heading or term ("传染性单核细胞增多症").
ASKING = tuple("是为有于指括由用选见项种类者么何吗哪谁")
# The share of a filled-in sentence's 13-grams that must stand in a record, and the letters of an answer that make a
# term and its answer an item.
NEARLY_ALL, TELLING = 0.9, 8
RULES = ("options", "question", "cloze", "13-gram", "answer")
_SHORT_NAMES = {"huatuo26m_test": "huatuo"}
BENCHMARKS = {
    source.name: _SHORT_NAMES.get(source.name, source.name)
    for source in REGISTRY
    if any("eval" in feed.rows for feed in source.feeds)
}
BLANK = re.compile(r"[_＿]{2,}|[（(]\s*[）)]|[\[【]\s*[\]】]")


@dataclass(frozen=True, slots=True)
class Item:
    """A benchmark item: its place, its question, and an exam's options, a dialogue's turns, its reference answer.

    `right`: the options that may fill a blank, all of them where the benchmark hides the answer.
    """

    benchmark: str
    place: str
    question: str
    options: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """One way in which an item (its number) is known: the letters to look for, and what must stand beside them.

    A text shorter than a gram must stand between borders; of a longer one `share` of the 13-grams must be there, None:
    the share that the build is given. `beside`: letters that must be in the record too.
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
            return Item(benchmark, place, *_cleaned(question, texts, right, ()), clean(explanation))
        case Dialogue(turns):
            answer = turns[-1 - len(turns) % 2]
            return Item(benchmark, place, *_cleaned(turns[0], (), (), turns), clean(answer))
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
        if len(answer := fold[item.answer]) >= ANSWER:
            found.append(Probe(number, "answer", answer, 1.0))
    return found


class _Folded(dict[str, str]):
    """{text: its letters} of many texts, folded at one stroke."""

    def __init__(self, texts: Iterable[str]) -> None:
        distinct = [*dict.fromkeys(texts)]
        folded = letters(distinct)
        super().__init__((text, folded.text(number)) for number, text in enumerate(distinct))


def _strings(item: Item) -> Iterator[str]:
    yield from (item.question, item.answer, "".join(item.turns), *item.options, *(text for _, text in filled(item)))


def filled(item: Item) -> list[tuple[str, str]]:
    """(option, the question with the option in its blank) of an exam item whose question has a blank.

    An option of as many parts as there are blanks fills them in order; else it fills the first one.
    """
    pieces = BLANK.split(item.question)
    if len(pieces) < 2:
        return []
    found = []
    for option in item.right:
        parts = [part for part in re.split(r"[；;、，,\s]+", option) if part]
        parts = parts if len(parts) == len(pieces) - 1 else [option, *[""] * (len(pieces) - 2)]
        found.append((option, "".join(a + b for a, b in zip(pieces, [*parts, ""], strict=True))))
    return found


def _of_exam(number: int, item: Item, fold: _Folded, sets: Counter[str]) -> Iterator[Probe]:
    stem, options = fold[item.question], tuple(map(fold.__getitem__, item.options))
    if len(stem) >= GRAM:
        yield Probe(number, "13-gram", stem)
    else:
        yield Probe(number, "options", stem, beside=options)
        # A stem that is not set apart from what stands before it.
        if len(whole := stem + "".join(options)) >= GRAM:
            yield Probe(number, "options", whole, beside=(stem,))
        for answer in [fold[option] for option in item.right] if len(stem) >= SHORT_QUESTION else ():
            if stem.endswith(ASKING) or len(answer) >= TELLING:
                yield Probe(number, "question", stem, beside=(answer,))
        if len(stem) >= SHORT_STEM and stem.endswith(ASKING) and sets[stem] == 1:
            yield Probe(number, "question", stem)
    at_the_end = BLANK.split(item.question)[-1].strip("。.？?！!") == ""
    for _, text in filled(item):
        # A long stem that ends in its blank is found with or without what fills it.
        if len(stem) < GRAM or not at_the_end:
            yield Probe(number, "cloze", fold[text], NEARLY_ALL)


def _of_dialogue(number: int, item: Item, fold: _Folded) -> Iterator[Probe]:
    whole, asked = fold["".join(item.turns)], fold[item.question]
    # Many dialogues begin alike ("医生您好"), and then only all that is said is the item.
    if len(impolite(asked)) >= SHORT_QUESTION:
        yield Probe(number, "13-gram" if len(asked) >= GRAM else "question", asked)
    if len(item.turns) > 2 or len(impolite(asked)) < SHORT_QUESTION:
        yield Probe(number, "13-gram", whole)
