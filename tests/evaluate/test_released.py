"""Against the authors' own code: released_cases.json holds our inputs and what that code made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import released
from qilin_lib.evaluate.benchmarks import ceval
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.prompts import Prompt
from qilin_lib.evaluate.replies import ERROR, Reply
from qilin_lib.evaluate.scores import summarise

CASES = json.loads(Path(__file__).with_name("released_cases.json").read_text(encoding="utf-8"))
CEVAL, CMEXAM, OPTIONS = CASES["ceval"], CASES["cmexam"], CASES["options"]
CLOSE = {"rel": 0, "abs": 1e-6}


class Characters:
    """One token a character and, as many tokenizers do it, a first token that begins every text."""

    bos = 0x110000

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [self.bos] * add_special_tokens + [ord(character) for character in text]

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(token) for token in ids if token != self.bos)


@dataclass
class Script:
    """A backend that writes the next of `replies`, whatever it is asked."""

    replies: Sequence[str] = ()
    context: int | None = 100_000
    tokenizer: Any = field(default_factory=Characters)
    asked_for: list[int] = field(default_factory=list)

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        self.asked_for.append(max_new_tokens)
        assert len(prompts) == len(self.replies)
        return [reply if isinstance(reply, Reply) else Reply(reply) for reply in self.replies]


def ceval_item(case: dict, number: int = 0) -> Item:
    subject = CEVAL["subject"]
    return Item("ceval", f"{subject}-{number}", "val", subject, case["question"], case["options"], case["gold"], "")


def cmexam_item(options: dict[str, str], gold: str, question: str = "问", reference: str = "") -> Item:
    return Item("cmexam", "test-0", "test", None, question, options, gold, reference)


DEV = {CEVAL["subject"]: [ceval_item(case) for case in CEVAL["dev"]]}
ITEMS = [ceval_item(case) for case in CEVAL["items"]]


@cache
def cmexam_records() -> list[dict]:
    items = [
        cmexam_item(OPTIONS[name], gold, reference=CASES["references"][reference])
        for name, _, gold, reference, *_ in CMEXAM["rows"]
    ]
    backend = Script([row[1] for row in CMEXAM["rows"]])
    answers = released.cmexam_answer(items, released.cmexam_prompts(items, backend), backend)
    return [{"gold": i.gold, "reference": i.reference} | row for i, row in zip(items, answers, strict=True)]


@cache
def cmexam_scores() -> dict[str, Any]:
    return summarise(released.cmexam_statistics(cmexam_records()), resamples=20, seed=0)


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_ceval_prompts_are_the_authors() -> None:
    asked = released.ceval_prompts(ITEMS, Script(), DEV, 5)
    assert [prompt.text for prompt in asked] == CEVAL["prompts"]
    for prompt in asked:
        assert prompt.messages == [{"role": "user", "content": prompt.text}] and prompt.reply_prefix == ""
        assert prompt.ids == [Characters.bos, *map(ord, prompt.text)]
        assert (prompt.shots, prompt.truncated) == (5, False)


@pytest.mark.parametrize(("shots", "shown"), [(2, 2), (0, 1)])
def test_ceval_shows_the_first_examples_and_one_at_least(shots: int, shown: int) -> None:
    (prompt,) = released.ceval_prompts(ITEMS[:1], Script(), DEV, shots)
    assert (prompt.text, prompt.shots) == (CEVAL[f"prompt_ntrain_{shots}"], shown)


@pytest.mark.parametrize(("context", "shots"), [(10**6, 5), (580, 4), (200, 0)])
def test_items_of_a_subject_share_their_rounds(context: int, shots: int) -> None:
    asked = released.ceval_prompts(ITEMS, Script(context=context), DEV, 5)
    beginning = asked[0].text.rpartition("问：")[0] + "问："
    assert {prompt.shots for prompt in asked} == {shots}
    assert {prompt.shared for prompt in asked} == ({1 + len(beginning)} if shots else {0})
    assert len({tuple(prompt.ids[: prompt.shared]) for prompt in asked}) == 1


def test_cmexam_prompts_are_the_authors() -> None:
    items = [cmexam_item(case["options"], case["gold"], case["question"]) for case in CMEXAM["items"]]
    asked = released.cmexam_prompts(items, Script())
    assert [prompt.text for prompt in asked] == CMEXAM["prompts"]
    assert [prompt.ids for prompt in asked] == [[Characters.bos, *map(ord, text)] for text in CMEXAM["prompts"]]
    assert {(prompt.shots, prompt.truncated) for prompt in asked} == {(0, False)}


def test_examples_go_first_when_the_context_is_too_short() -> None:
    whole, full = len(CEVAL["prompts"][0]) + 1, Script(context=10**6)
    room = whole + 10
    (fits,) = released.ceval_prompts(ITEMS[:1], Script(context=room), DEV, 5)
    (short,) = released.ceval_prompts(ITEMS[:1], Script(context=room - 1), DEV, 5)
    assert (fits.shots, fits.truncated) == (5, False)
    assert (short.shots, short.truncated) == (4, True)
    assert (
        short.text == released.ceval_prompts(ITEMS[:1], full, {CEVAL["subject"]: DEV[CEVAL["subject"]][1:]}, 4)[0].text
    )


@pytest.mark.parametrize("context", [60, 90])
def test_a_prompt_longer_than_the_context_keeps_its_end(context: int) -> None:
    long = cmexam_item(CMEXAM["items"][0]["options"], "A", "很长的题干" * 100)
    whole = released.cmexam_prompts([long], Script())[0].text
    (prompt,) = released.cmexam_prompts([long], Script(context=context))
    assert len(prompt.ids) == context - 50 and prompt.truncated
    assert prompt.text == whole[-len(prompt.ids) :] and prompt.text.endswith("答案：")


def test_a_server_s_prompt_is_whole_and_has_no_ids() -> None:
    server = Script(["A"], context=None, tokenizer=None)
    asked = released.ceval_prompts(ITEMS[:1], server, DEV, 5)
    assert (asked[0].text, asked[0].ids) == (CEVAL["prompts"][0], [])
    assert released.ceval_answer(ITEMS[:1], asked, server)[0]["output"] == "答：A"


def test_too_few_examples() -> None:
    with pytest.raises(QilinError, match="has 5 dev examples, fewer than shots = 6"):
        released.ceval_prompts(ITEMS[:1], Script(), DEV, 6)


# --- answers ----------------------------------------------------------------------------------------------------------


def ceval_answers() -> list[dict]:
    first_four = [{letter: OPTIONS[name][letter] for letter in "ABCD"} for name, *_ in CEVAL["rows"]]
    rows = zip(CEVAL["rows"], first_four, strict=True)
    items = [ceval_item({"question": "问", "options": options, "gold": row[2]}) for row, options in rows]
    backend = Script([row[1] for row in CEVAL["rows"]])
    answers = released.ceval_answer(items, released.ceval_prompts(items, backend, DEV, 5), backend)
    assert backend.asked_for == [10]
    return [{"gold": i.gold, "subject": i.subject} | answer for i, answer in zip(items, answers, strict=True)]


def test_ceval_letters_are_the_authors() -> None:
    answers = ceval_answers()
    assert len(answers) >= 300
    read = [[answer["output"], answer["prediction"]] for answer in answers]
    assert read == [row[3:] for row in CEVAL["rows"]]


def test_ceval_accuracy_is_the_authors() -> None:
    table = summarise(ceval.statistics(ceval_answers()), resamples=20, seed=0)
    assert table["subjects"][CEVAL["subject"]]["value"] == pytest.approx(CEVAL["accuracy"], **CLOSE)


def test_an_unknown_gold_letter_is_neither_right_nor_wrong() -> None:
    backend, item = Script(["A"]), ceval_item(CEVAL["items"][0] | {"gold": None})
    (answer,) = released.ceval_answer([item], released.ceval_prompts([item], backend, DEV, 5), backend)
    assert (answer["prediction"], answer["correct"]) == ("A", None)


@pytest.mark.parametrize(
    ("column", "key"),
    [("letters", "prediction"), ("explanation", "explanation"), ("lora_letters", "lora_prediction")]
    + [("lora_explanation", "lora_explanation")],
)
def test_cmexam_readings_are_the_authors(column: str, key: str) -> None:
    place = CMEXAM["columns"].index(column)
    assert [record[key] for record in cmexam_records()] == [row[place] for row in CMEXAM["rows"]]
    assert len(CMEXAM["rows"]) >= 300


def test_letters_in_another_order_are_wrong() -> None:
    backend, item = Script(["BA"]), cmexam_item(OPTIONS["chest"], "AB")
    (answer,) = released.cmexam_answer([item], released.cmexam_prompts([item], backend), backend)
    assert (answer["prediction"], answer["correct"]) == ("BA", False)
    assert (answer["lora_prediction"], backend.asked_for) == ("AB", [50])


# --- arithmetic -------------------------------------------------------------------------------------------------------


REASONING = ["bleu_1", "bleu_4", "rouge_1", "rouge_2", "rouge_l"]


@pytest.mark.parametrize(
    ("part", "metrics"),
    [
        ("", ["accuracy", *REASONING]),
        ("parsed_only", ["accuracy", "f1_weighted"]),
        ("lora", ["accuracy", "f1_weighted", *REASONING]),
    ],
)
def test_cmexam_figures_are_as_its_scripts_count_them(part: str, metrics: list[str]) -> None:
    ours, theirs = ((one[part] if part else one) for one in (cmexam_scores(), CASES["cmexam"]["scores"]))
    assert [ours[name]["value"] for name in metrics] == pytest.approx([theirs[name] for name in metrics], **CLOSE)
    rows = theirs["rows"] if part == "parsed_only" else len(CMEXAM["rows"])
    assert ours["accuracy"]["n"] == rows and (part != "parsed_only" or rows < len(CMEXAM["rows"]))
    assert all(ours[name]["low"] < ours[name]["value"] < ours[name]["high"] for name in metrics)


def test_nothing_parsed_gives_no_figure() -> None:
    record = {"gold": "A", "reference": "因", "correct": False, "prediction": None, "explanation": ""}
    record |= {"lora_prediction": None, "lora_explanation": "无答案"}
    scores = summarise(released.cmexam_statistics([record]), resamples=5, seed=0)
    assert scores["parsed_only"]["f1_weighted"] == {"value": None, "n": 0, "low": None, "high": None}
    assert scores["unparsed"]["value"] == 100


def test_a_refused_prompt_is_an_error_of_its_item() -> None:
    backend = Script([Reply("", ERROR, error="status 400 (filtered)")])
    item = cmexam_item({"A": "甲", "B": "乙"}, "A")
    asked = released.cmexam_prompts([item], backend)
    for (answer,) in (
        released.cmexam_answer([item], asked, backend),
        released.ceval_answer(ITEMS[:1], released.ceval_prompts(ITEMS[:1], backend, DEV, 5), backend),
    ):
        assert (answer["output"], answer["prediction"], answer["correct"]) == ("", None, False)
        assert (answer["finish"], answer["error"]) == (ERROR, "status 400 (filtered)")
