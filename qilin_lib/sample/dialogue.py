"""Consultations: Toyhom tables, MedDialog lists and case forms, CMD, CMtMedQA, ReMeDi prefixes."""

from __future__ import annotations

import random
from typing import Any

from qilin_lib.sample import facts, forms
from qilin_lib.sample.facts import Disease
from qilin_lib.sample.patients import ask, is_slow, patient, span, story
from qilin_lib.sample.shares import Pair
from qilin_lib.sample.sheets import Sheet
from qilin_lib.sample.wording import rng, sentence, vary

FOLDERS = {
    "内科": "IM_内科",
    "外科": "Surgical_外科",
    "妇产科": "OAGD_妇产科",
    "儿科": "Pediatric_儿科",
    "男科": "Andriatria_男科",
    "肿瘤科": "Oncology_肿瘤科",
}
SURGICAL = ("外", "骨", "眼", "耳", "口腔", "皮肤", "泌尿", "肛肠", "普外", "五官")
# Shares of the hand-written consultations, in this order; what is left over goes to CMD.
WRITTEN = {"meddialog_cn": 50, "cmtmedqa": 45, "remedi": 30}
ASK_BACK = (
    "这种情况多久了，有没有看过医生？",
    "平时有没有别的慢性病，在吃什么药吗？",
    "除了这些，还有其他不舒服吗？",
    "症状在什么时候更明显？",
    "家里人有没有类似的情况？",
    "最近作息和饮食怎么样？",
    "有没有做过相关检查？",
)
ANSWER_BACK = (
    "{t}，{x}。",
    "{x}，算起来{t}。",
    "也说不上来，大概{t}吧，{x}。",
    "{x}，其他还好。",
)
EXTRA = (
    "没有别的病",
    "没吃过药",
    "晚上更明显一些",
    "家里没有这样的",
    "睡得比较晚",
    "没做过检查",
    "吃饭还可以",
    "体重没什么变化",
    "白天上班的时候重一点",
    "之前体检还算正常",
)
BYE = (
    ("好的，明白了，我抽空去看看。", "不客气，有情况随时联系。"),
    ("知道了，谢谢您。", "不用谢，祝您健康。"),
    ("那我先按您说的做。", "嗯，注意观察，别着急。"),
    ("谢谢大夫，心里踏实多了。", "别太紧张，按时复诊就好。"),
)
RUMOURS = (
    "有人说{d}喝几碗香灰水就能除根，是真的吗？",
    "群里传{d}是因为屋子风水不好，要不要请人看看？",
    "亲戚让我把{d}的药全停了，改用偏方贴肚脐，可以吗？",
    "看到广告说一台磁疗床能包治{d}，能信吗？",
    "听说{d}不能见陌生人，不然会加重，有道理吗？",
)
DENIALS = (
    "这种说法没有科学依据。",
    "您的谨慎是对的，这类宣传不可信。",
    "没有研究支持这样的做法。",
    "请不要这样做，可能耽误病情。",
)


def sheets(diseases: list[Disease], places: dict[str, list[Pair]], seed: int) -> list[Sheet]:
    """All dialogue sources; every hand-written consultation goes to one of them."""
    written = [(disease, turns) for disease in diseases for turns in disease["dialogues"]]
    rng(seed, "dialogues").shuffle(written)
    cut: dict[str, list[tuple[Disease, list[str]]]] = {}
    done = 0
    for source, count in WRITTEN.items():
        cut[source], done = written[done : done + count], done + count
    return [
        *_toyhom(places["toyhom_dialogue"], seed),
        *_meddialog(cut["meddialog_cn"], diseases, seed),
        Sheet("cmd", "cmd/cmd.jsonl", "jsonl", _cmd(written[done:], places["cmd"], seed)),
        Sheet("cmtmedqa", "cmtmedqa/CMtMedQA.json", "json", _cmtmedqa(cut["cmtmedqa"], diseases, seed)),
        Sheet("remedi", "remedi/train.txt", "lines", _remedi(cut["remedi"], seed)),
    ]


def _folder(disease: Disease) -> str:
    for department in disease["department"]:
        if department in FOLDERS:
            return FOLDERS[department]
        if department in ("妇科", "产科"):
            return FOLDERS["妇产科"]
    surgical = any(word in "".join(disease["department"]) for word in SURGICAL)
    return FOLDERS["外科" if surgical else "内科"]


def _toyhom(pairs: list[Pair], seed: int) -> list[Sheet]:
    """Two rows a pair: other people, the same thing asked in other words."""
    dice = rng(seed, "toyhom")
    rows: dict[str, list[list[str]]] = {}
    for disease, aspect in pairs:
        titles = facts.questions(disease, aspect, dice, spoken=True)
        for number in range(2):
            title, asked = titles[number % len(titles)], titles[(number + 1) % len(titles)]
            row = [disease["department"][-1], title, ask(disease, asked, dice), facts.reply(disease, aspect, dice)]
            rows.setdefault(_folder(disease), []).append(row)
    return [
        Sheet(
            "toyhom_dialogue", f"toyhom_dialogue/{folder}/{folder.split('_')[1]}.csv", "csv",
            dice.sample(rows[folder], len(rows[folder])), ["department", "title", "ask", "answer"], "gb18030", "\r\n",
        )
        for folder in sorted(rows)
    ]  # fmt: skip


def _meddialog(written: list[tuple[Disease, list[str]]], diseases: list[Disease], seed: int) -> list[Sheet]:
    dice = rng(seed, "meddialog")
    cases = []
    for disease in dice.sample(diseases, min(20, len(diseases))):
        given = {
            "疾病": disease["name"], "病情描述": story(disease, dice), "希望获得的帮助": dice.choice(
                ("想知道下一步怎么办", "需不需要做检查", "请医生给个诊疗建议", "目前的治疗要不要调整")
            ),
            "患病多久": dice.choice(("半年内", "大于半年") if is_slow(disease) else ("一周内", "一月内")),
            "过敏史": "无", "既往病史": "无",
        }  # fmt: skip
        advice = f"可先完善{'、'.join(disease['checks'][:2])}，{sentence(vary(disease['advice'], dice))}"
        cases.append({
            "id": dice.randint(10000, 99999),
            "medical_case": "\n".join(f"{key}：\n{value}" for key, value in given.items()),
            "doctor_diagnosis": f"病情摘要及初步印象：\n{disease['name']}\n总结建议：\n{advice}",
            "Department": disease["department"][-1],
        })  # fmt: skip
    lists = [forms.meddialog(*turns) for _, turns in written]
    return [
        Sheet("meddialog_cn", "meddialog_cn/train_data.json", "json", lists),
        Sheet("meddialog_cn", "meddialog_cn/Med-dialog_cases.json", "json", cases),
    ]


def _exchange(disease: Disease, dice: random.Random) -> tuple[str, str]:
    said = dice.choice(ANSWER_BACK).format(t=span(disease, dice), x=dice.choice(EXTRA))
    return dice.choice(ASK_BACK), said


def _cmd(written: list[tuple[Disease, list[str]]], pairs: list[Pair], seed: int) -> list[Any]:
    """Hand-written consultations, then made ones of four to six turns, one fact each."""
    dice = rng(seed, "cmd")
    records = [forms.cmd(*turns) for _, turns in written]
    for disease, aspect in pairs:
        question = facts.questions(disease, aspect, dice, spoken=True)[0]
        asked, said = _exchange(disease, dice)
        turns = [story(disease, dice), asked, said + question, facts.reply(disease, aspect, dice)]
        records.append(forms.cmd(*turns, *(dice.choice(BYE) if dice.random() < 0.5 else ())))
    dice.shuffle(records)
    return records


def _cmtmedqa(written: list[tuple[Disease, list[str]]], diseases: list[Disease], seed: int) -> list[Any]:
    """The mixed schema of the real file: dialogues with history, and bare instruct/output rows on rumours."""
    dice = rng(seed, "cmtmedqa")
    numbers = dice.sample(range(1000, 70000), len(written))
    records: list[Any] = [
        forms.cmtmedqa(number, disease["department"], *turns)
        for number, (disease, turns) in zip(numbers, written, strict=True)
    ]
    for disease in dice.sample(diseases, min(16, len(diseases))):
        rumour = " 医生，" + dice.choice(RUMOURS).format(d=disease["name"])
        told = " " + dice.choice(DENIALS) + f"{disease['name']}应到{disease['department'][-1]}由医生评估，"
        told += f"常规的处理包括{'、'.join(disease['treatments'])}等。"
        records.append({"instruct": rumour, "output": told})
    dice.shuffle(records)
    return records


def _remedi(written: list[tuple[Disease, list[str]]], seed: int) -> list[str]:
    """One line per doctor's turn, each repeating all turns before it; an empty line between dialogues."""
    dice = rng(seed, "remedi")
    lines: list[str] = []
    for disease, given in written:
        person = patient(disease, dice)
        turns = [f"{given[0]}（{person.sex}，{person.age}）", *given[1:]]
        for place in range(0, len(turns), 2):
            lines.append(_remedi_line(disease, turns[:place], turns[place], turns[place + 1]))
        lines.append("")
    return lines


def _remedi_line(disease: Disease, before: list[str], said: str, answer: str) -> str:
    context = "".join(f"<|{('user', 'system')[n % 2]}|> {turn} " for n, turn in enumerate(before)).rstrip()
    context += "" if before else " "
    known = " ".join(f"<|k|>{disease['name']} 相关症状 {symptom}" for symptom in disease["symptoms"][:2])
    return (
        f"<|endoftext|> <|context|> {context.lstrip()}<|endofcontext|> <|currentuser|> {said} <|endofcurrentuser|> "
        f"<|intent|> Inform symptom {disease['symptoms'][0]}  <|endofintent|>  "
        f"<|knowledge|> {known} <|endofknowledge|> <|action|> QuestionAnswering    <|endofaction|> "
        f"<|response|> {answer} <|endofresponse|>  <|endoftext|>"
    )
