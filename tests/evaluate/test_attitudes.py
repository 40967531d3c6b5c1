"""Constructed models with a known attitude, or none, through the real questions, answers and statistics."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from qilin_lib import params
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import asking, attitude_scores, attitudes, models, scales, store
from qilin_lib.evaluate.answering import answer_all
from qilin_lib.evaluate.benchmarks import attitudes as forms
from qilin_lib.evaluate.replies import Reply
from qilin_lib.evaluate.store import predictions
from qilin_lib.files import read_json, read_jsonl, write_json
from qilin_lib.models.names import describe_run
from qilin_lib.runs import Stage

pytestmark = pytest.mark.slow

MICA = (16, 6, [1, 2, 4, 5, 6, 7, 8, 13, 14, 15])
CAMI = (40, 5, [1, 9, 17, 25, 33, 2, 10, 18, 26, 34, 3, 11, 19, 27, 35, 4, 12, 20, 28, 36])
NUMBER = re.compile(r"说法(\d+)")
Choose = Callable[[int, list[int], str], int]
"""choose(item number, content at each position, prompt text) -> position from 0."""


def write_scale(folder: Path, shape: tuple[int, int, list[int]], name: str = "invented", words: int = 2) -> str:
    items, options, turned = shape
    content = {
        "name": name,
        "title": "Invented",
        "citation": "none",
        "licence": "CC0-1.0",
        "language": "zh",
        "instruction": "是否同意。\n{options}\n{item}",
        "options": [f"内容{n}" for n in range(1, options + 1)],
        "reversed": turned,
        "high_total": "more rejecting",
        "low_total": "more accepting",
        "items": [
            {"number": n, "text": f"说法{n}。", "paraphrases": [f"说法{n}，换第{w}种话。" for w in range(1, words)]}
            for n in range(1, items + 1)
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return str(path)


class Chooser:
    """A model that puts its trust in one label; `writes` turns (label, text) into a reply."""

    likelihood, batch_size, context = True, 16, 10_000

    def __init__(self, name: str, choose: Choose, tokenizer: Any, template: Any, writes: Callable | None = None):
        self.name, self.choose, self.tokenizer, self.template = name, choose, tokenizer, template
        self.writes = writes or (lambda label, text: f"{label}。")

    def _position(self, prompt: Any) -> tuple[int, list[tuple[str, str]]]:
        text = prompt.messages[-1]["content"]
        shown = re.findall(r"^(\w) (内容\d)$", text, re.MULTILINE)
        return self.choose(int(NUMBER.search(text)[1]), [int(option[2:]) for _, option in shown], text), shown

    def choice_logprobs(self, prompts: Sequence[Any], choices: Sequence[str]) -> list[dict[str, float]]:
        chosen = [self._position(prompt)[0] for prompt in prompts]
        return [{label: -0.1 if n == at else -3.0 for n, label in enumerate(choices)} for at in chosen]

    def generate(self, prompts: Sequence[Any], max_new_tokens: int) -> list[Reply]:
        return [Reply(self.writes(*shown[at])) for at, shown in map(self._position, prompts)]

    def fingerprint(self) -> str:
        return self.name


def always(position: int) -> Choose:
    return lambda number, contents, text: position


def holds(content: Callable[[int], int]) -> Choose:
    """Chooses by content, wherever it stands: `content(item number)`."""
    return lambda number, contents, text: contents.index(content(number))


def at_random(number: int, contents: list[int], text: str) -> int:
    return random.Random(text).randrange(len(contents))


@pytest.fixture
def settings() -> SimpleNamespace:
    return SimpleNamespace(
        scales=["example"],
        protocols=["next_token", "generation"],
        option_orders=6,
        labels=["letters", "digits"],
        paraphrases=True,
        max_new_tokens=8,
        bootstrap_resamples=400,
        seed=3,
    )


@pytest.fixture
def ask(tmp_path: Path, settings: SimpleNamespace, tokenizer: Any, template: Any) -> Callable:
    """`ask(shape, {model: choose})` -> scores of an invented scale of that shape."""

    def asked(shape: tuple, choosers: dict[str, Choose], **writes: Callable) -> dict[str, Any]:
        settings.scales = [write_scale(tmp_path, shape)]
        tasks = attitudes.prepare(settings)
        load = {
            name: lambda name=name, choose=choose: Chooser(name, choose, tokenizer, template, writes.get(name))
            for name, choose in choosers.items()
        }
        answer_all(tasks, load, dict.fromkeys(choosers, 0), tmp_path / "out")
        return attitudes.score(tasks, list(choosers), tmp_path / "out", settings)

    return asked


def up(entry: dict[str, Any]) -> set[str]:
    return {name for name, flag in entry["flags"].items() if flag["up"]}


# --- who always answers one letter ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "totals"),
    [(MICA, {"A": 66, "B": 62, "C": 58, "D": 54, "E": 50, "F": 46}), (CAMI, dict.fromkeys("ABCDE", 120))],
    ids=["MICA", "CAMI"],
)
def test_always_the_same_letter_scores_what_arithmetic_says_and_is_flagged(
    ask: Callable, settings: SimpleNamespace, shape: tuple, totals: dict
):
    settings.paraphrases, settings.labels = False, ["letters"]
    scores = ask(shape, {letter: always(n) for n, letter in enumerate(totals)})
    assert scores["scales"]["invented"]["always_same"] == totals
    low, high = scores["scales"]["invented"]["range"]
    assert (low, high) == (shape[0], shape[0] * shape[1])
    for protocol in ("next_token", "generation"):
        for letter, total in totals.items():
            entry = scores["models"][protocol]["invented"][letter]
            assert entry["authors"] == {"value": total, "n": shape[0]}
            assert {"follows_position", "order_decides"} <= up(entry)
            assert entry["flags"]["follows_position"]["value"] == 100
            assert "cannot be read as an attitude" in entry["reading"][1] and "biased" not in " ".join(entry["reading"])
            assert entry["unparsed"]["value"] == 0


# --- who has an attitude, and who has none ----------------------------------------------------------------------------


def rejecting(number: int) -> int:
    return 1 if number in MICA[2] else 6


def accepting(number: int) -> int:
    return 7 - rejecting(number)


@pytest.mark.parametrize("protocol", ["next_token", "generation"])
def test_biased_unbiased_and_random_are_told_apart(ask: Callable, settings: SimpleNamespace, protocol: str):
    settings.protocols = [protocol]
    scores = ask(MICA, {"biased": holds(rejecting), "unbiased": holds(accepting), "random": at_random})
    biased, unbiased, chance = scores["models"][protocol]["invented"].values()
    assert (biased["total"]["value"], unbiased["total"]["value"]) == (96, 16)
    assert up(biased) == up(unbiased) == set()
    assert biased["total"]["low"] > 56 > unbiased["total"]["high"]
    assert "above neutral: more rejecting" in biased["reading"][1]
    assert "below neutral: more accepting" in unbiased["reading"][1]
    assert up(chance) == {"order_decides", "paraphrases_disagree", "labels_disagree"}
    assert chance["total"]["low"] < 56 < chance["total"]["high"]
    assert chance["agreement"]["value"] == pytest.approx(100 / 6, abs=5)
    gaps = {(row["model_a"], row["model_b"]): row for row in scores["paired"]}
    assert gaps["biased", "unbiased"]["difference"] == -80 and gaps["biased", "unbiased"]["high"] < 0
    assert gaps["unbiased", "random"]["low"] > 0


def by_wording(number: int, contents: list[int], text: str) -> int:
    return contents.index(rejecting(number) if "换第" in text else accepting(number))


def by_label(number: int, contents: list[int], text: str) -> int:
    return contents.index(rejecting(number) if "\nA " in text else accepting(number))


@pytest.mark.parametrize(
    ("choose", "orders", "raised", "total", "value"),
    [
        (holds(lambda number: 1), 6, "ignores_direction", 66, -2.5),
        (by_wording, 6, "paraphrases_disagree", 56, 0),
        (by_label, 6, "labels_disagree", 56, 0),
        (holds(rejecting), 1, "order_decides", 96, None),
    ],
)
def test_what_forbids_reading_a_total_is_flagged_alone(
    ask: Callable, settings: SimpleNamespace, choose: Choose, orders: int, raised: str, total: float, value: Any
):
    settings.option_orders, settings.protocols = orders, ["next_token"]
    entry = ask(MICA, {"m": choose})["models"]["next_token"]["invented"]["m"]
    assert up(entry) == {raised} and entry["flags"][raised]["value"] == value
    assert entry["total"]["value"] == total


@pytest.mark.parametrize(("silent", "answered"), [("26", 10), ("12", 6), ("123456", 0)])
def test_replies_that_say_nothing_are_counted_and_never_an_answer(
    ask: Callable, settings: SimpleNamespace, silent: str, answered: int
):
    """Of fewer than half of the items there is no total, and none to compare."""
    settings.protocols = ["generation"]
    writes = dict.fromkeys("mn", lambda label, text: "这很难说。" if text[-1] in silent else text)
    scores = ask(MICA, dict.fromkeys("mn", holds(rejecting)), **writes)
    entry = scores["models"]["generation"]["invented"]["m"]
    assert entry["unparsed"]["value"] == pytest.approx(100 * (16 - answered) / 16) and "often_unread" in up(entry)
    assert entry["authors"] == {"value": None, "n": answered} and entry["total"]["n"] == answered
    few = f"Only {answered} of 16 items have an answer that could be read: too few for a total."
    assert (entry["reading"] == [few]) == (entry["total"]["value"] is None) == (answered < 8)
    (gap,) = scores["paired"]
    assert gap["difference"] == (None if answered < 8 else 0)
    assert answered < 8 or gap["low"] < -5 and gap["high"] > 5, "statements that are all alike leave room for others"


def test_two_statements_have_a_total_and_no_interval(ask: Callable, settings: SimpleNamespace):
    settings.option_orders, settings.protocols = 2, ["next_token"]
    scores = ask((2, 5, [2]), {"a": holds(lambda number: 2), "b": holds(lambda number: 4)})
    entry = scores["models"]["next_token"]["invented"]["a"]
    assert entry["total"] == {"value": 6, "n": 2, "low": None, "high": None}
    assert "the total is 6.0, between 2 and 10 possible" in entry["reading"][0]
    (gap,) = scores["paired"]
    assert gap["difference"] is not None and gap["low"] is gap["high"] is None


# --- the forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", range(2, 8))
def test_orders_are_balanced_over_a_block(options: int):
    block = options if options % 2 == 0 else 2 * options
    found = forms.orders(options, block, seed=5)
    given = tuple(range(1, options + 1))
    assert found[:2] == [given, given[::-1]] == forms.orders(options, 2, seed=9) and len(set(found)) == block
    assert all(set(Counter(column).values()) == {block // options} for column in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("labels", "reply", "expected"),
    [
        ("ABCDE", "B。", "B"),
        ("ABCDE", "不同意", "D"),
        ("ABCDE", "我选择A 非常同意", "A"),
        ("ABCDE", "作为一名医生，我尊重每一位患者。", None),
        ("ABCDE", "B和D", None),
        ("ABCDE", "F", None),
        ("12345", "2", "2"),
        ("12345", "24", None),
        ("12345", "B", None),
        ("12345", "说不清", "3"),
        ("abcde", "(d) 不同意", "d"),
        ("甲乙丙丁戊", "丁、不同意", "丁"),
        ("甲乙丙丁戊", "戊非常不同意", "戊"),
        ("甲乙丙丁戊", "甲状腺功能正常", None),
    ],
)
def test_a_reply_is_read_by_label_or_text_and_nothing_is_assumed(labels: str, reply: str, expected: str | None):
    options = dict(zip(labels, ["非常同意", "同意", "说不清", "不同意", "非常不同意"], strict=True))
    assert forms.read_label(Reply(reply, forced=True), options) == expected


def test_labels_that_are_not_one_token_are_refused_with_those_that_are(
    settings: SimpleNamespace, tokenizer: Any, template: Any
):
    class Splits(type(tokenizer)):
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return super().encode(re.sub(r"(\d)", r"\1 ", text), add_special_tokens)

    class Unknown(type(tokenizer)):
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return super().encode(re.sub(r"[甲乙丙丁戊]", "□", text), add_special_tokens)

    for made, labels in ((Splits(), "digits"), (Unknown(), "heavenly_stems")):
        settings.labels = ["letters", labels]
        task, generation = attitudes.prepare(settings)
        backend = Chooser("m", always(0), made, template)
        with pytest.raises(QilinError, match=rf"bias.labels: '{labels}' .* nearest valid: \['letters', ") as error:
            task.prompts(task.items, backend, 0)
        assert f"'{labels}'" not in str(error.value).partition("nearest valid")[2]
        assert len(generation.prompts(generation.items, backend, 0)) == len(generation.items)


def test_too_few_labels_and_two_scales_of_one_name_are_refused(tmp_path: Path, settings: SimpleNamespace):
    settings.scales, settings.labels = [write_scale(tmp_path, (3, 10, []))], ["letters", "digits"]
    settings.option_orders = 2
    with pytest.raises(QilinError, match=r"'digits' has 9 labels .* 10 options; nearest valid: \['letters', 'lower"):
        attitudes.prepare(settings)
    settings.scales = ["example", write_scale(tmp_path, (3, 4, []), "example")]
    with pytest.raises(QilinError, match="two of them are called 'example'"):
        attitudes.prepare(settings)


# --- a real model, and what is kept -----------------------------------------------------------------------------------


def test_the_interval_holds_the_mean_over_orders_and_items_often_enough():
    """Choices with effects of item and order, and noise: the expected total should be held 95 times in 100."""
    scale = scales.read("example")
    orders = forms.orders(5, 10, seed=1)
    draw, held, times = random.Random(4), 0, 120
    for time in range(times):
        item_effect = {s.number: draw.gauss(0, 0.7) for s in scale.items}
        order_effect = [draw.gauss(0, 0.4) for _ in orders]
        records = []
        for s in scale.items:
            for n, contents in enumerate(orders):
                points = min(5, max(1, round(3 + item_effect[s.number] + order_effect[n] + draw.gauss(0, 1))))
                choice = 6 - points if s.number in scale.reversed else points
                form = {"wording": 0, "order": n, "contents": contents, "labels": "letters", "scoring": "likelihood"}
                own = {"item": s.number, "position": contents.index(choice) + 1, "choice": choice, "points": points}
                records.append(form | own)
        total = attitude_scores.statistics(records, scale, 200, time)["total"]
        held += total["low"] <= 36 <= total["high"]
    assert 0.89 <= held / times <= 1


@pytest.fixture
def make_stage(tmp_path: Path, tiny_model_dir: Path) -> Callable[..., Stage]:
    """`make_stage(name, **overrides)`: notebook 09 of a run whose only model is the tiny base."""

    def make(name: str, up_to_date: bool = False, **overrides: Any) -> Stage:
        run_dir = tmp_path / name
        (run_dir / "02_tokenize").mkdir(parents=True, exist_ok=True)
        base = {"name": "tiny", "parameters": 9, "path": os.path.relpath(tiny_model_dir, run_dir / "02_tokenize")}
        write_json(run_dir / "02_tokenize" / "base.json", base)
        scale = write_scale(tmp_path, (3, 4, [2]))
        small = {"models": ["base"], "scales": [scale], "labels": ["letters"], "option_orders": 2, "max_new_tokens": 2}
        parameters = params.load("09_bias", {**small, "bootstrap_resamples": 100, **overrides})
        stage = Stage(parameters, run_dir, "", {}, up_to_date)
        stage.begin()
        return stage

    return make


def test_the_notebook_s_call_goes_on_after_a_kill_and_is_done_once(
    make_stage: Callable[..., Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stage = make_stage("run", processes=1)
    tasks, load = attitudes.prepare(stage.parameters), models.loaders(stage, "cpu")
    answer_all(tasks, load, {"base": 0}, tmp_path / "undisturbed")
    expected = attitudes.score(tasks, ["base"], tmp_path / "undisturbed", stage.parameters)
    whole, path = (predictions(out, "next_token", "invented", "base") for out in (tmp_path / "undisturbed", stage.dir))
    # What a killed process leaves: a part with its first records, the last line torn.
    part = path.with_suffix(".part0")
    part.parent.mkdir(parents=True)
    lines = whole.read_text(encoding="utf-8").splitlines()
    key = json.dumps({"key": read_json(whole.with_suffix(".key.json"))["key"]})
    part.write_text("\n".join([key, *lines[:5], lines[5][:40]]), encoding="utf-8")
    expected |= {"run": describe_run(stage), "failed": ""}
    written = attitudes.evaluate(stage, lambda text: None)
    assert written == expected | {"accepted": [], "digest": ""} and read_json(stage.dir / "scores.json") == expected
    assert path.read_bytes() == whole.read_bytes() and not part.exists()
    assert {(row["template"], row["scoring"]) for row in read_jsonl(path)} == {("plain", "likelihood")}
    monkeypatch.setattr(asking, "answered", lambda *given: pytest.fail("asked again"))
    assert attitudes.evaluate(make_stage("run", up_to_date=True), lambda text: None) == written


def test_a_baseline_that_names_benchmarks_is_refused(make_stage: Callable[..., Stage]):
    line = {"model": "base", "benchmarks": ["cmexam"]}
    with pytest.raises(QilinError, match=r"bias.baselines.other.benchmarks: .* nearest valid: null"):
        attitudes.evaluate(make_stage("one", baselines={"other": line}), lambda text: None)


def test_a_model_that_failed_at_one_protocol_is_named_though_it_finished_the_other(
    make_stage: Callable[..., Stage], tmp_path: Path
):
    stage = make_stage("run", processes=1)
    first, *others = attitudes.prepare(stage.parameters)
    load = models.loaders(stage, "cpu")
    answer_all([first, *others], load, {"base": 0}, tmp_path)
    answer_all(others, {"gone": load["base"]}, {"gone": 0}, tmp_path)
    store.bill(tmp_path, "gone", lambda: {"requests": 3})()
    scores = attitudes.score([first, *others], ["base", "gone"], tmp_path, stage.parameters, {"gone": "status 401"})
    assert scores["usage"] == {"gone": {"requests": 3}}, "what it has cost"
    assert scores["unfinished"] == {"invented": {"gone": "status 401"}}
    assert [list(scores["models"][task.protocol]["invented"]) for task in (first, *others)] == [
        ["base"],
        ["base", "gone"],
    ]


def test_a_backend_without_probabilities_writes_under_both_protocols(
    settings: SimpleNamespace, tmp_path: Path, template: Any
):
    settings.scales, settings.labels = [write_scale(tmp_path, MICA)], ["letters", "heavenly_stems"]
    server = Chooser("m", holds(rejecting), None, template)
    server.likelihood, server.render = False, lambda messages, prefix: messages[-1]["content"] + prefix
    tasks = attitudes.prepare(settings)
    answer_all(tasks, {"m": lambda: server}, {"m": 0}, tmp_path / "out")
    found = attitudes.score(tasks, ["m"], tmp_path / "out", settings)["models"]
    assert found["next_token"]["invented"]["m"] == found["generation"]["invented"]["m"]
    assert found["next_token"]["invented"]["m"]["scoring"] == "generate"
    assert found["next_token"]["invented"]["m"]["total"]["value"] == 96


def test_answers_belong_to_one_version_of_a_scale(tmp_path: Path, settings: SimpleNamespace):
    keys = []
    for turned in ([2], [2], [1]):
        settings.scales = [write_scale(tmp_path, (3, 5, turned))]
        keys.append(attitudes.prepare(settings)[0].settings["sha256"])
    assert keys[0] == keys[1] != keys[2]
