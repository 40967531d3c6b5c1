"""Items of benchmarks (the sources that feed the set "eval"), and by what each is known in a training record."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from qilin_lib.chimed.clean import clean
from qilin_lib.chimed.letters import HARD, NUMBERS, SOFT, folded, impolite
from qilin_lib.chimed.records import Dialogue, Exam, Record, leaves, rebuilt
from qilin_lib.chimed.shingles import gram_set
from qilin_lib.chimed.sources import REGISTRY, units

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
# Letters of an answer that make a term and its answer an item.
TELLING = 8
RULES = ("options", "question", "cloze", "13-gram", "answer")
_SHORT_NAMES = {"huatuo26m_test": "huatuo"}
BENCHMARKS = {
    source.name: _SHORT_NAMES.get(source.name, source.name)
    for source in REGISTRY
    if any("eval" in feed.rows for feed in source.feeds)
}
_WITHOUT_NUMBERS = str.maketrans("", "", NUMBERS)
_STOPS = "。.？?！!：: "
BLANK = re.compile(r"[_＿]{2,}|[（(]\s*[）)]|[\[【]\s*[\]】]")


class Item(NamedTuple):
    """A benchmark item: its place, its question, and an exam's options, a dialogue's turns, its reference answer.

    `right`: the options that may fill a blank, all of them where the benchmark hides the answer; `filled`: the question
    with each of these in its blank. `wordings`: further wordings of the question.
    """

    benchmark: str
    place: str
    question: str
    answer: str
    options: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    wordings: tuple[str, ...] = ()


class Probe(NamedTuple):
    """One way in which an item is known: the letters to look for, and what must stand beside them.

    Of the grams of `size` letters of `text` a record must hold `share`; None: the share that the build is given. A text
    shorter than GRAM is its own only gram, and must stand between a HARD border and one of `end`. An answer comes
    without its numbers, and `text` of "options" is the stem, sought around all of `beside`, the options.
    """

    benchmark: str
    item: str
    rule: str
    text: str
    size: int = GRAM
    share: float | None = 1.0
    beside: Sequence[str] = ()
    end: int = HARD


def item_of(record: Record) -> Item | None:
    """The benchmark item of a record that a benchmark's reader yielded; None for a payload that asks nothing."""
    place = BENCHMARKS[record.source], f"{record.source}/{record.file}:{record.line}"
    match record.payload:
        case Exam(question, options, answer, explanation):
            texts, question = [clean(text) for _, text in options], clean(question)
            right = [text for text, (letter, _) in zip(texts, options, strict=True) if not answer or letter in answer]
            return Item(*place, question, clean(explanation), tuple(texts), tuple(right), (*_filled(question, right),))
        case Dialogue(turns, _, wordings):
            said, others = tuple(map(clean, turns)), tuple(map(clean, wordings))
            return Item(*place, said[0], said[-1 - len(said) % 2], turns=said, wordings=others)
    return None


def items_of(raw: Path) -> Iterator[Item]:
    """The items of every benchmark of a raw folder that can be read, in order of the registry."""
    for source in REGISTRY:
        for unit in units(source, raw, ("eval",), notes={}):
            if isinstance(unit.read, Record) and (item := item_of(unit.read)):
                yield item


def _filled(question: str, options: Sequence[str]) -> Iterator[str]:
    """The question with each option in its blank, or behind a question without a blank that ends in one of COMPLETED.

    An option of as many parts as there are blanks fills them in order; else it fills the first one.
    """
    pieces = BLANK.split(question)
    if len(pieces) == 1 and (asked := question.rstrip(_STOPS)).endswith(COMPLETED):
        pieces = [asked, ""]
    for option in options if len(pieces) > 1 else ():
        parts = [part for part in re.split(r"[；;、，,\s]+", option) if part]
        parts = parts if len(parts) == len(pieces) - 1 else [option]
        yield "".join(piece + part for piece, part in zip_longest(pieces, parts, fillvalue=""))


def probes(items: Sequence[Item]) -> list[Probe]:
    """All probes of all items, in order of the items."""
    own = [*_folded(items)]
    sets = Counter(stem for stem, _ in {(item.question, frozenset(item.options)) for item in own})
    found = []
    for raw, item in zip(items, own, strict=True):
        rows = _of_exam(item, BLANK.split(raw.question), sets[item.question]) if item.options else _of_dialogue(item)
        found += [Probe(item.benchmark, item.place, *row) for wanted, *row in (*rows, _of_answer(item)) if wanted]
    return [probe for probe in found if probe.text]


def _folded(items: Sequence[Item], at_once: int = 1000) -> Iterator[Item]:
    """The items in folded letters."""
    for at in range(0, len(items), at_once):
        texts = [item[2:] for item in items[at : at + at_once]]
        left = iter(folded(leaves(texts)))
        for item, own in zip(items[at : at + at_once], texts, strict=True):
            yield Item(item.benchmark, item.place, *rebuilt(own, left))


def _of_exam(item: Item, pieces: Sequence[str], sets: int) -> list[tuple]:
    """Rows of an exam's question, which its blanks part into `pieces`, and which comes with so many option sets."""
    stem, options = item.question, [*dict.fromkeys(filter(None, item.options))]
    several, numbers = len(options) > 1, all(map(str.isascii, options))
    long = len(stem) >= GRAM
    short = SHORT_QUESTION <= len(stem) < GRAM
    asking = stem.endswith(ASKING)
    blank, inside = len(pieces) > 1, pieces[-1].strip(_STOPS)
    return [
        (several and not numbers, "options", stem, 2, 2 / 3, options),
        # Numbers stand everywhere: beside them the stem must be whole.
        (several and numbers and not long, "question", stem, GRAM, 1.0, options, SOFT),
        (long, "13-gram", stem, GRAM, None),
        (short and asking and len(stem) >= SHORT_STEM and sets == 1, "question", stem),
        *((short and (asking or len(a) >= TELLING), "question", stem, GRAM, 1.0, [a], SOFT) for a in item.right if a),
        # A long stem that ends in its blank is found with or without what fills it.
        *((blank and (inside or not long), "cloze", text, GRAM, 0.9) for text in item.filled),
        # A long option would be most of the sentence.
        *((short and not blank, "cloze", t, GRAM, 0.9, [stem] if len(t) >= GRAM else []) for t in item.filled),
    ]


def _of_dialogue(item: Item) -> list[tuple]:
    # Many dialogues begin alike ("医生您好"), and then only all that is said is the item.
    texts = [text for text in (item.question, *item.wordings) if len(impolite(text)) >= SHORT_QUESTION]
    if len(item.turns) > 2 or item.question not in texts:
        texts.append("".join(item.turns))
    return [(True, "13-gram", text, GRAM, None) for text in texts]


def _of_answer(item: Item) -> tuple:
    """A doctor's answer may lack an eighth, an exam's explanation nothing: these share passages of textbooks."""
    text = item.answer.translate(_WITHOUT_NUMBERS)
    total, missing = len(gram_set(text, 5)), 0 if item.options else max(5, len(text) // 8)
    telling = len(item.answer) >= ANSWER and len(text) > ANSWER / 2
    return telling, "answer", text, 5, max(0, total - missing) / max(1, total)
