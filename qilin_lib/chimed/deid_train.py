"""Train the weights of the names: `python -m qilin_lib.chimed.deid_train` writes data/deid_weights.json.

Positive examples come from the labelled sentences and from frames (data/deid_frames.txt) filled with invented names;
negative ones from both and, where QILIN_RAW_DIR holds them, from real texts, of which nothing but weights is kept.
An averaged perceptron with a margin, in integers: the same input gives the same file on every machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from pathlib import Path

import yaml

from qilin_lib.chimed import sources
from qilin_lib.chimed.clean import clean
from qilin_lib.chimed.deid_base import HIDDEN, listed
from qilin_lib.chimed.deid_model import DOUBLE, SURNAMES, SYLLABLES, dictionary, name_letters, words
from qilin_lib.chimed.deid_names import best, features, proposed, public, tags
from qilin_lib.chimed.deid_score import Case, labelled_cases
from qilin_lib.chimed.deidentify import blotted, blotted_numbers
from qilin_lib.chimed.records import Rejection, content

Place = tuple[int, int]
# A source, and for each place in its text the features and whether a name stands there.
Example = tuple[str, list[tuple[Place, list[str], bool]]]

_SLOTS = yaml.safe_load(files("qilin_lib.chimed").joinpath("data/deid_slots.yaml").read_text(encoding="utf-8"))
# Sentences with slots for names ({n}, {s}) and other words; those that begin with "=" hold none.
FRAMES = files("qilin_lib.chimed").joinpath("data/deid_frames.txt").read_text(encoding="utf-8").splitlines()
_LISTS = {slot: value.split() for slot, value in _SLOTS.items()}
_COMMON = listed("surnames")[:96]
_ALL, _DOUBLE, _SYLLABLES = sorted(SURNAMES), sorted(DOUBLE), sorted(SYLLABLES)


_KNOWN, _WORDS = words()
# Words of two letters that a given name may be, and those that a whole name may be: 木香, 高兴.
_PAIRS = sorted(word for word in _WORDS if len(word) == 2)
_GIVEN = [word for word in _PAIRS if -208 < _KNOWN.get(word, 0) < -152]
_WHOLE = [word for word in _PAIRS if word[0] in SURNAMES and _KNOWN.get(word, 0) < -170]
# Verbs and adverbs.
_TAGS = ("v", "d", "ad", "vd")
_VERBS = sorted(word for word, count, tag in dictionary() if len(word) in (2, 3) and tag in _TAGS and count > 200)
_STAFF = ("医师", "医生", "护士", "者", "人")
_ROLES = [role + who for role in listed("roles") for who in _STAFF]
_ROLES += [label.replace("_", " ") for label in listed("labels") if not label.isascii()] * 4


def _pool(table: dict[str, int], least: int) -> list[str]:
    """Letters of a name in one place of it, the more often the likelier."""
    letters = []
    for letter, score in sorted(table.items()):
        if score > least and "\u4e00" <= letter <= "\u9fa5":
            letters += [letter] * (1 + (score - least) // 12)
    return letters


_, _MIDDLE, _LAST = map(_pool, name_letters(), (-110, -130, -130))


def _surname(dice: random.Random) -> str:
    kind = dice.random()
    if kind < 0.45:
        return dice.choice(_COMMON)
    if kind < 0.50:
        return dice.choice(listed("extra_surnames"))
    return dice.choice(_ALL if kind < 0.88 else _DOUBLE)


def _given(dice: random.Random) -> str:
    """A given name of one or two letters, or a word."""
    kind = dice.random()
    if kind < 0.05:
        return dice.choice("是由之其")
    if kind < 0.25:
        return dice.choice(_LAST)
    return dice.choice(_GIVEN) if kind < 0.42 else dice.choice(_MIDDLE) + dice.choice(_LAST)


def _full_name(dice: random.Random) -> str:
    """A name: of a minority, spaced, Latin, a word, or, mostly, a surname and a given name."""
    kind = dice.random()
    if kind < 0.05:
        return f"{_minority(dice)}·{_minority(dice)}"
    if kind < 0.09:
        return _minority(dice) + dice.choice("娜拉吉丹措玛江提")
    if kind < 0.15:
        name = _surname(dice)[0] + _given(dice)
        return dice.choice((" ", "　")).join(name)
    if kind < 0.165:
        return _latin(dice)
    return dice.choice(_WHOLE) if kind < 0.21 else _surname(dice) + _given(dice)


def _minority(dice: random.Random) -> str:
    letters = (_MIDDLE if dice.random() < 0.1 else _SYLLABLES for _ in range(dice.randint(2, 4)))
    return "".join(map(dice.choice, letters))


def _latin(dice: random.Random) -> str:
    if dice.random() < 0.5:
        return f"{dice.choice(_LISTS['latin_first'])} {dice.choice(_LISTS['latin_last'])}"
    surname, given = dice.choice(_LISTS["pinyin_first"]), dice.choice(_LISTS["pinyin_last"])
    return dice.choice((f"{surname} {given}", f"{surname} {given}".upper(), f"{surname.upper()} {given}"))


_FILL: dict[str, Callable[[random.Random], str]] = {
    "n": _full_name,
    "N": lambda dice: _surname(dice) + _given(dice),
    "s": _surname,
    "L": _latin,
    "h": lambda dice: HIDDEN,
    "v": lambda dice: dice.choice(_VERBS),
    "c": lambda dice: dice.choice("： ：|:|: | |　|".split("|")),
    "r": lambda dice: dice.choice(_ROLES),
    "q": lambda dice: dice.choice(listed("addresses")),
    "d": lambda dice: str(dice.randint(1, 79)),
    **{slot: lambda dice, slot=slot: dice.choice(_LISTS[slot]) for slot in "gketyx"},
}


def fill(frame: str, dice: random.Random) -> tuple[str, list[Place]]:
    """A frame with its slots filled, and where names stand in it: nowhere if it begins with "="."""
    text, spans = "", []
    for piece in re.split(r"(\{\w\})", frame.removeprefix("=").replace("\\n", "\n")):
        slot = piece[1] if len(piece) == 3 and piece[0] == "{" else ""
        value = _FILL[slot](dice) if slot else piece
        if slot and slot in "nsLg" and frame[0] != "=":
            spans.append((len(text), len(text) + len(value)))
        text += value
    return text, spans


def examples(source: str, text: str, names: list[Place]) -> Iterator[Example]:
    """The places of one text, with the features of each."""
    found = [(place, tags(features(text, *place, cue, told))) for place, cue, told in proposed(text)]
    if found:
        yield source, [(place, having, place in names) for place, having in found]


def views(text: str, names: list[Place]) -> Iterator[tuple[str, list[Place]]]:
    """The text, and again with all of its names but one found already."""
    yield text, names
    for kept in range(len(names)) if len(names) > 1 else ():
        hidden = [name for number, name in enumerate(names) if number != kept]
        view, at = blotted(text, range(len(text) + 1), [(*name, "姓名") for name in hidden])
        yield view, [(at.index(names[kept][0]), at.index(names[kept][1]))]


def renamed(text: str, names: list[Place], dice: random.Random) -> tuple[str, list[Place]]:
    """The text with other names of the same shape; a name that comes twice gets one new name."""
    pieces, last, spans, size, new = [], 0, [], 0, {}
    for start, end in names:
        old = text[start:end]
        if old not in new:
            single = len(old) == 1 or old in DOUBLE
            new[old] = _surname(dice) if single else _latin(dice) if old.isascii() else _full_name(dice)
        pieces += [text[last:start], new[old]]
        size += start - last
        spans.append((size, size + len(new[old])))
        size += len(new[old])
        last = end
    return "".join((*pieces, text[last:])), spans


def from_cases(cases: Iterable[Case], label: str, fills: int = 0) -> Iterator[Example]:
    """Examples from labelled sentences, and from each with other names in it `fills` times."""
    dice = random.Random(7)
    for number, case in enumerate(cases):
        view, at = blotted_numbers(case.text)
        back = {place: index for index, place in enumerate(at)}
        names = [(back[a], back[b]) for a, b, kind in case.spans if kind == "姓名" and a in back and b in back]
        versions = [(view, names), *(renamed(view, names, dice) for _ in range(fills if names else 0))]
        for version in versions:
            for text, kept in views(*version):
                yield from examples(f"{label}{number}", text, kept)


def from_frames(seed: int, fills: int) -> Iterator[Example]:
    """Examples from the frames, each filled `fills` times."""
    dice = random.Random(seed)
    for number, frame in enumerate(FRAMES):
        for _ in range(fills if "{" in frame else 1):
            for view, kept in views(*fill(frame, dice)):
                yield from examples(f"frame{number}", view, kept)


def from_raw(folder: Path, chars: int) -> Iterator[Example]:
    """Places in real texts, so many characters of each source, but those that `doubtful` takes for names."""
    for name, source in sources.BY_NAME.items():
        left = chars if source.part == "medical" else 0
        for number, unit in enumerate(sources.units(source, folder) if left else ()):
            text = "" if isinstance(unit.read, Rejection) else clean(content(unit.read.payload))
            left -= len(text)
            if left < 0:
                break
            # Every fifth text stays unseen, so that what is removed there can be read.
            if number % 5 and not public(text):
                view, _ = blotted_numbers(text)
                for label, rows in examples(f"{name}{number}", view, []):
                    yield label, [row for row in rows if not doubtful(set(row[1]))]


def doubtful(tags: set[str]) -> bool:
    """Whether a place in a real text may well be a name: a common surname with a title, the value of a label."""
    kind = next((tag for tag in tags if tag[:4] in ("kcom", "krar", "kdou", "keve")), "kx!")
    sure = kind[:4] != "keve" or tags & {"lborder", "lopens"}
    titled = tags & {"rtitle", "rcalled", "rsexed"} and kind[-1] != "!" and sure
    return bool(titled or tags & {"llabel:", "lstaff:", "lsaid", "lasked"})


def train(given: list[Example], seed: int = 1, epochs: int = 8, margin: int = 60, least: int = 3) -> dict[str, int]:
    """Integer weights by an averaged structured perceptron with a margin. A feature counts if `least` sources have it.

    In each text the best places that overlap none better are taken, as when names are looked for; what is taken
    wrongly loses weight, what is missed wins.
    """
    whence = defaultdict(set)
    for source, rows in given:
        for _, found, _ in rows:
            for feature in found:
                whence[feature].add(source)
    having = sorted(feature for feature, those in whence.items() if len(those) >= least)
    kept = {feature: number for number, feature in enumerate(having)}
    texts = [
        [
            (place, [kept[f] for f in found if f in kept], -margin if gold else margin, gold)
            for place, found, gold in rows
        ]
        for _, rows in given
    ]
    now, total, dice, step = [0] * len(kept), [0] * len(kept), random.Random(seed), 1
    for _ in range(epochs):
        dice.shuffle(texts)
        for rows in texts:
            values = {place: margin + sum(now[f] for f in found) for place, found, margin, _ in rows}
            taken = set(best(values))
            for place, found, _, gold in rows:
                if gold != (place in taken):
                    for f in found:
                        now[f] += 1 if gold else -1
                        total[f] += step if gold else -step
            step += 1
    means = {feature: round(16 * (now[f] * step - total[f]) / step) for feature, f in kept.items()}
    return {feature: mean for feature, mean in means.items() if abs(mean) > 23}


def main() -> None:
    """Write data/deid_weights.json from all labelled sentences, the frames and, where there are any, real texts."""
    argparse.ArgumentParser(prog="python -m qilin_lib.chimed.deid_train", description=__doc__).parse_args()
    given = [*from_cases((*labelled_cases("tune"), *labelled_cases("train")), "case", 1)] * 5 + [*from_frames(1, 20)]
    if folder := os.environ.get("QILIN_RAW_DIR"):
        given += from_raw(Path(folder), 1_000_000)
    weights = train(given)
    # What is missed weighs more than what is taken.
    weights["bias"] += 100
    target = Path(__file__).parent / "data/deid_weights.json"
    target.write_text(json.dumps(weights, ensure_ascii=False, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{len(given):,} texts, {len(weights):,} weights, {target.stat().st_size:,} bytes in {target.name}")


if __name__ == "__main__":
    main()
