"""Seeded rewording: the same fact told in other words, so that sources agree in content and differ in text."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

# Each pair keeps the sense in any sentence it can occur in; the look-arounds guard the words that would not.
SWAPS: tuple[tuple[str, str], ...] = tuple(
    tuple(line.split(" => "))  # type: ignore[misc]
    for line in """
患者 => 病人
常见于 => 多见于
(?<!所)引起(?![重注警]) => 导致
导致 => 引起
通常 => 一般
(?<!不)及时 => 尽早
尽快 => 尽早
(?<!尽量)避免 => 尽量避免
如果 => 如
若(?!干) => 如果
例如 => 比如
以及(?!时) => 和
因此 => 所以
(?<![不有])可能(?!性) => 有可能
需要 => 需
可以(?=[一-龥])(?![吗的]) => 可
应当 => 应
充足 => 足够
(?<!大)多数 => 大多数
往往 => 常常
逐渐 => 慢慢
与(?=[^，。；]{1,16}有关) => 和
(?<![一大少])部分(?=[人患病]) => 有些
(?<![不更较最很])容易 => 比较容易
医生指导下 => 医师指导下
缓解(?![期率药剂]) => 减轻
多喝水 => 多饮水
不宜 => 不要
就医(?![院]) => 就诊
(?<!不)规律作息 => 按时作息
(?<!不)明显加重 => 加重
辛辣刺激(?!性) => 辛辣
坚持(?=[治服用]) => 长期坚持
定期复查 => 按时复查
有助于 => 有利于
有利于 => 有助于
主要表现为 => 表现多为
(?<!部)分为 => 可分成
出现(?=[一-龥])(?![的在率了更较]) => 有
发生(?![率在更]) => 出现
(?<![温缓平调饱中总])和(?![缓平解谐胃气]) => 与
多为 => 大多是
(?<![反适效供响对相])应(?=[到做查立尽马及先由看去]) => 要
(?<![间])或(?![者许是]) => 或者
(?<![合不一])并(?![发且不非列]) => 并且
(?<![不功可性才肌只])能(?=[减降改帮让控明]) => 能够
(?<![即促致迫行])使(?![用者命]) => 让
(?<![比计])较(?=[多少高低大小重轻好常]) => 比较
立即 => 马上
立刻 => 马上
(?<![少不禁])饮酒 => 喝酒
必要时 => 有必要时
(?<![以涉普危累波顾不])及(?![时格早其]) => 和
(?<!平)均(?![衡匀]) => 都
(?<![并而况])且(?!慢) => 而且
所致 => 引起
诱发 => 引发
造成 => 引起
建议(?=[到做去查尽]) => 最好
每天 => 每日
每周 => 每星期
尤其 => 特别
经常 => 常常
老人(?!家) => 老年人
保证 => 保持
(?<![不要])应(?=定期) => 要
帮助(?=[减改缓恢控]) => 有助于
再由 => 然后由
若有 => 如有
者可(?=[用行考在]) => 者可以
最常见 => 最多见
""".strip().splitlines()
)
LINKS = ("另外，", "此外，", "还有一点，", "同时，", "要说明的是，")
UNLINKED = tuple("若如但因其并同另此而严也却所否还再")


def rng(seed: int, name: str) -> random.Random:
    """An own generator for one purpose; text seeds hash the same everywhere."""
    return random.Random(f"{seed}:{name}")


def vary(text: str, dice: random.Random, rate: float = 0.65) -> str:
    """Reword `text`: each possible swap with probability `rate`, then some sentence marks and links."""
    for pattern, other in SWAPS:
        text = re.sub(pattern, lambda found, new=other: new if dice.random() < rate else found.group(), text)
    return _link(text, dice, rate)


def _link(text: str, dice: random.Random, rate: float) -> str:
    parts = re.split(r"(?<=[。；])", text)
    out = parts[0]
    for part in parts[1:]:
        if part and dice.random() < rate / 2:
            out = out[:-1] + ("。" if out[-1] == "；" else "；")
        linkable = part and not part.startswith(UNLINKED) and out[-1] == "。"
        out += (dice.choice(LINKS) if linkable and dice.random() < rate / 2 else "") + part
    return out


def sentence(text: str) -> str:
    """`text` closed by a full stop."""
    text = text.strip()
    return text if text.endswith(("。", "！", "？")) else text.rstrip("，；、：.") + "。"


def listing(items: Sequence[str], dice: random.Random, least: int = 2) -> str:
    """Items in seeded order, joined as Chinese prose ("甲、乙和丙"), at least `least` of them."""
    chosen = dice.sample(list(items), max(min(least, len(items)), len(items) - dice.randint(0, 1)))
    if len(chosen) == 1:
        return chosen[0]
    return "、".join(chosen[:-1]) + dice.choice(("、", "和", "以及")) + chosen[-1]
