"""The two examinations: CMExam (train, val, test) and C-Eval (dev, val, test per subject)."""

from __future__ import annotations

from typing import Any

from qilin_lib.sample.sheets import Sheet
from qilin_lib.sample.wording import rng

BASIC = ["Question", "Options", "Answer", "Explanation"]
NOTED = ["Disease Group", "Area of Competency", "Clinical Department", "Medical Discipline", "Difficulty level"]
SUBJECTS = {
    "basic_medicine": ("基础医学", "Other"),
    "clinical_medicine": ("临床医学", "Other"),
    "physician": ("医师资格", "Other"),
    "high_school_physics": ("高中物理", "STEM"),
    "college_chemistry": ("大学化学", "STEM"),
    "middle_school_geography": ("初中地理", "Social Science"),
    "modern_chinese_history": ("近代史纲要", "Humanities"),
    "chinese_language_and_literature": ("中国语言文学", "Humanities"),
    "logic": ("逻辑学", "Humanities"),
}


def sheets(exams: list[dict[str, Any]], ceval: list[dict[str, Any]], seed: int) -> list[Sheet]:
    """CMExam's four files and C-Eval's three a subject (ceval/mapping.json is written by render)."""
    cut = split(exams, seed)
    made = [
        _cmexam("train.csv", cut["train"], "\n"),
        _cmexam("val.csv", cut["val"], "\\n"),
        _cmexam("test.csv", cut["test"], "\n"),
        _cmexam("test_with_annotations.csv", cut["test"], "\n", noted=True),
    ]
    return made + _ceval(ceval)


def mapping(ceval: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """ceval/mapping.json: Chinese name and category of each subject present."""
    present = sorted({item["subject"] for item in ceval})
    known = {subject: SUBJECTS.get(subject, (subject, "Other")) for subject in present}
    return {subject: {"name": name, "category": category} for subject, (name, category) in known.items()}


def split(exams: list[dict[str, Any]], seed: int) -> dict[str, list[dict[str, Any]]]:
    """60/15/25 % within every answer letter and within the multi-answer items."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for item in exams:
        kinds.setdefault(item["answer"] if len(item["answer"]) == 1 else "multi", []).append(item)
    cut: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for kind in sorted(kinds):
        order = rng(seed, f"exams:{kind}").sample(kinds[kind], len(kinds[kind]))
        test, val = round(len(order) * 0.25), round(len(order) * 0.15)
        cut["test"] += order[:test]
        cut["val"] += order[test : test + val]
        cut["train"] += order[test + val :]
    for name, items in cut.items():
        rng(seed, f"exams:order:{name}").shuffle(items)
    return cut


def row(item: dict[str, Any], mark: str = "\n") -> list[str]:
    """Question, options joined by `mark`, answer, explanation."""
    options = mark.join(f"{letter} {text}" for letter, text in item["options"].items())
    return [item["question"], options, item["answer"], item["explanation"]]


def _cmexam(name: str, items: list[dict[str, Any]], mark: str, noted: bool = False) -> Sheet:
    rows = []
    for item in items:
        notes = [item["disease_group"], item["competency"], item["department"], item["discipline"], item["difficulty"]]
        rows.append(row(item, mark) + [str(note) for note in notes if noted])
    header, newline = (BASIC + NOTED, "\r\n") if noted else (BASIC, "\n")
    return Sheet("cmexam", f"cmexam/{name}", "csv", rows, header, "utf-8-sig", newline)


def _ceval(items: list[dict[str, Any]]) -> list[Sheet]:
    made = []
    for subject in sorted({item["subject"] for item in items}):
        for name, extra in (("dev", ["answer", "explanation"]), ("val", ["answer"]), ("test", [])):
            chosen = [item for item in items if (item["subject"], item["split"]) == (subject, name)]
            header = ["id", "question", "A", "B", "C", "D", *extra]
            rows = [[str(number), *(item[key] for key in header[1:])] for number, item in enumerate(chosen)]
            made.append(Sheet("ceval", f"ceval/{name}/{subject}_{name}.csv", "csv", rows, header))
    return made
