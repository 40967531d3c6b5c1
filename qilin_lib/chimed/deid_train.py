"""Train the weights of the names: `python -m qilin_lib.chimed.deid_train` writes data/deid_weights.txt.

Positive examples come from the labelled sentences and from frames (data/deid_frames.txt) filled with invented names;
negative ones from both and, where QILIN_RAW_DIR holds them, from real texts, of which nothing but weights is kept.
An averaged perceptron with a margin, in integers: the same input gives the same file on every machine.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

from qilin_lib.chimed.deid_base import HIDDEN, NAMED, listed
from qilin_lib.chimed.deid_model import DOUBLE, SURNAMES, SYLLABLES, _jieba, _letters, words
from qilin_lib.chimed.deid_names import _RARE, _surname_kind, apart, features, places
from qilin_lib.chimed.deid_score import labelled_cases
from qilin_lib.chimed.deidentify import blotted_numbers

Example = tuple[str, list[tuple[tuple[int, int], list[str], bool]]]  # source; place, features, whether a name stands there

_SYMPTOMS = "头晕 腹痛 咳嗽 胸闷 发热 皮疹 腰痛 失眠 便秘 腹泻 乏力 呕吐 耳鸣 心慌 尿频 关节痛".split()
_DEPARTMENTS = "心内科 骨科 儿科 产科 肾内科 普外科 神经内科 急诊科 皮肤科 肿瘤科 ICU 眼科 针灸科 内分泌科 放射科 病理科".split()
_KIN = "父亲 母亲 妻子 丈夫 儿子 女儿 哥哥 妹妹 弟弟 姐姐 爱人 外甥 侄女 婆婆 岳父 孙子 老公 老婆 奶奶 姑姑 表哥 儿媳 女婿 男友".split()
_TITLES = "医生 大夫 主任 教授 护士 护士长 老师 院长 主任医师 副主任医师 专家 药师 医师 博士 治疗师".split()
_PETS = "豆豆 毛毛 果果 糖糖 朵朵 妞妞 乐乐 壮壮 当当 多多 小宝 小米 石头 团子 安安 圆圆 可乐 土豆 小鱼 悠悠 铁蛋 狗蛋 冬冬 点点".split()
_LATIN_A = "Anna John Maria David Elena Peter Olga James Fatima Ivan Carlos Yuki Sofia Ahmed Linda Thomas Grace Igor".split()
_LATIN_B = "Smith Rossi Petrov Garcia Tanaka Müller Brown Ivanova Lopez Kumar Nguyen Wilson Khan Larsen Novak Costa".split()
_PINYIN_A = "Zhang Wang Li Chen Liu Zhao Huang Zhou Xu Sun Ma Zhu Hu Lin Guo He Gao Luo Song Tang".split()
_PINYIN_B = "Wei Min Xiaoming Lihua Guoqiang Jing Yan Haibo Yuting Jianjun Na Ting Xue Peng Zixuan".split()
_COMMON = listed("surnames")[0][:96]


def _given(dice: random.Random) -> str:
    """A given name of one or two characters, by jieba's letters of names; sometimes a word."""
    first, middle, last = _pools()
    kind = dice.random()
    if kind < 0.25:
        return dice.choice(last)
    if kind < 0.42:
        return dice.choice(_word_pool())
    return dice.choice(middle) + dice.choice(last)


def _pools(made: list[list[str]] = []) -> list[list[str]]:
    if not made:
        for table, least in zip(_letters(), (-110, -130, -130), strict=True):
            pool = []
            for letter, score in sorted(table.items()):
                if score > least and "\u4e00" <= letter <= "\u9fa5":
                    pool += [letter] * (1 + max(0, (score - least) // 12))
            made.append(pool)
    return made


def _word_pool(made: list[str] = []) -> list[str]:
    """Words of two characters that a given name may be: not too frequent, not too rare."""
    if not made:
        known = words()[0]
        made += sorted(word for word, score in known.items() if len(word) == 2 and -208 < score < -152 and word in words()[1])
    return made


def surname(dice: random.Random) -> str:
    kind = dice.random()
    if kind < 0.45:
        return dice.choice(_COMMON)
    if kind < 0.50:
        return dice.choice(listed("extra_surnames"))
    if kind < 0.88:
        return dice.choice(sorted(SURNAMES))
    return dice.choice(sorted(DOUBLE))


def full_name(dice: random.Random) -> str:
    kind = dice.random()
    if kind < 0.05:
        return f"{_minority(dice)}·{_minority(dice)}"
    if kind < 0.09:
        return _minority(dice) + dice.choice("娜拉吉丹措玛江提").strip()
    if kind < 0.15:
        name = surname(dice)[0] + _given(dice)
        return dice.choice((" ", "　")).join(name)
    if kind < 0.165:
        return _latin(dice)
    if kind < 0.21:  # a word whose first letter is a surname: 高兴, 木香, 桂枝
        return dice.choice(_surname_words())
    return surname(dice) + _given(dice)


def _surname_words(made: list[str] = []) -> list[str]:
    if not made:
        made += [word for word in sorted(words()[1]) if len(word) == 2 and word[0] in SURNAMES and words()[0].get(word, 0) < -170]
    return made


def _minority(dice: random.Random) -> str:
    letters = (_pools()[1] if dice.random() < 0.1 else sorted(SYLLABLES) for _ in range(dice.randint(2, 4)))
    return "".join(map(dice.choice, letters))


def _latin(dice: random.Random) -> str:
    if dice.random() < 0.5:
        name = f"{dice.choice(_LATIN_A)} {dice.choice(_LATIN_B)}".replace("ü", "u")
    else:
        name = f"{dice.choice(_PINYIN_A)} {dice.choice(_PINYIN_B)}"
        name = dice.choice((name, name.upper(), name.split(" ")[0].upper() + " " + name.split(" ")[1]))
    return name


def fill(frame: str, dice: random.Random) -> tuple[str, list[tuple[int, int]]]:
    """A frame with its slots filled, and where the names stand."""
    text, spans = "", []
    for piece in re.split(r"(\{\w\})", frame.replace("\\n", "\n")):
        slot = piece[1] if len(piece) == 3 and piece[0] == "{" else ""
        value = {
            "n": lambda: full_name(dice), "N": lambda: surname(dice) + _given(dice), "s": lambda: surname(dice), "L": lambda: _latin(dice),
            "g": lambda: dice.choice(_PETS), "h": lambda: HIDDEN, "k": lambda: dice.choice(_KIN),
            "e": lambda: dice.choice(_DEPARTMENTS), "t": lambda: dice.choice(_TITLES),
            "v": lambda: dice.choice(_verbs()), "c": lambda: dice.choice("： ：|:|: | |　|".split("|")),
            "r": lambda: dice.choice(_roles()), "q": lambda: dice.choice(listed("addresses")),
            "y": lambda: dice.choice(_SYMPTOMS), "d": lambda: str(dice.randint(1, 79)),
        }[slot]() if slot else piece  # fmt: skip
        if slot and slot in "nsLg" and frame[0] != "=":
            spans.append((len(text), len(text) + len(value)))
        text += value
    return text, spans


def _verbs(made: list[str] = []) -> list[str]:
    if not made:
        rows = (line.split(" ") for line in _jieba("dict.txt").read_text(encoding="utf-8").splitlines())
        made += sorted(word for word, count, tag in rows if len(word) in (2, 3) and tag in ("v", "d", "ad", "vd") and int(count) > 200)
    return made


def _roles(made: list[str] = []) -> list[str]:
    if not made:
        made += [role + staff for role in listed("roles") for staff in ("医师", "医生", "护士", "者", "人")]
        made += [label.replace("_", " ") for label in listed("labels") if not label.isascii()] * 4
    return made


def frames() -> list[str]:
    return files("qilin_lib.chimed").joinpath("data/deid_frames.txt").read_text(encoding="utf-8").splitlines()


def examples(source: str, text: str, names: list[tuple[int, int]]) -> Iterator[Example]:
    proposed, starts = places(text)
    if proposed:
        gold = set(names)
        yield source, [(place, features(text, *place, starts), place in gold) for place in proposed]


def views(text: str, names: list[tuple[int, int]]) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """The text, and again with some of its names found already."""
    yield text, names
    for skip in range(len(names)) if len(names) > 1 else ():
        hide = [span for number, span in enumerate(names) if number != skip]
        pieces, last, offset, kept = [], 0, 0, []
        for start, end in names:
            if (start, end) in hide:
                pieces += [text[last:start], NAMED]
                last, offset = end, offset + end - start - 1
            else:
                kept.append((start - offset, end - offset))
        yield "".join((*pieces, text[last:])), kept


def renamed(text: str, names: list[tuple[int, int]], dice: random.Random) -> tuple[str, list[tuple[int, int]]]:
    """The text with other names of the same shape; a name that comes twice gets one new name."""
    pieces, last, spans, size, new = [], 0, [], 0, {}
    for start, end in names:
        old = text[start:end]
        if old not in new:
            single = len(old) == 1 or old in DOUBLE
            new[old] = surname(dice) if single else _latin(dice) if old.isascii() else full_name(dice)
        pieces += [text[last:start], new[old]]
        size += start - last
        spans.append((size, size + len(new[old])))
        size += len(new[old])
        last = end
    return "".join((*pieces, text[last:])), spans


def from_cases(cases: Iterable, label: str, fills: int = 0) -> Iterator[Example]:
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
    dice = random.Random(seed)
    for number, frame in enumerate(frames()):
        for _ in range(1 if "{" not in frame else fills):
            text, names = fill(frame.lstrip("="), dice)
            for view, kept in views(text, names):
                yield from examples(f"frame{number}", view, kept)


def from_raw(folder: Path, chars: int) -> Iterator[Example]:
    """Places in real texts, taken for no names but where they look like a doctor with a title or a label's value."""
    for number, text in enumerate(raw_texts(folder, chars)):
        if number % 5 == 0:  # stays unseen, so that what is removed there can be read
            continue
        view, _ = blotted_numbers(text)
        for source, rows in examples(f"raw{number}", view, []):
            yield source, [row for row in rows if not doubtful(set(row[1]))]


def doubtful(tags: set[str]) -> bool:
    """Whether a place in a real text may well be a name: a common surname with a title, the value of a label."""
    kind = next((tag for tag in tags if tag[:4] in ("kcom", "krar", "kdou")), "kx")
    titled = tags & {"rtitle", "rcalled", "rsexed"} and kind != "kx" and kind[-1] != "!"
    return bool(titled or tags & {"llabel:", "lstaff:", "lsaid", "lasked"})


def raw_texts(folder: Path, chars: int) -> Iterator[str]:
    for source in ("toyhom_dialogue", "remedi", "cmtmedqa", "meddialog_cn", "medicalgpt_sft", "plain_text", "huatuo26m_test", "dpo_zh", "kg_39health"):
        left = 5 * chars if source == "plain_text" else chars
        for path in sorted(folder.glob(f"{source}/**/*")):
            if left > 0 and path.is_file() and path.suffix not in (".md", ".gz", ".zip"):
                data = path.read_bytes()[: 4 * chars]
                for encoding in ("utf-8", "gb18030"):
                    try:
                        text = data.decode(encoding)
                        break
                    except UnicodeDecodeError as error:
                        text = data[: error.start].decode(encoding)
                        if error.start > len(data) - 4:
                            break
                for line in text.splitlines():
                    line = line.strip().replace("\\n", "\n")
                    if line and left > 0:
                        left -= len(line)
                        yield line[:4000]


def train(given: Iterable[Example], seed: int = 1, epochs: int = 8, margin: int = 60, least: int = 3) -> dict[str, int]:
    """Integer weights by an averaged structured perceptron with a margin. A feature counts if `least` sources have it.

    In each text the best places that overlap none better are taken, as when names are looked for; what is taken
    wrongly loses weight, what is missed wins.
    """
    given = list(given)
    sources = defaultdict(set)
    for source, rows in given:
        for feature in {feature for _, found, _ in rows for feature in found}:
            if len(sources[feature]) < least:
                sources[feature].add(source)
    kept = {feature: number for number, feature in enumerate(sorted(f for f, s in sources.items() if len(s) >= least))}
    texts = [
        [(place, [kept[f] for f in found if f in kept], margin * (-1 if gold else 1), gold) for place, found, gold in rows]
        for _, rows in given
    ]
    del sources
    now, total, dice, step = [0] * len(kept), [0] * len(kept), random.Random(seed), 0
    for _ in range(epochs):
        dice.shuffle(texts)
        for rows in texts:
            step += 1
            values = {}
            for place, found, bonus, _ in rows:
                value = bonus
                for f in found:
                    value += now[f]
                if value > 0:
                    values[place] = value
            taken = set(apart(sorted(values, key=lambda place: (-values[place], place))))
            for place, found, _, gold in rows:
                if gold != (place in taken):
                    sign = 1 if gold else -1
                    for f in found:
                        now[f] += sign
                        total[f] += sign * step
    return {name: value for name, f in kept.items() if (value := round(16 * (now[f] * (step + 1) - total[f]) / (step + 1)))}


def main() -> None:
    """Write data/deid_weights.json from all labelled sentences, the frames and, where there are any, real texts."""
    given = [*from_cases(labelled_cases(), "case", 1)] * 3 + [*from_frames(1, 10)]
    if folder := os.environ.get("QILIN_RAW_DIR"):
        given += from_raw(Path(folder), 400_000)
    weights = train(given)
    # What is missed weighs more than what is taken.
    weights["bias"] += 100
    target = Path(__file__).parent / "data/deid_weights.json"
    target.write_text(json.dumps(weights, ensure_ascii=False, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{len(given):,} texts, {len(weights):,} weights, {target.stat().st_size:,} bytes in {target.name}")


if __name__ == "__main__":
    main()
