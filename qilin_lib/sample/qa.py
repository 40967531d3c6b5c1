"""Question-answer sources: Huatuo encyclopedia, knowledge-graph QA and test set, MedicalGPT's SFT file."""

from __future__ import annotations

import random
from typing import Any

from qilin_lib.sample import facts, forms
from qilin_lib.sample.patients import ask, story
from qilin_lib.sample.phrases import PROSE
from qilin_lib.sample.shares import Pair
from qilin_lib.sample.sheets import Sheet
from qilin_lib.sample.wording import rng

CLOSINGS = (
    "以上内容供学习参考，个人情况请咨询医生。",
    "具体诊断与用药须由医生决定。",
    "了解这些，有助于和医生更好地沟通。",
    "个体之间有差异，不能一概而论。",
    "如仍有疑问，可到门诊进一步了解。",
    "资料会随指南更新，请以医生意见为准。",
    "",
    "",
    "",
)


def sheets(places: dict[str, list[Pair]], seed: int) -> list[Sheet]:
    """All files of the four sources."""
    return [
        *_huatuo("huatuo_encyclopedia_qa", _encyclopedia(places["huatuo_encyclopedia_qa"], seed), seed),
        *_huatuo("huatuo_knowledge_graph_qa", _graph(places["huatuo_knowledge_graph_qa"], seed), seed),
        Sheet("huatuo26m_test", "huatuo26m_test/test_datasets.jsonl", "jsonl", _test(places["huatuo26m_test"], seed)),
        Sheet("medicalgpt_sft", "medicalgpt_sft/medical_sft.jsonl", "jsonl", _sft(places["medicalgpt_sft"], seed)),
    ]


def _huatuo(source: str, records: list[Any], seed: int) -> list[Sheet]:
    rng(seed, f"{source}:order").shuffle(records)
    small = len(records) // 40
    cut = {"validation": records[:small], "test": records[small : 2 * small], "train": records[2 * small :]}
    return [Sheet(source, f"{source}/{split}_datasets.jsonl", "jsonl", rows) for split, rows in cut.items()]


def _encyclopedia(pairs: list[Pair], seed: int) -> list[Any]:
    dice = rng(seed, "encyclopedia")
    records = []
    for number, (disease, aspect) in enumerate(pairs):
        asked = facts.questions(disease, aspect, dice)
        count = 3 if aspect in PROSE and number % 2 else 2
        for answer, closing in zip(_answers(disease, aspect, count, dice), dice.sample(CLOSINGS, count), strict=True):
            take, asked = asked[: dice.randint(1, 2)], asked[1:] or asked
            records.append(forms.encyclopedia(take[0], answer + closing, *take[1:]))
    return records


def _answers(disease: facts.Disease, aspect: str, count: int, dice: random.Random) -> list[str]:
    """`count` different tellings of a fact, as unlike as a handful of tries can make them."""
    found = [facts.prose(disease, aspect, dice)]
    while len(found) < count:
        tries = [facts.prose(disease, aspect, dice) for _ in range(6)]
        found.append(min(tries, key=lambda text: max(_overlap(text, other) for other in found)))
    return found


def _overlap(text: str, other: str) -> float:
    one, two = ({t[n : n + 5] for n in range(len(t) - 4)} for t in (text, other))
    return len(one & two) / max(1, len(one | two))


def _graph(pairs: list[Pair], seed: int) -> list[Any]:
    """One question a pair, and a second phrasing for every twelfth."""
    dice = rng(seed, "graph")
    records = []
    for number, (disease, aspect) in enumerate(pairs):
        asked = facts.questions(disease, aspect, dice)[: 2 if number % 12 == 0 else 1]
        records += [forms.graph_qa(question, facts.short(disease, aspect)) for question in asked]
    return records


def _test(pairs: list[Pair], seed: int) -> list[Any]:
    """A third as a graph answers, a third as an encyclopedia, a third as a consultation: what training was like."""
    dice = rng(seed, "huatuo-test")
    records = []
    for number, (disease, aspect) in enumerate(dice.sample(pairs, len(pairs))):
        if aspect not in PROSE and number % 3 == 0:
            question, answer = facts.questions(disease, aspect, dice)[0], facts.short(disease, aspect)
        elif number % 3 == 1:
            question, answer = facts.questions(disease, aspect, dice)[0], facts.prose(disease, aspect, dice)
        else:
            question = ask(disease, facts.questions(disease, aspect, dice, spoken=True)[0], dice)
            answer = facts.reply(disease, aspect, dice)
        records.append({"questions": question, "answers": answer})
    return records


def _sft(pairs: list[Pair], seed: int) -> list[Any]:
    dice = rng(seed, "medical-sft")
    records = []
    for disease, aspect in pairs:
        formal = facts.questions(disease, aspect, dice)[0]
        spoken = facts.questions(disease, aspect, dice, spoken=True)
        one, two = _answers(disease, aspect, 2, dice)
        records.append(forms.sharegpt(formal, one + dice.choice(CLOSINGS)))
        if dice.random() < 0.25:
            first = f"{dice.choice(('听起来不太舒服。', '明白了。', '了解。'))}您最想了解{disease['name']}的哪个方面？"
            records.append(forms.sharegpt(story(disease, dice), first, spoken[0], two))
        else:
            records.append(forms.sharegpt(ask(disease, spoken[0], dice), dice.choice(facts.GREETINGS) + two))
    dice.shuffle(records)
    return records
