"""A made-up run for the report's tests: small ledger, token counts and scores with recognisable numbers."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from qilin_lib.report import paper
from qilin_lib.report.render import Table
from tests.helpers.exported import finished, make, run_dir  # noqa: F401

MODELS = ("base", "dcpt", "sft", "dpo")
EMPTY = {"value": None, "n": 0, "low": None, "high": None}
BASE = "tiny 2.3M"
SFT = f"{BASE} + DCPT + SFT"
DPO = f"{SFT} + DPO"


class Elements(HTMLParser):
    """Every element with its attributes; tags never closed, or closed in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def row(table: Table, label: str) -> dict[str, str]:
    """The row with that label, every cell as its text."""
    words = table.words
    found = words[words["Dataset" if "Dataset" in words else words.columns[0]] == label].to_dict("records")
    assert len(found) == 1, f"{label}: {len(found)} rows"
    return found[0]


def words_of(figure: Figure) -> set[str]:
    """The texts in a figure."""
    return {text.get_text() for text in figure.findobj(Text) if text.get_text()}


def score(value: float, n: int = 346, half: float = 5.0) -> dict[str, Any]:
    return {"value": value, "n": n, "low": value - half, "high": value + half}


def run_facts(base: str, parameters: int, as_paper: bool = False) -> dict[str, Any]:
    """What scores.json says of the run's models: the base, and each model's name by base and stages."""
    size = {2_263_296: "2.3M", 7_000_559_616: "7.0B"}[parameters]
    steps = {"base": "", "dcpt": " + DCPT", "sft": " + DCPT + SFT", "dpo": " + DCPT + SFT + DPO"}
    steps |= {"rejection_sampling": f"{steps['sft']} + rejection sampling", "rl": f"{steps['sft']} + RL"}
    names = {model: f"{base} {size}{step}" for model, step in steps.items()}
    return {
        "base": {"name": base, "parameters": parameters},
        "as_paper": list(MODELS) if as_paper else [],
        "names": names,
    }


def entry(source: str, part: str, row: str | None, read: int, kept: int) -> dict[str, Any]:
    lost = read - kept
    return {
        "source": source,
        "set": part,
        "table_row": row,
        "read": read,
        "kept": kept,
        "rejected": {"empty answer": lost},
        "duplicate": 0,
        "contaminated": 0,
        "excluded": 0,
        "merged": 0,
        "deidentified": {},
        "substring_chars": 0,
        "bytes_kept": kept * 1000,
        "chars_kept": kept * 333,
    }


@pytest.fixture(scope="session")
def run_of() -> Callable[..., dict[str, Any]]:
    return run_facts


@pytest.fixture
def ledger() -> dict[str, Any]:
    return {
        "sources": [
            entry("huatuo_encyclopedia_qa", "cpt", "Huatuo-26M-encyclopedias", 120, 100),
            entry("kg_cpubmed", "cpt", "CPubMed-KG", 30, 20),
            entry("kg_cpubmed_sample", "cpt", "CPubMed-KG", 5, 5),
            entry("remedi", "cpt", None, 9, 7),
            entry("cmexam", "sft", "CMExam-explanation", 50, 40),
            entry("zhongjing_rlhf", "dpo", None, 64, 64),
            entry("general_zh", "general", None, 10, 10),
        ],
        "hits": {"remedi": {"cmexam": 1}},
    }


@pytest.fixture
def tokens(ledger: dict[str, Any]) -> dict[str, Any]:
    counts: dict[str, Any] = {"tokenizer": "tiny-bpe", "cpt": {}, "sft": {}, "dpo": {}}
    for item in ledger["sources"]:
        if item["set"] in counts:
            counts[item["set"]][item["source"]] = {
                "samples": item["kept"],
                "tokens": item["kept"] * 100,
                "chars": item["chars_kept"],
                "bytes": item["bytes_kept"],
            }
    return counts


def exam(value: float, half: float = 5.0) -> dict[str, Any]:
    """A CMExam entry: 500 items, 40 of them unparsed, 260 with annotations."""
    departments = {"内科": score(60, 150), "眼科": score(20, 90), "某新科": score(50, 20, 20.0)}
    return {
        **{name: score(value, 500, half) for name in paper.TABLES[5].columns},
        "unparsed": score(8.0, 500),
        "parsed_only": {"accuracy": score(value + 3, 460, half), "f1_weighted": score(value + 2, 460, half)},
        "groups": {"difficulty": {"1": score(70, 200), "4": score(30, 60)}, "department": departments},
    }


def released_exam(value: float) -> dict[str, Any]:
    made = exam(value)
    top = {name: made[name] for name in ("accuracy", "unparsed", "bleu_1", "bleu_4", "rouge_1", "parsed_only")}
    return top | {"lora": {name: score(value - 10, 500) for name in paper.TABLES[5].columns}}


@pytest.fixture
def scores() -> dict[str, Any]:
    subjects = {"physician": score(30), "law": score(40), "art_studies": EMPTY}
    names = ("stem", "social_science", "humanities")
    variants = {"bleu_4 nltk corpus jieba": {"value": 7.25, "n": 300}, "rouge_1 cmexam set": score(31.5, 300)}
    return {
        "ceval": {
            m: {name: score(40.0) for name in paper.TABLES[4].columns}
            | {"unparsed": score(3.0, 1346, 1.0)}
            | {"subjects": subjects, "physician": EMPTY, "categories": {n: score(41) for n in names} | {"other": EMPTY}}
            for m in MODELS
        },
        "cmexam": {m: exam(39.0) for m in MODELS},
        "huatuo": {
            m: {name: score(12.345, 300, 1.0) for name in paper.TABLES[6].columns} | {"variants": variants}
            for m in MODELS
        },
        "released": {
            "ceval": {m: {"average": score(25.0), "basic_medicine": score(45.0), "subjects": subjects} for m in MODELS},
            "cmexam": {m: released_exam(21.0) for m in MODELS},
        },
        "paired": [
            {
                "benchmark": "cmexam",
                "metric": "accuracy",
                "model_a": "base",
                "model_b": "dcpt",
                "n": 500,
                "difference": 4.0,
                "low": -0.5,
                "high": 8.5,
                "p": 0.08,
                "p_adjusted": 0.24,
            }
        ],
        "usage": {},
        "digest": "ab" * 32,
        "run": run_facts("tiny", 2_263_296),
        "tokenisation": "jieba",
        "protocol": "fixed",
        "split": {"ceval": "val", "cmexam": "test", "huatuo": "test"},
        "cap": {"ceval": None, "cmexam": 500, "huatuo": 300},
        "shots": {"ceval": 5, "cmexam": None, "huatuo": None},
        "invalid": {"ceval": 0, "cmexam": 1, "huatuo": 0},
        "scoring": {"ceval": "likelihood", "cmexam": "generate", "huatuo": "generate"},
        "truncated": {
            "ceval": dict.fromkeys(MODELS, 0),
            "cmexam": {**dict.fromkeys(MODELS, 0), "sft": 7},
            "huatuo": dict.fromkeys(MODELS, 0),
        },
    }
