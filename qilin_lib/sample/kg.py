"""The three knowledge graphs: Xywy JSON lines, the 39Health table, CPubMed triples."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from qilin_lib.sample.facts import Disease
from qilin_lib.sample.sheets import Sheet
from qilin_lib.sample.wording import rng, sentence, vary

COLUMNS = (
    "name alias part age infection insurance department checklist symptom complication treatment drug period rate money"
).split()
MAKERS = ("示例药业", "样本制药", "演示药厂")
RELATIONS = {
    "symptoms": ("临床表现", "症状"), "checks": ("辅助检查", "检查"), "drugs": ("药物治疗", "药物"),
    "complications": ("并发症", "疾病"), "treatments": ("治疗", "其他治疗"), "department": ("就诊科室", "其他"),
    "diet_do": ("饮食宜", "食物"), "diet_dont": ("饮食忌", "食物"), "alias": ("同义词", "疾病"),
}  # fmt: skip


def sheets(diseases: list[Disease], seed: int) -> list[Sheet]:
    """kg_xywy, kg_39health and kg_cpubmed; each covers every disease."""
    return [
        Sheet("kg_xywy", "kg_xywy/medical.json", "jsonl", _xywy(diseases, seed), spaced=True),
        Sheet(
            "kg_39health", "kg_39health/disease.csv", "csv", _health39(diseases), COLUMNS + [""] * 5, "gb18030", "\r\n"
        ),
        Sheet("kg_cpubmed", "kg_cpubmed/cpubmed_kg_v2.txt", "lines", _cpubmed(diseases, seed)),
    ]


def _xywy(diseases: list[Disease], seed: int) -> list[dict[str, Any]]:
    dice = rng(seed, "xywy")
    records = []
    for disease in diseases:
        oid = hashlib.sha256(disease["name"].encode()).hexdigest()[:24]
        records.append({
            "_id": {"$oid": oid},
            "name": disease["name"],
            "desc": f"{disease['name']}概要：{sentence(vary(disease['description'], dice))}",
            "category": ["疾病百科", *disease["department"]],
            "prevent": _numbered(vary(disease["prevention"], dice)),
            "cause": "(一)发病原因\n" + sentence(vary(disease["cause"], dice)),
            "symptom": disease["symptoms"],
            "yibao_status": "是" if disease["insured"] else "否",
            "get_prob": "暂无资料",
            "easy_get": disease["population"],
            "get_way": disease["infectious"],
            "acompany": disease["complications"],
            "cure_department": disease["department"],
            "cure_way": disease["treatments"],
            "cure_lasttime": disease["course"],
            "cured_prob": "因人而异",
            "cost_money": "根据不同医院，收费标准不一致",
            "check": disease["checks"],
            "common_drug": disease["drugs"],
            "do_eat": disease["diet_do"],
            "not_eat": disease["diet_dont"],
            "recommand_eat": [f"清淡做法的{food}" for food in disease["diet_do"][:3]],
            "recommand_drug": disease["drugs"][:3],
            "drug_detail": [f"{dice.choice(MAKERS)}({drug})" for drug in disease["drugs"]],
        })  # fmt: skip
        _thin(records[-1], dice.random())
    return records


def _numbered(text: str) -> str:
    """The numbered lines in which the real file writes prevention: a clause or two a line."""
    clauses = [clause for clause in re.split(r"[，；。]", text) if clause]
    lines = ["，".join(clauses[at : at + 2]) for at in range(0, len(clauses), 2)]
    return "\n".join(f"{number}、{line}。" for number, line in enumerate(lines, start=1))


def _thin(record: dict[str, Any], chance: float) -> None:
    # The real file lacks these keys in about these shares of its records (1 %, 8 %, 27 %).
    absent = ("do_eat", "not_eat", "recommand_eat") if chance < 0.27 else ("common_drug",) if chance < 0.35 else ()
    for key in (*absent, *(("easy_get",) if chance > 0.99 else ())):
        del record[key]


def _health39(diseases: list[Disease]) -> list[list[str]]:
    return [_health39_row(disease) for disease in diseases]


def _health39_row(disease: Disease) -> list[str]:
    def cell(names: list[str]) -> str:
        return " ".join(name.replace(" ", "") for name in names) + " [详细]" if names else ""

    drugs = [drug if len(drug) <= 7 else drug[:6] + "..." for drug in disease["drugs"]]
    return [
        disease["name"],
        ",".join(disease["alias"]),
        disease["part"],
        disease["population"],
        disease["infectious"],
        "医保疾病" if disease["insured"] else "非医保疾病",
        " ".join(disease["department"]),
        cell(disease["checks"]),
        cell(disease["symptoms"]),
        cell(disease["complications"]),
        "、".join(disease["treatments"]) + " [详细]",
        cell(drugs),
        disease["course"],
        "暂无相关资料",
        "",
        *[""] * 5,
    ]


def _cpubmed(diseases: list[Disease], seed: int) -> list[str]:
    lines = [
        f"{disease['name']}@@疾病\t{relation}\t{term}@@{kind}"
        for disease in diseases
        for field, (relation, kind) in RELATIONS.items()
        for term in disease[field]
    ]
    for disease in diseases:
        lines.append(f"{disease['name']}@@疾病\t发病部位\t{disease['part']}@@部位")
        lines.append(f"{disease['name']}@@疾病\t多发群体\t{disease['population']}@@流行病学")
        lines.append(f"{disease['name']}@@疾病\t传播途径\t{disease['infectious']}@@流行病学")
        lines.append(f"{disease['name']}@@疾病\t治疗时长\t{disease['course']}@@其他")
    rng(seed, "cpubmed").shuffle(lines)
    return list(dict.fromkeys(lines))
