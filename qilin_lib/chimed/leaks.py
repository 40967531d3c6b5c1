"""How many leaks decontamination finds: records that give test items away in one way or another, made and judged.

Each kind is a way in which an item gets into a corpus: somebody asks it in a forum, copies an exam into a collection,
writes a fact down from it. The leaks are made of the real items of the raw folder, so that the recall is about them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from opencc import OpenCC

from qilin_lib.chimed import aggregate, batches, sources
from qilin_lib.chimed.decontaminate import Index
from qilin_lib.chimed.items import BLANK, Item, filled, item_of
from qilin_lib.chimed.records import Dialogue, Passage, Payload, Record

Maker = Callable[[Item, random.Random], Payload | None]
_HELLO = ("医生您好，", "您好！", "你好，请问", "大夫您好，想咨询一下，", "请问医生，", "您好医生我想问一下", "在吗？")
_THANKS = ("谢谢", "，谢谢医生！", "？谢谢您了", "。麻烦您了，多谢。", "，在线等，感谢！", "？")
_BEFORE = ("家里老人最近总提起这件事。", "上网查了半天也没看明白", "补充一下情况：", "昨天夜里没睡好，今天想起来问。")
_AFTER = ("希望能尽快回复。", "资料都在家里放着", "之前没有问过别人。", "不方便去医院")
_REPLY = ("这个要看具体情况，建议先到门诊做个检查。", "可以再观察两天，有变化随时来。", "请把片子和化验单发过来看看。")
_TITLES = ("请做下面的单选题：", "真题回顾，", "1. ", "【例题】", "第12题：", "同学问的一道题 ", "")
_MARKS = (
    "①②③④⑤⑥⑦⑧",
    [f"({letter})" for letter in "ABCDEFGH"],
    [f"{letter}、" for letter in "ABCDEFGH"],
    [f"{letter})" for letter in "ABCDEFGH"],
    [f"{letter}. " for letter in "abcdefgh"],
    [f"（{number}）" for number in "12345678"],
)
_WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


@dataclass(frozen=True, slots=True)
class Recall:
    """Of `made` leaks of a kind from a benchmark's items, those found."""

    kind: str
    benchmark: str
    made: int
    found: int


def recall(raw: Path, share: float, seed: int = 17, most: int = 200) -> list[Recall]:
    """Recall of decontamination by kind and benchmark, on at most `most` leaks of each; `share`: contamination_share.

    Empty when the raw folder has no benchmark.
    """
    reads = (unit.read for source in sources.REGISTRY for unit in sources.units(source, raw, ("eval",)))
    items = [item for read in reads if isinstance(read, Record) and (item := item_of(read))]
    made = [*leaks(items, seed, most)]
    hits = Index(items).hits([batches.identified(payload) for _, _, payload in made], share)
    total = Counter((kind, item.benchmark) for kind, item, _ in made)
    found = Counter((kind, item.benchmark) for (kind, item, _), hit in zip(made, hits, strict=True) if hit)
    return [Recall(kind, benchmark, count, found[kind, benchmark]) for (kind, benchmark), count in total.items()]


def leaks(items: list[Item], seed: int, most: int) -> Iterator[tuple[str, Item, Payload]]:
    """(kind, item, a record that gives it away): at most `most` of each kind and benchmark, drawn by the seed."""
    for kind, maker in KINDS.items():
        for benchmark in dict.fromkeys(item.benchmark for item in items):
            draw = random.Random(f"{seed} {kind} {benchmark}")
            own = [item for item in items if item.benchmark == benchmark]
            made = 0
            for item in draw.sample(own, len(own)):
                if made < most and (payload := maker(item, draw)):
                    made += 1
                    yield kind, item, payload


def _size(text: str) -> int:
    return sum(map(str.isalnum, text))


def _asked(item: Item, draw: random.Random) -> str:
    """The question as somebody types it: an exam's with its options, the stop at its end forgotten now and then."""
    question = item.question if draw.random() < 0.5 else item.question.rstrip("？?。.！!，, ")
    return f"{question}\n{_options(item.options)}" if item.options else question


def _options(options: tuple[str, ...], marks: object = "ABCDEFGHIJ", between: str = "\n", gap: str = ". ") -> str:
    return between.join(f"{mark}{gap}{text}" for mark, text in zip(marks, options, strict=False))


def _answered(item: Item, draw: random.Random) -> str:
    return f"答案是{draw.choice(item.right or ('A',))}" if item.options else draw.choice(_REPLY)


def _greeting(item: Item, draw: random.Random) -> Payload | None:
    if _size(item.question) >= 13 or item.options:
        return None
    asked = item.question.rstrip("？?。.！! ")
    return Dialogue((draw.choice(_HELLO) + asked + draw.choice(_THANKS), draw.choice(_REPLY)))


def _short_exam(item: Item, draw: random.Random) -> Payload | None:
    if _size(item.question) >= 13 or not item.options:
        return None
    return Dialogue((draw.choice(_HELLO) + _asked(item, draw), _answered(item, draw)))


def _line(item: Item, draw: random.Random) -> Payload:
    return Dialogue((f"{draw.choice(_BEFORE)}\n{_asked(item, draw)}\n{draw.choice(_AFTER)}", _answered(item, draw)))


def _sentence(item: Item, draw: random.Random) -> Payload | None:
    if item.options:
        return None
    asked = item.question.rstrip("？?。.！! ")
    before, after = draw.choice(_BEFORE).rstrip("。：") + "。", draw.choice(_AFTER)
    return Dialogue((f"{before}{asked}？{after}", draw.choice(_REPLY)))


def _later_turn(item: Item, draw: random.Random) -> Payload:
    first, reply = draw.choice(_BEFORE), draw.choice(_REPLY)
    return Dialogue((first, reply, _asked(item, draw), _answered(item, draw)))


def _copied(item: Item, draw: random.Random) -> Payload:
    return Passage(draw.choice(("真题汇编", "问答摘录", "")), f"{draw.choice(_TITLES)}{_asked(item, draw)}\n")


def _one_line(item: Item, draw: random.Random) -> Payload | None:
    if not item.options:
        return None
    text = f"{draw.choice(_TITLES)}{item.question} {_options(item.options, between=' ', gap='.')}"
    return Dialogue((text.translate(_WIDE) if draw.random() < 0.5 else text.upper(), _answered(item, draw)))


def _shuffled(item: Item, draw: random.Random) -> Payload | None:
    if not item.options:
        return None
    options = tuple(draw.sample(item.options, len(item.options)))
    return Dialogue((f"{item.question}\n{_options(options)}", _answered(item, draw)))


def _marked(item: Item, draw: random.Random) -> Payload | None:
    if not item.options:
        return None
    options = _options(item.options, draw.choice(_MARKS), draw.choice(("\n", " ", "；")), "")
    return Dialogue((f"{item.question}{draw.choice((chr(10), ' ', '：'))}{options}", "选第二个。"))


def _reworded(item: Item, draw: random.Random) -> Payload | None:
    """The options beside a stem as somebody remembers it: another ending, a wrong character, a word less."""
    stem = re.sub(r"[（(]\s*[）)]|[_＿]{2,}|[。？?：:]+$", "", item.question)
    if not re.search("[\u4e00-\u9fff]", "".join(item.options)) or _size(stem) < 8:
        return None
    at = draw.randrange(1, len(stem) - 1)
    ways = (
        re.sub("[是为]$", "", stem) + draw.choice(("是哪一项？", "是什么？", "")),
        f"{stem[:at]}囗{stem[at + 1 :]}",
        re.sub("^(下列|关于|以下|患者，?)", "", stem),
    )
    options = tuple(draw.sample(item.options, len(item.options)))
    return Dialogue((f"{draw.choice(ways)}\n{_options(options)}", "请看书上的解析。"))


def _completed(item: Item, draw: random.Random) -> Payload | None:
    if BLANK.search(item.question) or _size(item.question) < 5 or not (sentences := filled(item)):
        return None
    _, text = draw.choice(sentences)
    return draw.choice((Passage("考点速记", f"{text}。"), Dialogue((f"背一下：{text}。", "记住了。"))))


def _damaged(item: Item, draw: random.Random) -> Payload | None:
    """A patient's reference answer with list numbers put in, a wrong character, or its last tenth cut off."""
    if item.options or _size(item.answer) < 45:
        return None
    text, parts = item.answer, [part for part in re.split("[，。；\n]", item.answer) if part]
    at = draw.randrange(len(text))
    numbered = "".join(f"{number}、{part}；" for number, part in enumerate(parts, 1))
    return Dialogue(
        (draw.choice(_BEFORE), draw.choice((numbered, f"{text[:at]}囗{text[at + 1 :]}", text[: len(text) * 9 // 10])))
    )


def _wording(item: Item, draw: random.Random) -> Payload | None:
    if not item.wordings:
        return None
    return Dialogue((draw.choice(_HELLO) + draw.choice(item.wordings), draw.choice(_REPLY)))


def _filled(item: Item, draw: random.Random) -> Payload | None:
    if not BLANK.search(item.question) or not (sentences := filled(item)):
        return None
    _, text = draw.choice(sentences)
    return draw.choice((Passage("考点速记", f"{text}。"), Dialogue((f"判断对错：{text}", "对。"))))


def _answer(item: Item, draw: random.Random) -> Payload | None:
    if _size(item.answer) < 30:
        return None
    return Dialogue((draw.choice(_BEFORE), draw.choice(("", "您好，", "根据您的描述，\n")) + item.answer))


def _traditional(item: Item, draw: random.Random) -> Payload:
    convert = _converter(draw.choice(("s2t", "s2tw", "s2hk")))
    return Dialogue((convert(_asked(item, draw)), convert(_answered(item, draw))))


@cache
def _converter(way: str) -> Callable[[str], str]:
    return OpenCC(way).convert


def _graph(item: Item, draw: random.Random) -> Payload | None:
    for template, (heading, *_) in aggregate.QUESTIONS:
        pattern = re.escape(template.rstrip("？")).replace(r"\{name\}", "(.{2,30})")
        if found := re.fullmatch(f"{pattern}[？?]?", item.question):
            return aggregate.disease(found[1], [("科室", ["内科"]), (heading, ["劳累", "受凉"])])
    return None


KINDS: dict[str, Maker] = {
    "short question behind a greeting": _greeting,
    "short exam question": _short_exam,
    "question as a line": _line,
    "question as a sentence": _sentence,
    "question in a later turn": _later_turn,
    "copied into a text": _copied,
    "exam on one line": _one_line,
    "options in another order": _shuffled,
    "options marked otherwise": _marked,
    "options beside another stem's wording": _reworded,
    "blank filled in": _filled,
    "stem completed": _completed,
    "answer under another question": _answer,
    "answer numbered, cut or mistyped": _damaged,
    "another wording of the question": _wording,
    "traditional characters": _traditional,
    "question composed from a graph": _graph,
}
