"""Named entities: F1 against scikit-learn, seqeval's numbers and a count of tags of its own; the task as a whole."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.replies import StandIn

from qilin_lib import sample
from qilin_lib.evaluate.answering import answer_all
from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.evaluate.benchmarks import ner, prepare
from qilin_lib.evaluate.entities import NAMES, gold, read, types_of
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.replies import Reply
from qilin_lib.evaluate.run import score
from qilin_lib.evaluate.scores import summarise
from qilin_lib.evaluate.store import predictions
from qilin_lib.files import read_jsonl

TYPES = {"dis": "疾病", "sym": "临床表现", "dru": "药物", "ite": "医学检验项目"}
TEXT = "患者咳嗽、发热三天，诊断为支气管肺炎，予青霉素和头孢治疗，17-羟孕酮升高，仍咳嗽。"
COUGH = ("sym", "咳嗽", 2, 4)


# --- scores -----------------------------------------------------------------------------------------------------------


def item(name: str, text: str, entities: Sequence[tuple[str, str, int, int]]) -> Item:
    return Item("cmeee", name, "dev", None, text, None, None, json.dumps(entities, ensure_ascii=False))


def record(of: Item, output: str, types: dict[str, str]) -> dict:
    return {"reference": of.reference, "output": output} | ner.understood(of, output, types)


def reply_of(pairs: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{NAMES.get(kind, kind)}：{mention}" for kind, mention in pairs) or "无"


def table(records: Sequence[dict], types: Sequence[str]) -> dict:
    return summarise(ner.statistics(records, tuple(types)), resamples=100, seed=5)


def test_scores_counted_by_hand() -> None:
    first = item("1", TEXT, [COUGH, ("sym", "咳嗽", 39, 41), ("dis", "支气管肺炎", 13, 18)])
    second, third = item("2", TEXT, [("dru", "青霉素", 20, 23), ("dru", "头孢", 24, 26)]), item("3", TEXT, [])
    outputs = ["临床表现：咳嗽\n疾病：肺结核\n病名：支气管肺炎", "药物：青霉素", "说不清。"]
    records = [record(i, output, TYPES) for i, output in zip((first, second, third), outputs, strict=True)]
    scores = table(records, TYPES)
    # Right 咳嗽 and 青霉素; four predicted (one absent, one of an unknown type); four annotated, 咳嗽 once.
    assert [scores[name]["value"] for name in ("precision", "recall", "f1")] == [50, 50, 50]
    assert scores["unparsed"]["value"] == pytest.approx(100 / 3) and scores["f1"]["n"] == 3
    # Places: both 咳嗽 and 青霉素 of five predicted and five annotated.
    assert scores["spans"]["f1"]["value"] == pytest.approx(60)
    assert [scores["types"][kind]["f1"]["value"] for kind in TYPES] == [0, 100, pytest.approx(200 / 3), None]
    assert scores["types"]["dru"]["f1"]["n"] == 1 and scores["types"]["ite"]["f1"]["n"] == 0
    shares = {"parsed": 40, "unknown_type": 20, "not_in_text": 20, "none": 0, "unreadable": 20}
    assert {kind: summary["value"] for kind, summary in scores["lines"].items()} == pytest.approx(shares)


def test_a_model_that_names_nothing_scores_zero_and_not_nan() -> None:
    entities = [("sym", "咳嗽", 2, 4)]
    scores = table(
        [record(item(str(n), TEXT, entities), output, TYPES) for n, output in enumerate(["", "无", "x"])], TYPES
    )
    assert [scores[name]["value"] for name in ("precision", "recall", "f1")] == [0, 0, 0]
    assert scores["unparsed"]["value"] == pytest.approx(200 / 3)
    assert [summary["value"] for summary in scores["lines"].values()] == [0, 0, 0, 50, 50]
    assert table([], TYPES)["f1"] == {"value": None, "n": 0, "low": None, "high": None}


def corrupted(items: Sequence[Item], types: dict[str, str], seed: int) -> list[dict]:
    """Replies made of the gold with a third lost, some of another type, some cut short and some invented."""
    dice, records = random.Random(seed), []
    for i in items:
        pairs = []
        for kind, mention, _, _ in gold(i.reference):
            fate = dice.random()
            if fate < 0.2:
                kind = dice.choice(list(types))
            elif fate < 0.3:
                mention = mention[: max(1, len(mention) - 1)]
            elif fate < 0.35:
                mention = f"{mention}症甲"
            if dice.random() < 0.67:
                pairs.append((kind, mention))
        records.append(record(i, reply_of(dice.sample(pairs, len(pairs))), types))
    return records


def sklearn_scores(records: Sequence[dict], kinds: Sequence[str] | None = None) -> list[float]:
    """Micro precision, recall and F1 of indicator columns, one a (type, mention), in percent."""
    from sklearn.metrics import precision_recall_fscore_support
    from sklearn.preprocessing import MultiLabelBinarizer

    def chosen(pairs: Sequence[Sequence[str]]) -> set[tuple[str, str]]:
        return {(pair[0], pair[1]) for pair in pairs if kinds is None or pair[0] in kinds}

    truth = [chosen(json.loads(record["reference"])) for record in records]
    guess = [chosen(record["predicted"]) for record in records]
    binarizer = MultiLabelBinarizer(sparse_output=True).fit([*truth, *guess])
    return [
        100 * float(value)
        for value in precision_recall_fscore_support(
            binarizer.transform(truth), binarizer.transform(guess), average="micro", zero_division=0
        )[:3]
    ]


def bio(length: int, spans: Sequence[tuple[str, int, int]]) -> list[str]:
    tags = ["O"] * length
    for kind, begin, end in spans:
        tags[begin:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - begin - 1)]
    return tags


def bio_f1(truth: Sequence[list[str]], guess: Sequence[list[str]]) -> float:
    """Micro F1 in percent of chunks, read from the tags alone: a chunk is B-x and the I-x after it (strict IOB2)."""

    def chunks(tags: list[str]) -> set[tuple[str, int, int]]:
        coded = "".join({"B": "b", "I": "i", "O": "o"}[tag[0]] for tag in tags)
        return {(tags[found.start()][2:], *found.span()) for found in re.finditer("bi*", coded)}

    pairs = [(chunks(t), chunks(g)) for t, g in zip(truth, guess, strict=True)]
    right = sum(len(t & g) for t, g in pairs)
    return 100 * 2 * right / sum(len(t) + len(g) for t, g in pairs)


def flat(spans: Sequence[tuple[str, int, int]]) -> bool:
    """Whether tags can hold them: all inside the text, none over another."""
    placed = sorted((begin, end) for _, begin, end in spans)
    return all(begin >= 0 for begin, _ in placed) and all(a[1] <= b[0] for a, b in pairwise(placed))


def tagged(items: Sequence[Item], records: Sequence[dict]) -> tuple[list[dict], list[list[str]], list[list[str]]]:
    """Records that tags can hold, and the tags of gold and reply."""
    kept, truth, guess = [], [], []
    for i, row in zip(items, records, strict=True):
        spans = {(kind, begin, end) for kind, _, begin, end in gold(i.reference)}
        mine = {tuple(span) for span in row["located"]}
        if flat(list(spans)) and flat(list(mine)):
            kept.append(row)
            truth.append(bio(len(i.question), sorted(spans)))
            guess.append(bio(len(i.question), sorted(mine)))
    return kept, truth, guess


# --- the real file ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> tuple[list[Item], dict[str, str]]:
    """CMeEE-V2's public dev file and its types."""
    raw = os.environ.get("QILIN_RAW_DIR")
    if not raw or not (Path(raw) / "cmeee_v2").is_dir():
        pytest.skip("QILIN_RAW_DIR is not set, or has no cmeee_v2: the public CMeEE-V2 file is not in the repository")
    _, (items, invalid) = read("cmeee", Path(raw) / "cmeee_v2")
    assert not invalid
    return items, types_of(items)


def test_real_gold_as_reply_scores_exactly_one_hundred(real: tuple) -> None:
    items, types = real
    records = [record(i, reply_of([(k, m) for k, m, _, _ in gold(i.reference)]), types) for i in items]
    scores = table(records, types)
    assert [scores[name]["value"] for name in ("f1", "precision", "recall", "unparsed")] == [100, 100, 100, 0]
    assert {kind: entry["f1"]["value"] for kind, entry in scores["types"].items()} == dict.fromkeys(NAMES, 100)
    # Places cannot be named in the asked form: 5,411 found and 524 more, as `located` says.
    assert scores["spans"]["recall"]["value"] == 100
    assert scores["spans"]["f1"]["value"] == pytest.approx(100 * 2 * 5411 / (5411 + 5935))
    spans = [row | {"located": [(k, b, e) for k, _, b, e in gold(row["reference"])]} for row in records]
    assert table(spans, types)["spans"]["f1"]["value"] == 100


def test_corrupted_real_replies_equal_sklearn_and_the_count_of_tags(real: tuple) -> None:
    items, types = real
    records = corrupted(items, types, seed=11)
    scores = table(records, types)
    assert [scores[name]["value"] for name in ("precision", "recall", "f1")] == pytest.approx(sklearn_scores(records))
    assert 40 < scores["f1"]["value"] < 80 and scores["f1"]["low"] < scores["f1"]["value"] < scores["f1"]["high"]
    for kind in types:
        values = [scores["types"][kind][name]["value"] for name in ("precision", "recall", "f1")]
        assert values == pytest.approx(sklearn_scores(records, [kind])), kind
    kept, truth, guess = tagged(items, records)
    strict = table(kept, types)["spans"]["f1"]["value"]
    assert strict == pytest.approx(bio_f1(truth, guess))
    # seqeval 1.2.2 (no part of the lock), f1_score(mode="strict", scheme=IOB2), gave this for these tags.
    assert len(kept) == 548 and strict == pytest.approx(57.34265734265734)


# --- the task ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raw() -> Path:
    return sample.raw_dir()


@pytest.fixture
def asked(params: SimpleNamespace) -> SimpleNamespace:
    more = {
        "max_items_further": 5,
        "max_new_tokens_ner": 12,
        "further_benchmarks": ["cmeee", "ccks2019"],
        "benchmarks": [],
    }
    return SimpleNamespace(**vars(params) | more)


def test_a_long_text_loses_its_beginning_and_never_the_instruction(template: Any, tokenizer: Any) -> None:
    backend = SimpleNamespace(tokenizer=tokenizer, template=template, context=230)
    task = ner.Entities("cmeee", "fixed", "dev", None, [], [], {"max_new_tokens": 10}, TYPES)
    prompt = task.prompts([item("1", "甲" * 200 + "末尾", [])], backend, 0)[0]
    assert prompt.truncated and len(prompt.ids) == 220
    assert prompt.messages[0]["content"].startswith("请找出") and prompt.messages[0]["content"].endswith("甲末尾")


def test_perfect_and_random_models_from_records_to_scores(
    raw: Path, asked: SimpleNamespace, tiny_llama: Any, tokenizer: Any, template: Any, tmp_path: Path
) -> None:
    tasks = prepare(raw, asked)
    replies = {i.question: reply_of([(k, m) for k, m, _, _ in gold(i.reference)]) for t in tasks for i in t.items}
    models = {
        # A server that answers every text with its entities.
        "perfect": lambda: StandIn(lambda prompt: Reply(replies[prompt.messages[-1]["content"].split("文本：")[1]])),
        "random": lambda: TransformersBackend(tiny_llama(0), tokenizer, template, 4, "cpu"),
    }
    answer_all(tasks, models, dict.fromkeys(models, 5), tmp_path)
    scores = score(tasks, {task.name: list(models) for task in tasks}, tmp_path, asked)
    assert scores == json.loads(json.dumps(scores))
    for task in tasks:
        assert scores[task.name]["perfect"]["f1"]["value"] == 100 and scores["split"][task.name] == task.split
        assert scores[task.name]["random"]["f1"]["value"] == 0 and scores["invalid"][task.name] == 1
        failures = {"unparsed", "cut", "error"}
        assert set(scores[task.name]["random"]) == {"f1", "precision", "recall", "spans", "types", "lines"} | failures
        for row in read_jsonl(predictions(tmp_path, "fixed", task.name, "random")):
            assert {"output", "predicted", "located", "lines", "unparsed", "reference"} <= set(row)


def test_spans_equal_seqeval_strict_on_flat_texts() -> None:
    a = item(
        "1", "咳嗽发热，诊断支气管肺炎。", [("sym", "咳嗽", 0, 2), ("sym", "发热", 2, 4), ("dis", "支气管肺炎", 7, 12)]
    )
    b = item("2", "予青霉素和头孢。", [("dru", "青霉素", 1, 4), ("dru", "头孢", 5, 7)])
    outputs = ["临床表现：咳嗽\n临床表现：发热\n疾病：肺炎", "药物：青霉素\n疾病：头孢"]
    records = [record(i, output, TYPES) for i, output in zip((a, b), outputs, strict=True)]
    _, truth, guess = tagged([a, b], records)
    value = table(records, TYPES)["spans"]["f1"]["value"]
    # seqeval 1.2.2 of these tags, mode="strict", scheme=IOB2, gives 0.6: two adjacent symptoms are two chunks.
    assert value == pytest.approx(60) and value == pytest.approx(bio_f1(truth, guess))
