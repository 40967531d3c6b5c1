"""How many leaks decontamination finds: records that give test items away, made of the real items, and judged.

Each kind (data/leaks.yaml) is a way in which an item gets into a corpus: a forum, a collection of exams, a fact.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from qilin_lib.chimed import batches
from qilin_lib.chimed.compose import QUESTIONS, medical_text
from qilin_lib.chimed.decontaminate import Index
from qilin_lib.chimed.items import BLANK, Item, items_of
from qilin_lib.chimed.letters import converter
from qilin_lib.chimed.records import Dialogue, Disease, Passage, Payload

_DATA = yaml.safe_load((Path(__file__).parent / "data" / "leaks.yaml").read_text(encoding="utf-8"))
KINDS, _PHRASES = _DATA["kinds"], _DATA["phrases"]
_STOPS = "？?。.！!，, "
_WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


class Recall(NamedTuple):
    """Of `made` leaks of a kind from a benchmark's items, those found."""

    kind: str
    benchmark: str
    made: int
    found: int


def recall(raw: Path, share: float, seed: int = 17, most: int = 200) -> list[Recall]:
    """Recall by kind and benchmark, on at most `most` leaks of each; `share`: contamination_share."""
    items = [*items_of(raw)]
    made = [*leaks(items, seed, most)]
    hits = Index(items).hits([batches.identified(payload) for _, _, payload in made], share)
    total = Counter((kind, item.benchmark) for kind, item, _ in made)
    found = Counter((kind, item.benchmark) for (kind, item, _), hit in zip(made, hits, strict=True) if hit)
    return [Recall(kind, benchmark, count, found[kind, benchmark]) for (kind, benchmark), count in total.items()]


def leaks(items: list[Item], seed: int, most: int) -> Iterator[tuple[str, Item, Payload]]:
    """(kind, item, a record that gives it away): at most `most` of each kind and benchmark, drawn by the seed."""
    for kind, row in KINDS.items():
        for benchmark in dict.fromkeys(item.benchmark for item in items):
            draw = random.Random(f"{seed} {kind} {benchmark}")
            own = [item for item in items if item.benchmark == benchmark and OF[row["of"]](item)]
            for item in draw.sample(own, min(most, len(own))):

                def word(found: re.Match[str], item: Item = item, draw: random.Random = draw) -> str:
                    return WORDS[found[1]](item, draw) if found[1] in WORDS else draw.choice(_PHRASES[found[1]])

                turns = tuple(re.sub(r"\{(\w+)\}", word, form) for form in draw.choice(row["forms"]))
                yield kind, item, Dialogue(turns) if len(turns) > 1 else Passage("", *turns)


def _size(text: str) -> int:
    return sum(map(str.isalnum, text))


def _stem(item: Item) -> str:
    return re.sub(r"[（(]\s*[）)]|[_＿]{2,}|[。？?：:]+$", "", item.question)


def _disease(item: Item) -> str | None:
    """What the kit writes of a disease when it composes the item's question."""
    for template, (heading, *_) in QUESTIONS:
        pattern = re.escape(template.rstrip("？")).replace(r"\{name\}", "(.{2,30})")
        if found := re.fullmatch(f"{pattern}[？?]?", item.question):
            return medical_text(Disease(found[1], (("科室", ("内科",)), (heading, ("劳累", "受凉")))))
    return None


# Of which items a kind can be made.
OF: dict[str, Callable[[Item], object]] = {
    "any": lambda item: True,
    "question": lambda item: not item.options,
    "exam": lambda item: item.options,
    "short question": lambda item: not item.options and _size(item.question) < 13,
    "short exam": lambda item: item.options and _size(item.question) < 13,
    "stem": lambda item: re.search("[\u4e00-\u9fff]", "".join(item.options)) and _size(_stem(item)) >= 8,
    "blank": lambda item: item.filled and BLANK.search(item.question),
    "statement": lambda item: item.filled and not BLANK.search(item.question) and _size(item.question) >= 5,
    "answer": lambda item: _size(item.answer) >= 30,
    "doctor's answer": lambda item: not item.options and _size(item.answer) >= 45,
    "wordings": lambda item: item.wordings,
    "disease": _disease,
}


def _asked(item: Item, draw: random.Random) -> str:
    """The question as somebody types it: an exam's with its options, the stop at its end forgotten now and then."""
    question = item.question if draw.random() < 0.5 else item.question.rstrip(_STOPS)
    return f"{question}\n{_options(item.options)}" if item.options else question


def _options(options: Sequence[str], mark: str = "{A}. ", between: str = "\n") -> str:
    marks = (mark.format(A=chr(65 + n), a=chr(97 + n), n=n + 1, o=chr(0x2460 + n)) for n in range(len(options)))
    return between.join(map("".join, zip(marks, options, strict=True)))


def _mistyped(text: str, draw: random.Random) -> str:
    at = draw.randrange(1, len(text) - 1)
    return f"{text[:at]}囗{text[at + 1 :]}"


# What a word of a form becomes for an item.
WORDS: dict[str, Callable[[Item, random.Random], str]] = {
    "question": lambda item, draw: item.question,
    "bare": lambda item, draw: item.question.rstrip(_STOPS),
    "asked": _asked,
    "answered": lambda item, draw: f"答案是{draw.choice(item.right or 'A')}" if item.options else "先到门诊查一下。",
    "wide": lambda item, draw: f"{item.question} {_options(item.options, '{A}.', ' ')}".translate(_WIDE),
    "capitals": lambda item, draw: f"{item.question} {_options(item.options, '{A}.', ' ')}".upper(),
    "mixed": lambda item, draw: _options(draw.sample(item.options, len(item.options))),
    "marked": lambda item, draw: _options(item.options, draw.choice(_DATA["marks"]), draw.choice("\n ；")),
    "unasked": lambda item, draw: re.sub("[是为]$", "", _stem(item)),
    "mistyped": lambda item, draw: _mistyped(_stem(item), draw),
    "shortened": lambda item, draw: re.sub("^(下列|关于|以下|患者，?)", "", _stem(item)),
    "filled": lambda item, draw: draw.choice(item.filled),
    "answer": lambda item, draw: item.answer,
    "numbered": lambda item, draw: "".join(
        f"{number}、{part}；" for number, part in enumerate(filter(None, re.split("[，。；\n]", item.answer)), 1)
    ),
    "wrong": lambda item, draw: _mistyped(item.answer, draw),
    "cut": lambda item, draw: item.answer[: len(item.answer) * 9 // 10],
    "wording": lambda item, draw: draw.choice(item.wordings),
    "traditional": lambda item, draw: converter(draw.choice(("s2t", "s2tw", "s2hk"))).convert(_asked(item, draw)),
    "disease": lambda item, draw: str(_disease(item)),
}
