"""A fact of one disease and one aspect, told in the manner a source needs."""

from __future__ import annotations

import random
from typing import Any

from qilin_lib.sample.phrases import FORMAL, FRAMES, GREETINGS, LIST_FRAMES, PROSE, SPOKEN, TAILS
from qilin_lib.sample.wording import listing, sentence, vary

Disease = dict[str, Any]


def items(disease: Disease, aspect: str) -> list[str]:
    """The fact as a list of terms; a prose aspect gives one element, an absent alias an empty list."""
    if aspect == "insured":
        return ["属于医保疾病" if disease["insured"] else "不属于医保疾病"]
    value = disease[{"treatment": "treatments", "diet": "diet_text"}.get(aspect, aspect)]
    return list(value) if isinstance(value, list) else [value]


def prose(disease: Disease, aspect: str, dice: random.Random) -> str:
    """The fact as one or two reworded sentences with a seeded frame."""
    name = disease["name"]
    if aspect in PROSE:
        key = {"treatment": "treatment_text", "diet": "diet_text"}.get(aspect, aspect)
        told = sentence(vary(disease[key], dice))
        return dice.choice(FRAMES[aspect]).format(d=name, t=told)
    frame = dice.choice(LIST_FRAMES[aspect])
    return frame.format(d=name, l=listing(items(disease, aspect), dice).rstrip("。"))


def short(disease: Disease, aspect: str) -> str:
    """The fact as a graph holds it: terms joined by a pause mark."""
    return "、".join(items(disease, aspect))


def reply(disease: Disease, aspect: str, dice: random.Random) -> str:
    """The fact as a doctor writes it in a consultation window: greeting, fact, closing advice."""
    tails = dice.sample([tail for tail in TAILS if tail], 2)
    return dice.choice(GREETINGS) + prose(disease, aspect, dice) + "".join(tails[: dice.randint(0, 2)])


def questions(disease: Disease, aspect: str, dice: random.Random, spoken: bool = False) -> list[str]:
    """All phrasings of the question, in seeded order."""
    pool = [pattern.format(d=disease["name"]) for pattern in (SPOKEN if spoken else FORMAL)[aspect]]
    return dice.sample(pool, len(pool))
