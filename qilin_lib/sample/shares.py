"""Which place tells which fact: each (disease, aspect) pair has one source, so splits cannot overlap."""

from __future__ import annotations

from collections.abc import Sequence

from qilin_lib.sample.facts import Disease, items
from qilin_lib.sample.phrases import LISTED, PROSE, SMALL
from qilin_lib.sample.wording import rng

# Percent of an aspect's diseases, in order; what rounding leaves over goes to the last place.
PERCENT: dict[tuple[str, ...], dict[str, int]] = {
    PROSE: {
        "huatuo26m_test": 8,
        "huatuo_encyclopedia_qa": 29,
        "toyhom_dialogue": 22,
        "medicalgpt_sft": 14,
        "zhongjing_rlhf": 12,
        "medicalgpt_reward": 10,
        "cmd": 5,
    },
    LISTED: {
        "huatuo26m_test": 7,
        "huatuo_encyclopedia_qa": 15,
        "toyhom_dialogue": 14,
        "medicalgpt_sft": 10,
        "zhongjing_rlhf": 5,
        "medicalgpt_reward": 5,
        "cmd": 4,
        "huatuo_knowledge_graph_qa": 40,
    },
    SMALL: {
        "huatuo26m_test": 8,
        "toyhom_dialogue": 18,
        "medicalgpt_sft": 8,
        "zhongjing_rlhf": 4,
        "medicalgpt_reward": 4,
        "cmd": 5,
        "huatuo_knowledge_graph_qa": 53,
    },
}

Pair = tuple[Disease, str]


def share_out(diseases: Sequence[Disease], seed: int) -> dict[str, list[Pair]]:
    """{source: [(disease, aspect)]}; the same disease order and seed give the same shares."""
    places: dict[str, list[Pair]] = {}
    for aspects, percent in PERCENT.items():
        for aspect in aspects:
            dice = rng(seed, f"share:{aspect}")
            having = [disease for disease in diseases if items(disease, aspect)]
            order = dice.sample(having, len(having))
            done, total = 0, 0
            for place, part in percent.items():
                total += part
                upto = len(order) if place == list(percent)[-1] else round(len(order) * total / 100)
                places.setdefault(place, []).extend((disease, aspect) for disease in order[done:upto])
                done = upto
    return places
