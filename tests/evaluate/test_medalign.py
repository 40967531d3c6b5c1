"""MedAlign: instructions about records of patients, the newest part of which is kept, and which stay here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.writer import Writer

from qilin_lib import sample
from qilin_lib.chimed.sources import REGISTRY
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import answering, plan
from qilin_lib.evaluate.benchmarks import KINDS, prepare
from qilin_lib.evaluate.store import predictions
from qilin_lib.files import read_jsonl
from qilin_lib.params import load

ONLY = {"benchmarks": [], "further_benchmarks": ["medalign"], "protocols": ["fixed"]}
GPT = {"model": "gpt", "endpoint": "https://example.org/v1"}


def task(raw: Path, **more: Any) -> Any:
    return prepare(raw, load("06_eval", {**ONLY, **more}))[0]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A copy of the sample, to be damaged."""
    shutil.copytree(sample.raw_dir().parent / "medalign", tmp_path / "raw" / "medalign")
    return tmp_path / "raw"


def test_instructions_find_their_record_and_the_first_clinician_s_answer(raw: Path) -> None:
    made = task(raw)
    assert [(item.id, item.reference) for item in made.items] == [
        ("101", "社区获得性肺炎，已好转。"),
        ("102", "青霉素，曾出现皮疹。"),
        ("103", "7.9%。"),
    ]
    assert made.invalid == [] and "07/12/2021" in made.patients["3"]


def test_what_lacks_its_record_or_an_answer_is_listed(raw: Path) -> None:
    (raw / "medalign" / "medalign_ehr_xml" / "EHR_2.xml").unlink()
    with (raw / "medalign" / "instructions.tsv").open("a", encoding="utf-8") as handle:
        handle.write("104\t有何手术史？\t1\tyes\n")
    made = task(raw)
    assert [item.id for item in made.items] == ["101", "103"]
    assert [(row["line"], row["detail"]) for row in made.invalid] == [
        (3, "no record EHR_2.xml"),
        (5, "no clinician's answer"),
    ]


def test_a_record_too_long_for_the_context_keeps_its_end_and_the_instruction(
    raw: Path, tmp_path: Path, tokenizer: Any, template: Any
) -> None:
    made = task(raw, max_new_tokens_dialogue=8)
    plan.write([made], tmp_path / "items")
    (again,) = plan.read(tmp_path / "items", KINDS)
    whole, cut = (again.prompts(again.items, Writer(str, tokenizer, template, room), 0) for room in (9999, 160))
    assert not any(prompt.truncated for prompt in whole) and all(len(prompt.ids) <= 152 for prompt in cut)
    first, full = cut[0].messages[0]["content"], whole[0].messages[0]["content"]
    assert cut[0].truncated and "好转出院" in first and "末次出院" in first and "原发性高血压" not in first
    assert "原发性高血压" in full and full.index("原发性高血压") < full.index("末次出院")


def test_answers_are_measured_against_the_clinician_s(raw: Path, tmp_path: Path, tokenizer: Any, template: Any) -> None:
    made = task(raw)
    path = predictions(tmp_path, "fixed", "medalign", "base")
    answering.answer(made, "base", Writer(lambda messages: "肺炎。", tokenizer, template, 9999), 0, path)
    answering.store.finish(path, [item.id for item in made.items])
    table = made.statistics([*read_jsonl(path)])
    assert {"bleu_1", "rouge_l", "unparsed"} <= table.keys()


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ({"baselines": {"GPT": GPT}}, True),
        ({"baselines": {"GPT": GPT}, "medalign_endpoints": ["GPT"]}, False),
        ({"baselines": {"GPT": GPT | {"benchmarks": ["cmexam"]}}}, False),
        ({"baselines": {"GPT": {"model": "gpt2"}}}, False),
        (
            {
                "baselines": {"GPT": GPT | {"benchmarks": []}},
                "judge": {"by": "GPT", "benchmark": "medalign", "preset": "medalign"},
            },
            True,
        ),
    ],
)
def test_no_record_goes_to_an_endpoint_unless_a_parameter_says_so(raw: Path, more: dict, refused: bool) -> None:
    if refused:
        with pytest.raises(QilinError, match=r"eval\.baselines\.GPT.*endpoint.*eval\.medalign_endpoints: \[GPT\]"):
            task(raw, **more)
    else:
        assert len(task(raw, **more).items) == 3


def test_no_training_reads_it() -> None:
    assert "medalign" not in {source.name for source in REGISTRY}
    steps = {"per_device_train_batch_size": 1, "num_train_epochs": 1.0, "max_steps": 1, "learning_rate": 1e-4}
    line = {"model": "base", "finetune": {"on": "medalign", "finetuning": "lora", **steps}}
    with pytest.raises(QilinError, match=r"finetune.*on"):
        load("06_eval", {"baselines": {"mine": line}})
