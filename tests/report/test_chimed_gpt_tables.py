"""The block "ChiMed-GPT": the README's numbers verbatim, ours in rows of their own, and nothing in between."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from qilin_lib.evaluate.benchmarks import ceval, dialogue, exams, ner
from qilin_lib.evaluate.entities import KINDS
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.scores import summarise
from qilin_lib.evaluate.variants import README_METRICS, TRUE_BLEU
from qilin_lib.report import chimed_gpt as block
from qilin_lib.report.paper import CHIMED_GPT
from qilin_lib.report.render import Table
from tests.report.conftest import BASE, SFT, row
from tests.report.conftest import score as scored

score = partial(scored, n=60)
# Copied from FACTS 5.1, row by row: NER F1 and accuracy, ChiMed QA, MC dialogue.
STATED = """
GPT-3.5 | 31.42 | 32.15 | 56.58 | 49.91 | 44.50 | 39.15 32.85 26.61 7.31 16.84 | 24.29 20.17 20.64 8.39 17.14
GPT-4 | 41.37 | 41.25 | 71.29 | 69.55 | 67.99 | 33.61 28.27 26.51 7.13 16.63 | 18.58 15.76 18.92 6.62 14.55
Ziya-v1 | 25.31 | 22.26 | 36.59 | 29.07 | 12.50 | 6.18 5.77 18.59 3.94 12.66 | 15.85 11.75 9.92 3.04 9.02
Ziya-v2 | 27.84 | 25.76 | 39.02 | 49.06 | 13.00 | 38.41 31.90 26.91 7.90 18.67 | 14.21 10.99 12.20 4.45 10.61
Baichuan | 24.14 | 21.20 | 41.46 | 45.28 | 13.00 | 5.81 5.25 16.91 3.01 11.30 | 3.44 1.61 3.87 0.34 3.49
Taiyi | 30.90 | 30.55 | 48.78 | 45.20 | 39.20 | 11.73 9.96 21.76 5.26 15.46 | 5.81 4.67 14.23 4.55 11.99
MedicalGPT (Z) | 29.59 | 28.12 | 48.78 | 34.56 | 25.99 | 39.02 32.35 26.76 8.10 18.16 | 20.26 16.42 17.51 5.42 14.21
MedicalGPT (B) | 23.80 | 26.16 | 39.02 | 43.82 | 18.50 | 5.82 5.26 16.61 2.94 11.11 | 3.94 2.19 4.34 0.13 3.50
ChiMed-GPT | 40.82 | 41.04 | 68.29 | 52.92 | 44.50 | 44.58 37.22 27.11 8.89 19.86 | 33.14 30.86 43.43 34.91 42.16
"""


def entities(value: float, *kinds: str) -> dict[str, Any]:
    made = {name: score(value) for name in ("f1", "precision", "recall")}
    made |= {"unparsed": score(7.0), "spans": {"f1": score(value - 1)}, "lines": {kind: score(11.0) for kind in KINDS}}
    return made | {"types": {kind: {"f1": score(value + 2, n=9)} for kind in kinds}}


@pytest.fixture
def further(scores: dict[str, Any]) -> dict[str, Any]:
    """The scores of the neighbouring tests and what a run of the further benchmarks adds to them."""
    measured = {name: score(20.5 + n) for n, name in enumerate([*README_METRICS.values(), *TRUE_BLEU.values()])}
    for entry in scores["ceval"].values():
        entry["chimed_gpt"] = {"accuracy": score(29.27, n=41), "unparsed": score(2.4, n=41, half=1.0)}
    more = {
        "ccks2019": {"base": entities(10.0, "手术"), "GPT-4": entities(41.0, "手术", "药物")},
        "cmeee": {"sft": entities(33.0, "dis", "sym")},
        "cmmlu": {
            "base": {
                "accuracy": score(25.0, n=700),
                "average": score(26.0, n=700),
                "unparsed": score(0.0, n=700, half=0),
            }
        },
        "mc": {"sft": {"variants": measured}},
        "cmtmedqa": {"sft": {"variants": measured}},
    }
    settings = {"ccks2019": "test", "cmeee": "dev", "cmmlu": "test", "mc": "unseen", "cmtmedqa": "unseen"}
    scores["split"] |= settings
    scores["cap"] |= {name: 60 for name in settings}
    scores["shots"] |= {name: 5 if name == "cmmlu" else None for name in settings}
    scores["invalid"] |= {name: 2 for name in settings}
    scores["scoring"] |= {name: "likelihood" if name == "cmmlu" else "generate" for name in settings}
    scores["truncated"] |= {name: {model: 0 for model in more[name]} for name in settings}
    scores["truncated"]["mc"]["sft"] = 4
    return scores | more


def made(scores: dict[str, Any]) -> dict[str, Table]:
    return {table.number: table for table in block.tables(scores)}


def test_the_published_cells_are_the_readmes_digits() -> None:
    lines = [line.split(" | ") for line in STATED.strip().splitlines()]
    assert [line[0] for line in lines] == [*CHIMED_GPT["results"]]
    for name, *numbers in lines:
        assert [cell.wording for cell in CHIMED_GPT["results"][name].values()] == numbers[:5]
        assert [cell.wording for cell in CHIMED_GPT["chimed_qa"][name].values()] == numbers[5].split()
        assert [cell.wording for cell in CHIMED_GPT["mc"][name].values()] == numbers[6].split()
    # FACTS 5.3: the benchmark is the 41 validation items of two subjects, so every value but GPT's is k of 41.
    possible = {f"{100 * k / 41:.2f}": k for k in range(42)}
    found = {model: possible.get(cells["ceval"].wording) for model, cells in CHIMED_GPT["results"].items()}
    assert found == dict(zip(CHIMED_GPT["results"], (None, None, 15, 16, 17, 20, 20, 16, 28), strict=True))
    assert {cell.origin for cells in CHIMED_GPT["mc"].values() for cell in cells.values()} == {
        "README of synlp/ChiMed-GPT"
    }


def test_of_nothing_run_what_is_published_is_shown_alone(scores: dict[str, Any]) -> None:
    for entry in scores["ceval"].values():  # the test split: no public answer
        entry["chimed_gpt"] = {"accuracy": {"value": None, "n": 0, "low": None, "high": None}, "unparsed": score(0.0)}
    exams, qa, dialogue = block.tables(scores)
    assert [len(table.words) for table in (exams, qa, dialogue)] == [9, 9, 9]
    assert row(exams, "ChiMed-GPT")["MedQA, accuracy"] == "paper 44.50"
    assert row(dialogue, "ChiMed-GPT")["README's R-L"] == "paper 42.16"
    assert "Not evaluated in this run: MC dialogue." in dialogue.notes


def test_no_difference_is_taken_and_notes_say_what_was_asked(further: dict[str, Any]) -> None:
    assert list(made({name: further[name] for name in ("cmmlu", "run")})) == ["C1", "C2a", "C2b"]
    table = made(further)["C1"]
    assert row(table, "GPT-4")["CCKS-2019, F1"] == "paper 41.37"
    assert row(table, "GPT-4 (ours)")["CCKS-2019, F1"] == "41.00 [36.00, 46.00] (n=60)"
    assert table.cells["difference"].isna().all()
    assert table.notes[0].startswith("Base model here: tiny, 2.3 million weights. One run")
    ccks, ceval = (next(note for note in table.notes if note.startswith(name)) for name in ("CCKS-2019", "C-Eval, two"))
    asked = "protocol fixed; split test; cap 60 items; no examples; scoring generate; unusable rows of the benchmark 2"
    assert asked in ccks and f"{BASE} 7.0 [2.0, 12.0] (n=60)" in ccks
    assert "split val; no cap on items; shots 5" in ceval and f"{SFT} 2.4 [1.4, 3.4] (n=41)" in ceval
    assert "Not evaluated in this run: ChiMST, MedQA." in table.notes
    assert "Power of the accuracies: n = 41: " in "\n".join(table.notes)
    assert f"Prompts cut to fit the context: {SFT} 4." in "\n".join(made(further)["C2b"].notes)


def real_entities() -> Any:
    """Two texts: one entity of two found and a wrong one beside it, then a reply that cannot be read."""
    text, reference = "头痛用药", '[["sym", "头痛", 0, 2], ["dru", "用药", 2, 4]]'
    item = Item("cmeee", "dev-0", "dev", None, text, None, None, reference)
    known = {"sym": "临床表现", "dru": "药物"}
    answers = ["临床表现：头痛\n药物：头", "我不知道"]
    return ner.statistics([{"reference": reference} | ner.understood(item, a, known) for a in answers], tuple(known))


def test_the_block_reads_what_the_evaluation_writes(run_of: Any) -> None:
    exam = [{"subject": s, "gold": "A", "prediction": p, "correct": p == "A"} for s in ceval.CHIMED_GPT for p in "AAB"]
    asked = [row | {"n_options": 4} for row in exam]
    talk = [{"output": "多喝水。", "reference": "多喝水，休息。", "exchanges": n} for n in (0, 1, 2)]
    statistics = {"ceval": ceval.statistics(exam), "cmmlu": exams.statistics(asked), "medqa": exams.statistics(asked)}
    statistics |= {"mc": dialogue.statistics(talk), "cmeee": real_entities()}
    scores = {name: {"base": summarise(table, 50, 0)} for name, table in statistics.items()}
    block_of = made(scores | {"run": run_of("tiny", 2_263_296)})
    first = row(block_of["C1"], BASE)
    assert [first[f"{name}, accuracy"][:4] for name in ("C-Eval, two subjects", "CMMLU", "MedQA")] == ["66.7"] * 3
    assert first["CMeEE-V2, F1 (ours only)"].startswith("33.33 ")  # one right of 2 said and 4 wanted
    third = block_of["C3c"]
    assert row(third, "replies that cannot be read")[BASE].startswith("50.0 ")
    assert row(third, "sym 临床表现")[BASE].startswith("66.7 ") and row(third, "dru 药物")[BASE].startswith("0.0 ")
    second = row(block_of["C2b"], BASE)
    assert not [name for name, cell in second.items() if cell in ("-", "not evaluated", "no items")]
