"""Preference pairs: Zhongjing's and MedicalGPT's medical ones, and the general ones of dpo_zh."""

from __future__ import annotations

import random
from typing import Any

from qilin_lib.sample import facts, forms
from qilin_lib.sample.facts import Disease
from qilin_lib.sample.patients import ask
from qilin_lib.sample.shares import Pair
from qilin_lib.sample.sheets import Sheet
from qilin_lib.sample.wording import rng, sentence, vary

# What an annotator rejects, by kind; the two sources draw from different halves so that they share no text.
CURT = (
    "{d}去医院看就行了。",
    "{d}是小毛病，别想太多。",
    "吃点药{d}就好了。",
    "{d}不用管它。",
    "{d}啊，自己上网查查吧。",
    "没事，{d}多喝热水。",
    "{d}找医生去。",
    "{d}养养就行。",
)
EVASIVE = (
    "关于{d}的问题比较复杂，不同的人有不同的看法，很难说清楚，建议您自己判断。",
    "{d}这个我不太清楚，您可以问问别人。",
    "您问的{d}我无法回答，每个人不一样，什么情况都有可能。",
    "对{d}，众说纷纭，没有必要知道得那么细。",
    "{d}的事情说来话长，这里就不展开了，总之看情况吧。",
    "您提到了{d}，这类问题没有统一答案，请您自行斟酌。",
)
BOASTING = (
    "放心，{d}用我们的祖传办法三天保证断根，不用去医院，也不会复发。",
    "{d}百分之百能治好，停掉医院开的药，改吃保健品就可以了。",
    "我肯定地告诉您，{d}不需要任何检查，买点消炎药吃一个疗程一定痊愈。",
    "{d}绝对没有危险，任何人都不会出现并发症，完全不必复查。",
    "不管多重的{d}，自己在家把药量加一倍，保证马上见效。",
    "{d}都是吓唬人的，谁都不用治，过几天一定全好。",
)
# How an answer about another disease begins, in zhongjing_rlhf and in medicalgpt_reward.
MISTAKEN = ("您问的应该是", "这像是")
KINDS = ("curt", "evasive", "boasting", "repeated", "other_disease", "cut_off")


def sheets(
    places: dict[str, list[Pair]], diseases: list[Disease], general: list[dict[str, Any]], seed: int
) -> list[Sheet]:
    """zhongjing_rlhf (a JSON list), medicalgpt_reward (JSON lines, split 9:1) and dpo_zh."""
    reward = _reward(places["medicalgpt_reward"], diseases, seed)
    zhongjing = _zhongjing(places["zhongjing_rlhf"], diseases, seed)
    cut = len(reward) // 10
    return [
        Sheet("zhongjing_rlhf", "zhongjing_rlhf/rlhf.json", "json", zhongjing),
        Sheet("medicalgpt_reward", "medicalgpt_reward/train.json", "jsonl", reward[cut:]),
        Sheet("medicalgpt_reward", "medicalgpt_reward/valid.json", "jsonl", reward[:cut]),
        Sheet("dpo_zh", "dpo_zh/dpo_zh.jsonl", "jsonl", _general(general)),
    ]


def _zhongjing(pairs: list[Pair], diseases: list[Disease], seed: int) -> list[Any]:
    dice = rng(seed, "zhongjing")
    records = []
    for number, (disease, aspect) in enumerate(pairs):
        formal, spoken = _both(disease, aspect, dice)
        good, bad = _chosen(disease, aspect, dice), _rejected(disease, aspect, diseases, 2 * number, dice, 0)
        worse = _rejected(disease, aspect, diseases, 2 * number + 1, dice, 0)
        records.append(forms.zhongjing(formal, good, bad, *([worse] if number % 5 == 0 else [])))
        if number % 4:
            records.append(forms.zhongjing(spoken, _chosen(disease, aspect, dice), worse))
    dice.shuffle(records)
    return records


def _reward(pairs: list[Pair], diseases: list[Disease], seed: int) -> list[Any]:
    dice = rng(seed, "reward")
    records = []
    for number, (disease, aspect) in enumerate(pairs):
        formal, spoken = _both(disease, aspect, dice)
        for turn, question in enumerate((formal, spoken)[: 2 if number % 2 else 1]):
            bad = _rejected(disease, aspect, diseases, 2 * number + turn, dice, 1)
            records.append(forms.reward(question, _chosen(disease, aspect, dice), bad))
    dice.shuffle(records)
    return records


def _both(disease: Disease, aspect: str, dice: random.Random) -> tuple[str, str]:
    formal = facts.questions(disease, aspect, dice)[0]
    return formal, ask(disease, facts.questions(disease, aspect, dice, spoken=True)[0], dice)


def _chosen(disease: Disease, aspect: str, dice: random.Random) -> str:
    """A full, careful answer: the fact, then when to see a doctor (unless that was the question)."""
    told = dice.choice(facts.GREETINGS) + facts.prose(disease, aspect, dice)
    if aspect == "advice":
        return told + f"就诊可选择{'或'.join(disease['department'])}，由医生评估{disease['name']}的轻重。"
    return told + dice.choice(("提醒您：", "就医方面，", "还要注意，")) + sentence(vary(disease["advice"], dice))


def _rejected(
    disease: Disease, aspect: str, diseases: list[Disease], number: int, dice: random.Random, half: int
) -> str:
    kind = KINDS[number % len(KINDS)]
    pools = {"curt": CURT, "evasive": EVASIVE, "boasting": BOASTING}
    if kind in pools:
        return dice.choice(pools[kind][half::2]).format(d=disease["name"])
    if kind == "repeated":
        first = facts.prose(disease, aspect, dice)
        return first * dice.randint(3, 4)
    if kind == "cut_off":
        told = facts.reply(disease, aspect, dice)
        return told[: max(8, len(told) // 3)]
    strangers = [other for other in diseases if other["department"][0] != disease["department"][0]] or diseases
    other = dice.choice([stranger for stranger in strangers if facts.items(stranger, aspect)] or [disease])
    return f"{MISTAKEN[half]}{other['name']}。{facts.reply(other, aspect, dice)}"


def _general(general: list[dict[str, Any]]) -> list[Any]:
    return [{**forms.sharegpt(row["prompt"]), "chosen": row["chosen"], "rejected": row["rejected"]} for row in general]
