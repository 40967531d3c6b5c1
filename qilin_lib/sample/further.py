"""What notebook 06 asks beside the three benchmarks: CMMLU's medical subjects, MedQA, CMtMedQA's test file, MC.

Notebook 01 takes nothing of these files into training; all but MC it reads as benchmarks. One row of each is flawed (no
option of that letter; a dialogue without the doctor's last turn; no answer). These are not in planted.json, which
lists what the build has to catch: here it is the evaluation that lists them as unusable.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from qilin_lib.sample import facts, forms
from qilin_lib.sample.dialogue import ANSWER_BACK, ASK_BACK, EXTRA
from qilin_lib.sample.facts import Disease
from qilin_lib.sample.patients import patient, span, story
from qilin_lib.sample.sheets import Sheet
from qilin_lib.sample.wording import rng

LETTERS = "ABCDE"
DEV, TEST, MEDQA, DIALOGUES = 5, 6, 20, 20
# Parts of the body that no other of them contains.
PARTS = tuple(
    "乳房 卵巢 子宫 牙齿 眼部 耳部 肛门直肠 肩部 肾脏 胸部 腕部 腰部 腹股沟 腹部 膝关节 颈部 鼻部 骨骼".split()
)
VIRAL = ("普通感冒", "流行性感冒", "慢性乙型肝炎", "手足口病", "水痘")
# Infections and injuries: no other disease of the sample is free of hereditary factors beyond doubt.
ACQUIRED = tuple(
    "社区获得性肺炎 肺结核 急性支气管炎 普通感冒 流行性感冒 手足口病 水痘 桡骨远端骨折 阴道炎 膀胱炎 急性中耳炎".split()
)
HERBAL = ("逍遥丸", "乳癖消片")
ASPECTS = ("cause", "treatment", "diet", "prevention", "prognosis", "advice", "checks", "symptoms")

Question = tuple[str, str, list[str]]
"""Stem, right option, wrong ones to choose from."""
Writer = Callable[[list[Disease], random.Random], Question]


def sheets(diseases: list[Disease], seed: int) -> list[Sheet]:
    """cmmlu/{dev,test}/<subject>.csv, medqa/test.jsonl, cmtmedqa/CMtMedQA_test.json and mc/chunyu.txt."""
    return [*_cmmlu(diseases, seed), _medqa(diseases, seed), _cmtmedqa(diseases, seed), _mc(diseases, seed)]


def _anatomy(diseases: list[Disease], dice: random.Random) -> Question:
    disease = dice.choice([disease for disease in diseases if disease["part"] in PARTS])
    others = [part for part in PARTS if part != disease["part"]]
    return f"{disease['name']}的病变主要位于人体的", disease["part"], others


def _checks(diseases: list[Disease], dice: random.Random) -> Question:
    disease, other = dice.sample(diseases, 2)
    own = "".join(disease["checks"])
    others = [check for check in (*other["checks"], *dice.choice(diseases)["checks"]) if check not in own]
    return f"为明确是否患有{disease['name']}，下列检查中首先考虑的是", disease["checks"][0], others


def _rates(diseases: list[Disease], dice: random.Random) -> Question:
    people, percent = dice.choice((200, 400, 500, 800, 1000)), dice.randint(2, 24)
    stem = f"某次普查共查{people}人，其中{dice.choice(diseases)['name']}患者{people * percent // 100}人，患病率为"
    return stem, f"{percent}%", [f"{other}%" for other in range(1, 31) if other != percent]


def _genes(diseases: list[Disease], dice: random.Random) -> Question:
    known = [disease for disease in diseases if "遗传" in disease["cause"]]
    return "下列各病的起因中，通常会提到遗传因素的是", dice.choice(known)["name"], list(ACQUIRED)


def _diets(diseases: list[Disease], dice: random.Random) -> Question:
    disease = dice.choice([disease for disease in diseases if len(disease["diet_dont"]) > 2])
    return f"{disease['name']}患者安排三餐，下列食物中合适的是", dice.choice(disease["diet_do"]), disease["diet_dont"]


def _herbs(diseases: list[Disease], dice: random.Random) -> Question:
    others = [drug for disease in diseases for drug in disease["drugs"] if drug not in HERBAL and drug != "桉柠蒎"]
    return "下列各药中，按中医方药制成的中成药是", dice.choice(HERBAL), others


def _viruses(diseases: list[Disease], dice: random.Random) -> Question:
    others = [disease["name"] for disease in diseases if "病毒" not in disease["cause"]]
    return "下列各病中，病原体主要是病毒的一种是", dice.choice(VIRAL), others


SUBJECTS: dict[str, Writer] = {
    "anatomy": _anatomy,
    "clinical_knowledge": _checks,
    "college_medical_statistics": _rates,
    "genetics": _genes,
    "nutrition": _diets,
    "traditional_chinese_medicine": _herbs,
    "virology": _viruses,
}


def _cmmlu(diseases: list[Disease], seed: int) -> list[Sheet]:
    made = []
    for subject, writer in SUBJECTS.items():
        dice = rng(seed, f"cmmlu:{subject}")
        rows = [
            [question, *options.values(), letter]
            for question, options, letter in _different(lambda w=writer, d=dice: w(diseases, d), DEV + TEST, dice)
        ]
        if subject == "anatomy":
            rows[-1][-1] = "E"
        for split, part in (("dev", rows[:DEV]), ("test", rows[DEV:])):
            numbered = [[str(number), *row] for number, row in enumerate(part)]
            header = ["", "Question", *LETTERS[:4], "Answer"]
            made.append(Sheet("cmmlu", f"cmmlu/{split}/{subject}.csv", "csv", numbered, header))
    return made


def _different(write: Callable[[], Question], count: int, dice: random.Random) -> list[tuple[str, dict[str, str], str]]:
    """`count` questions with four options, no two with the same stem and options."""
    found: dict[str, tuple[str, dict[str, str], str]] = {}
    while len(found) < count:
        stem, right, others = write()
        wrong = sorted(set(others) - {right})
        if len(wrong) > 2:
            options, letter = _lettered(right, dice.sample(wrong, 3), dice)
            found.setdefault(stem + "".join(sorted(options.values())), (stem, options, letter))
    return list(found.values())


def _lettered(right: str, wrong: list[str], dice: random.Random) -> tuple[dict[str, str], str]:
    texts = dice.sample([right, *wrong], len(wrong) + 1)
    options = dict(zip(LETTERS, texts, strict=False))
    return options, LETTERS[texts.index(right)]


def _medqa(diseases: list[Disease], seed: int) -> Sheet:
    """Five options, in every third question four."""
    dice = rng(seed, "medqa")
    rows: list[dict[str, Any]] = []
    for number, disease in enumerate(dice.sample(diseases, MEDQA)):
        person = patient(disease, dice)
        complaints = dice.sample(disease["symptoms"], 3)
        others = [other["name"] for other in diseases if not set(complaints) & set(other["symptoms"])]
        texts = dice.sample(others, 4 if number % 3 else 3)
        # Every letter is right as often as the others: by chance alone A was right nowhere among so few.
        texts.insert(number % (len(texts) + 1), disease["name"])
        options = dict(zip(LETTERS, texts, strict=False))
        letter = LETTERS[texts.index(disease["name"])]
        said = f"患者，{person.sex}，{person.age}，因{'、'.join(complaints)}就诊，{span(disease, dice)}"
        rows.append({
            "question": f"{said}。首先应当考虑的诊断是（　　）。", "options": options, "answer": disease["name"],
            "meta_info": "自拟试卷", "answer_idx": letter,
        })  # fmt: skip
    rows[-1]["answer_idx"] = "F"
    return Sheet("medqa", "medqa/test.jsonl", "jsonl", rows)


def _talk(disease: Disease, exchanges: int, dice: random.Random) -> list[str]:
    """Turns of patient and doctor: a story and a question back, then one fact an exchange."""
    said = dice.choice(ANSWER_BACK).format(t=span(disease, dice), x=dice.choice(EXTRA))
    turns = [story(disease, dice), dice.choice(ASK_BACK)]
    for place, aspect in enumerate(dice.sample(ASPECTS, exchanges - 1)):
        asked = facts.questions(disease, aspect, dice, spoken=True)[0]
        turns += [asked if place else said + asked, facts.reply(disease, aspect, dice)]
    return turns


def _cmtmedqa(diseases: list[Disease], seed: int) -> Sheet:
    """Two to four exchanges."""
    dice = rng(seed, "cmtmedqa test")
    chosen = dice.sample(diseases, DIALOGUES)
    rows = [
        forms.cmtmedqa(80_000 + number, disease["department"], *_talk(disease, 2 + number % 3, dice))
        for number, disease in enumerate(chosen)
    ]
    rows[-1]["output"] = ""
    return Sheet("cmtmedqa", "cmtmedqa/CMtMedQA_test.json", "json", rows)


def _mc(diseases: list[Disease], seed: int) -> Sheet:
    """Two to four exchanges; in every third dialogue the doctor sends the last answer in two pieces."""
    dice = rng(seed, "mc")
    blocks = []
    for number, disease in enumerate(dice.sample(diseases, DIALOGUES)):
        talk = _talk(disease, 2 + number % 3, dice)
        turns = [("PD"[place % 2], text) for place, text in enumerate(talk)]
        if number % 3 == 0:
            first, stop, rest = turns.pop()[1].partition("。")
            turns += [("D", first + stop), ("D", rest or "有情况再联系。")]
        if number == DIALOGUES - 1:
            turns.append(("P", "好的，那我再问一下，平时还要注意什么？"))
        blocks.append("\n".join([f"id\t{20_000 + number}", *("\t".join(turn) for turn in turns), ""]))
    return Sheet("mc", "mc/chunyu.txt", "lines", blocks)
