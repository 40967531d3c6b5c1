"""Invented patients: who asks, how old, since when; no name and no place, so that a story never identifies anybody."""

from __future__ import annotations

import random
from dataclasses import dataclass

from qilin_lib.sample.facts import Disease
from qilin_lib.sample.phrases import LEADS, THANKS

RECENT = (
    "有三四天了",
    "从上周开始的",
    "前天夜里开始的",
    "加了几天班之后出现的",
    "昨天起更明显",
    "有五六天了",
    "差不多一个星期了",
)
LASTING = (
    "断断续续两个星期了",
    "差不多一个月了",
    "快半年了",
    "好几年了，最近明显些",
    "换季以后更明显",
    "时好时坏有两个多月",
    "从去年秋天就这样",
    "半年里犯了三四回",
)
# Words of a course that make a story of months or years believable.
SLOW = tuple("长年慢反数终")
DONE = (
    "还没去医院看过",
    "在社区门诊看过一次",
    "自己休息了几天不见好",
    "没有别的慢性病",
    "以前身体一直不错",
    "之前查过一次没当回事",
    "家里老人也有类似情况",
    "最近睡得不太好",
    "平时工作比较忙",
    "没吃什么药",
)


@dataclass(frozen=True)
class Patient:
    """`who` is the speaker's word for the patient ("我", "我妈"), `sex` 男 or 女, `age` in words ("36岁")."""

    who: str
    sex: str
    age: str


def patient(disease: Disease, dice: random.Random) -> Patient:
    """Somebody whom the disease can befall."""
    population, departments = disease["population"], "".join(disease["department"])
    if population.startswith(("儿童", "小儿", "婴", "5岁以下")) and not any(word in population for word in "老成壮"):
        return _child(population, dice)
    female = any(word in departments for word in "妇产") or "乳" in disease["name"]
    woman = female or ("女" in population and "男" not in population)
    man = "前列腺" in disease["name"] or ("男" in population and "女" not in population)
    sex = "女" if woman else "男" if man else dice.choice("男女")
    old = "老" in population or "十岁以上" in population
    years = dice.randint(24, 38) if "孕" in population else dice.randint(58, 79) if old else dice.randint(22, 55)
    others = ("我妈", "我婆婆", "我姑姑") if sex == "女" else ("我爸", "我岳父", "我大伯")
    close = "我爱人" if sex == "女" else "我老公"
    distant = old and dice.random() < 0.7
    return Patient(dice.choice(others if distant else ("我", "我", close)), sex, f"{years}岁")


def _child(population: str, dice: random.Random) -> Patient:
    age = f"{dice.randint(7, 11)}个月" if "婴" in population and dice.random() < 0.5 else f"{dice.randint(2, 9)}岁"
    sex = dice.choice("男女")
    return Patient(dice.choice(("我家孩子", "家里小宝", "我女儿" if sex == "女" else "我儿子")), sex, age)


def story(disease: Disease, dice: random.Random) -> str:
    """Two or three spoken sentences: lead-in, person, complaints, duration."""
    person = patient(disease, dice)
    complaints = dice.sample(disease["symptoms"], min(len(disease["symptoms"]), dice.randint(1, 2)))
    said = dice.choice(("和", "，还有", "，有时")).join(complaints)
    opening = dice.choice(("{w}今年{a}，{s}，{c}，{t}", "{w}（{s}，{a}）{t}，主要是{c}", "{w}（{s}，{a}）老是{c}，{t}"))
    first = opening.format(w=person.who, a=person.age, s=person.sex, c=said, t=span(disease, dice))
    return dice.choice(LEADS) + first + dice.choice(("，", "。")) + dice.choice(DONE) + "。"


def span(disease: Disease, dice: random.Random) -> str:
    """How long the complaint has lasted; months only where the course allows it."""
    return dice.choice(LASTING if is_slow(disease) else RECENT)


def is_slow(disease: Disease) -> bool:
    """Whether the disease lasts or returns over months."""
    return any(word in disease["course"] for word in SLOW)


def ask(disease: Disease, question: str, dice: random.Random) -> str:
    """A patient's story, the question, and a closing word."""
    return story(disease, dice) + question + dice.choice(THANKS)
