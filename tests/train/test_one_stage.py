"""One-stage training: passages lose no character as instructions, and stand in the order of priority sampling."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from qilin_lib import files
from qilin_lib.chains import DEFAULT
from qilin_lib.chimed.compose import medical_text, messages
from qilin_lib.chimed.records import Dialogue
from qilin_lib.errors import QilinError
from qilin_lib.schema import OneStage
from qilin_lib.tokens import corpus
from qilin_lib.tokens.pack import load_blocks
from qilin_lib.tokens.template import BAICHUAN, IGNORE, text_ids
from qilin_lib.train import fit, one_stage
from qilin_lib.train import job as jobs
from qilin_lib.train.methods import sft


def limits(max_length: int = 200, source: int = 60, target: int = 60) -> SimpleNamespace:
    return SimpleNamespace(max_source_length=source, max_target_length=target, max_length=max_length, seed=3)


# --- priority sampling ------------------------------------------------------------------------------------------------


def test_everything_stands_in_the_order_once_and_the_seed_decides() -> None:
    weights = [8.0] * 30 + [1.0] * 50 + [0.1] * 20
    first = one_stage.order(weights, 3)
    assert sorted(first) == list(range(100)) and first.tolist() == one_stage.order(weights, 3).tolist()
    assert len({tuple(one_stage.order(weights, seed)) for seed in range(20)}) == 20


@pytest.mark.parametrize("priority", [0.5, 3.0, 16.0])
def test_two_sources_come_as_sampling_without_replacement_says(priority: float) -> None:
    wallenius = pytest.importorskip("scipy.stats").nchypergeom_wallenius
    passages, conversations, trials = 12, 20, 2000
    weights = [priority] * passages + [1.0] * conversations
    places = np.stack([one_stage.order(weights, seed) for seed in range(trials)])
    for drawn in (1, 5, 16, 28):
        exact = wallenius(passages + conversations, passages, drawn, priority)
        found = (places[:, :drawn] < passages).sum(axis=1)
        assert found.mean() == pytest.approx(exact.mean(), abs=4.5 * exact.std() / trials**0.5)
        assert found.var() == pytest.approx(exact.var(), rel=0.15, abs=0.01)
    rank = np.argsort(places, axis=1)
    earlier = (rank[:, :passages, None] < rank[:, None, passages:]).mean()
    assert earlier == pytest.approx(priority / (priority + 1), abs=0.01), "w / (w + 1) for every pair"


def test_sources_have_weights_of_their_own() -> None:
    settings = OneStage(priority=8.0, priorities={"book": 4.0}).model_dump()
    assert one_stage.weights(["qa", "book", "qa"], settings).tolist() == [8.0, 4.0, 8.0]
    with pytest.raises(QilinError, match=r"one_stage.priorities: 'bok' is no source .* \(did you mean 'book'\?\)"):
        one_stage.weights(["qa", "book"], {"priority": 8.0, "priorities": {"bok": 4.0}})
    for wrong in ({"priority": 0.0}, {"priority": float("inf")}, {"priority": 1.0, "priorities": {"a": -1.0}}, {}):
        with pytest.raises(ValidationError):
            OneStage(**wrong)


# --- passages as instructions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [("咳嗽\n三天", "多喝水"), ("头痛", "多久了？", "三天", "休息"), ("甲", "乙", "丙")])
def test_a_dialogue_is_found_again_in_the_text_that_01_made_of_it(turns: tuple[str, ...]) -> None:
    text = medical_text(Dialogue(turns))
    assert one_stage.conversation(text, messages(turns)) == messages(turns)
    if len(turns) > 2:
        assert one_stage.conversation(text, None) == one_stage.conversation(text, messages(turns[:2]))
        assert one_stage.conversation(text, None) == messages(turns)


@pytest.mark.parametrize("turns", [("咳嗽三天", "多喝水"), ("头痛", "多久了？", "三天", "休息")])
def test_a_system_text_stands_before_each_part_of_its_dialogue(turns: tuple[str, ...], tiny_tokenizer: Any) -> None:
    told = messages(turns, "你是药师。")
    assert one_stage.conversation(medical_text(Dialogue(turns, "你是药师。")), told) == told
    room = len(BAICHUAN.encode([*told[:3]], tiny_tokenizer)) + 2
    limits = SimpleNamespace(max_source_length=50, max_target_length=50, max_length=room)
    parts = one_stage.exchanges(told, BAICHUAN, tiny_tokenizer, limits)
    assert parts == [[told[0], *told[at : at + 2]] for at in range(1, len(told), 2)]


@pytest.mark.parametrize(
    "text",
    ["感冒\n多喝水", "患者：头痛", "医生：您好\n患者：头痛", "患者：头\n患者：痛", "注：\n患者：头\n医生：痛", ""],
)
def test_what_nobody_asks_and_answers_is_no_conversation(text: str) -> None:
    assert one_stage.conversation(text, None) is None


@pytest.mark.slow
def test_pieces_fit_and_lose_nothing(tiny_tokenizer: Any, sentences: Callable) -> None:
    draw = random.Random(4)
    texts = ["".join(draw.choices([*sentences(20, 6), "无标点" * 9, "\n", "“好。”", "𠮷"], k=9)) for _ in range(40)]
    cut = [one_stage.pieces(text, tiny_tokenizer, 20) for text in texts]
    assert ["".join(parts) for parts in cut] == texts
    assert all(len(text_ids(tiny_tokenizer, part)) <= 20 for parts in cut for part in parts)
    assert one_stage.pieces("头痛。", tiny_tokenizer, 20) == ["头痛。"]
    quoted = "医生说：“头痛。”休息三天后好转"
    assert one_stage.pieces(quoted, tiny_tokenizer, len(text_ids(tiny_tokenizer, quoted)) - 1)[0] == "医生说：“头痛。”"


BOOK = "03-内科\n内科常见病\n第一节 肺炎\n【概述】肺炎是感染。\n【治疗】用抗生素。\n第二节 胃痛\n【概述】胃痛很常见。"


@pytest.mark.parametrize(
    ("text", "start", "subject"),
    [
        (BOOK, 0, "内科"),
        (BOOK, BOOK.index("第一节"), "肺炎"),
        (BOOK, BOOK.index("【治疗】"), "肺炎"),
        (BOOK, BOOK.index("\n第二节"), "胃痛"),
        ("高血压\n治疗时长：长期", 0, "高血压"),
        ("血压高怎么办？\n低盐", 0, ""),
        ("高血压", 0, ""),
        ("高" * 31 + "\n低盐", 0, ""),
    ],
)
def test_the_subject_is_what_the_record_names(text: str, start: int, subject: str) -> None:
    assert one_stage.subject_of(text, start) == subject


def test_instructions_state_title_and_headings_or_the_opening(tiny_tokenizer: Any) -> None:
    draw = random.Random(1)
    asked = {one_stage.instruction(BOOK, 12, BOOK[BOOK.index("【概") : BOOK.index("第二")], draw) for _ in range(40)}
    assert asked == {form.format(subject="肺炎", headings="概述、治疗") for form in one_stage.PHRASES["about_headings"]}
    plain = {one_stage.instruction("高血压\n应当低盐。", 0, "应当低盐。", draw) for _ in range(40)}
    assert plain == {form.format(subject="高血压") for form in one_stage.PHRASES["about_subject"]}
    opened = {one_stage.instruction("", 0, "\n血压偏高需要复查，不必担心。", draw) for _ in range(40)}
    assert opened == {form.format(opening="血压偏高需要复查") for form in one_stage.PHRASES["from_opening"]}
    many = one_stage.instruction("感冒\n甲：一", 0, "甲：一\n乙：二\n丙：三\n丁：四\n戊：五", draw)
    assert "甲、乙、丙、丁等" in many and "戊" not in many


def test_a_passage_is_answered_character_for_character(tiny_tokenizer: Any) -> None:
    row, settings = {"id": "b-1", "text": BOOK * 3}, limits(target=16)
    made = one_stage.instructed(row, tiny_tokenizer, settings)
    assert "".join(answer["content"] for _, answer in made) == row["text"] and len(made) > 3
    assert all(one_stage.CONTINUED == asked["content"][:5] for asked, _ in made[1:]) and made[0] != made[1]
    assert one_stage.instructed(row, tiny_tokenizer, settings) == made
    settings.seed = 4
    assert one_stage.instructed(row, tiny_tokenizer, settings) != made


def test_conversations_are_cut_between_exchanges_and_long_answers_go_on(tiny_tokenizer: Any) -> None:
    turns = messages(("头痛三天", "多喝水。" * 40, "还有恶心", "休息", "谢谢", "不客气"))
    settings = limits(max_length=90)
    parts = one_stage.exchanges(turns, BAICHUAN, tiny_tokenizer, settings)
    flat = list(itertools.chain(*parts))
    assert "".join(turn["content"] for turn in flat if turn["role"] == "assistant") == "多喝水。" * 40 + "休息不客气"
    once = [turn["content"] for turn in flat if turn["role"] == "user" and not turn["content"].startswith("接着上文")]
    assert once == ["头痛三天", "还有恶心", "谢谢"]
    for part in parts:
        whole = BAICHUAN.encode_with_labels(part, tiny_tokenizer)
        assert sft.encode(part, BAICHUAN, tiny_tokenizer, settings) == whole, "nothing of it is cut"
    assert len(parts) > 1 and one_stage.exchanges(turns, BAICHUAN, tiny_tokenizer, limits(4000)) == [flat]


def test_what_would_be_cut_or_unanswered_is_no_conversation(tiny_tokenizer: Any) -> None:
    fits = messages(("头痛", "休息", "恶心"))
    assert one_stage.exchanges(fits, BAICHUAN, tiny_tokenizer, limits()) == [fits]
    length = len(BAICHUAN.encode(fits, tiny_tokenizer))
    assert one_stage.exchanges(fits, BAICHUAN, tiny_tokenizer, limits(length - 1)) is None
    assert one_stage.exchanges(messages(("头痛" * 90, "休息")), BAICHUAN, tiny_tokenizer, limits()) is None


# --- the documents of DCPT --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tiny_tokenizer: Any, sentences: Callable, tmp_path_factory: Any) -> Callable[..., SimpleNamespace]:
    """`folders(max_cpt_tokens, replay_share)`: 01's files, and what 02 makes of them, in folders of their own."""
    texts, chimed = sentences(60, 21), tmp_path_factory.mktemp("chimed")
    split = lambda n: "heldout" if n % 7 == 0 else "train"  # noqa: E731
    row = lambda source, n: {"id": f"{source}-{n}", "source": source, "split": split(n)}  # noqa: E731
    talks = {n: messages((texts[n], texts[-n])) for n in range(1, 25)}
    book = [row("book", n) | {"text": f"病{n}\n" + "".join(texts[n : n + 4]), "type": "text"} for n in range(1, 9)]
    qa = [row("qa", n) | {"text": "\n".join((texts[n], texts[-n])), "type": "qa"} for n in range(1, 25)]
    # SFT holds out another share than CPT: these are trained as text in one and held out in the other.
    said = [row("qa", n) | {"messages": talk, "part": "medical"} for n, talk in talks.items()]
    for n in (3, 5, 9, 11, 17, 19):
        said[n - 1]["split"] = "heldout"
    general = [row("talk", n) | {"text": f"闲谈{n}，{texts[-n]}", "type": "general"} for n in range(1, 20)]
    for name, rows in {"cpt": book + qa, "sft": said, "dpo": [], "general": general}.items():
        files.write_jsonl(chimed / f"{name}.jsonl", rows)

    def make(max_cpt_tokens: int | None = 900, replay_share: float = 0.0) -> SimpleNamespace:
        tokens = tmp_path_factory.mktemp("tokens")
        settings = {"max_cpt_tokens": max_cpt_tokens, "replay_share": replay_share, "seed": 17, "base": "tiny"}
        parameters = SimpleNamespace(**settings, block_size=64, packing="isolated")
        corpus.tokenise(chimed, tokens, tiny_tokenizer, parameters)
        return SimpleNamespace(chimed=chimed, tokens=tokens, data=chimed / "sft.jsonl")

    return make


@pytest.mark.parametrize(("most", "share"), [(None, 0.0), (900, 0.0), (900, 0.25)])
def test_the_documents_are_those_that_02_packed(
    most: int | None, share: float, folders: Callable, tiny_tokenizer: Any
) -> None:
    paths = folders(most, share)
    taken = list(one_stage.documents(paths.chimed, paths.tokens))
    blocks = load_blocks(paths.tokens / "cpt_train.npy")
    ends = np.flatnonzero(blocks.ids.ravel() == tiny_tokenizer.eos_token_id)[: len(taken)]
    packed = [ids.tolist() for ids in np.split(blocks.ids.ravel()[: ends[-1] + 1], ends[:-1] + 1)]
    expected = [[*text_ids(tiny_tokenizer, row["text"]), tiny_tokenizer.eos_token_id] for row, _ in taken]
    assert sorted(packed) == sorted(expected) and len(taken) < 54
    assert [len(ids) - 1 for ids in expected] == [tokens for _, tokens in taken]
    assert {row["source"] for row, _ in taken} == {"book", "qa"} | ({"talk"} if share else set())


@pytest.fixture
def job(folders: Callable, tiny_model_dir: Path, training: Callable, tmp_path: Path) -> SimpleNamespace:
    parameters = training(
        "04_sft", one_stage={"priority": 6.0}, max_steps=-1, max_source_length=60, max_target_length=60,
        max_length=140, lora_dropout=0.1, save_steps=2, per_device_train_batch_size=8, max_heldout=2,
    )  # fmt: skip
    paths = SimpleNamespace(weights=tiny_model_dir, **vars(folders()))
    return SimpleNamespace(parameters=parameters, out=tmp_path, template=BAICHUAN, paths=paths)


def test_every_passage_is_used_and_counted(job: SimpleNamespace, tiny_tokenizer: Any) -> None:
    rows, counts = one_stage.passages(job, tiny_tokenizer)
    packed = files.read_json(job.paths.tokens / "packing.json")
    total = {name: sum(count[name] for count in counts.values()) for name in one_stage.COUNTS}
    assert (total["documents"], total["document_tokens"]) == (packed["documents"], packed["tokens"])
    assert all(count["documents"] == count["conversations"] + count["instructed"] for count in counts.values())
    assert counts["book"]["conversations"] == 0 and counts["qa"]["instructed"] == counts["qa"]["held_out"] > 0
    assert Counter(row["source"] for row in rows) == {source: count["examples"] for source, count in counts.items()}
    made, kept = sft.examples(rows, [1] * len(rows), BAICHUAN, tiny_tokenizer, job.parameters)
    assert len(made) == len(rows) == sum(count["used"] for count in kept.values())
    assert one_stage.measured(made)["assistant_tokens"] == sum((labels != IGNORE).sum() for _, labels in made)


def test_a_conversation_that_sft_holds_out_is_never_seen_as_one(job: SimpleNamespace, tiny_tokenizer: Any) -> None:
    held = [row["messages"] for row in files.read_jsonl(job.paths.data) if row["split"] == "heldout"]
    rows, _ = one_stage.passages(job, tiny_tokenizer)
    seen = [row["messages"] for row in rows]
    assert held and not any(talk in seen for talk in held)
    trained = [row["messages"] for row in files.read_jsonl(job.paths.data) if row["split"] == "train"]
    assert any(talk in seen for talk in trained)


# --- profile and start ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("priority", "start"), [(None, "03_dcpt"), (8.0, "02_tokenize")])
def test_one_stage_starts_from_the_base_model(priority: float | None, start: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(fit, "weights_of", lambda stage, parent: Path(parent))
    monkeypatch.setattr(jobs, "train_stage", lambda stage, method, paths: paths)
    parameters = SimpleNamespace(one_stage=priority and OneStage(priority=priority), chain=DEFAULT)
    paths = sft.train(SimpleNamespace(parameters=parameters, name="04_sft", parent=Path))
    assert paths["weights"] == Path(start) and ("chimed" in paths) == bool(priority)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_goes_in_the_order_and_its_facts_compare(job: SimpleNamespace, monkeypatch: Any) -> None:
    batches: list[Any] = []
    areas: list[int] = []
    collate = sft.collate

    def watched(batch: Any, **rest: Any) -> Any:
        batches.append(batch)
        made = collate(batch, **rest)
        areas.append(made["input_ids"].numel())
        return made

    monkeypatch.setattr(sft, "collate", watched)
    monkeypatch.setitem(job.parameters.one_stage, "sft_epochs", 2)
    sft.work(job)
    facts = files.read_json(job.out / "facts.json")
    _, tokenizer = fit.prepare_model(job.parameters, job.paths.weights)
    rows = [row for row in files.read_jsonl(job.paths.data) if row["split"] == "train"]
    said, _ = sft.examples(rows, [2] * len(rows), BAICHUAN, tokenizer, job.parameters)
    expected, more = sft.with_passages(job, tokenizer, said)
    fed = [ids.tolist() for batch in batches for ids, _ in batch]
    assert fed == [ids.tolist() for ids, _ in expected], "passages once, conversations twice, none moved by a sampler"
    assert facts["one_stage"] == more["one_stage"] and facts["tokens_input"] == sum(areas)
    assert (
        facts["examples"] == len(fed) == sum(facts["one_stage"][p]["examples"] for p in ("passages", "conversations"))
    )
    packed = files.read_json(job.paths.tokens / "packing.json")
    table = {name: (two, one) for name, two, one in one_stage.compare_tokens(packed, facts)}
    assert table["their tokens"] == (packed["tokens"],) * 2 and table["documents of DCPT"] == (packed["documents"],) * 2
    assert table["all tokens that enter the model"][1] == sum(map(len, fed))
    assert table["all tokens with loss"][1] == facts["assistant_tokens"]
    added = table["tokens that the form adds to them"][1]
    assert (
        added
        == table["all tokens that enter the model"][1]
        - packed["tokens"]
        - more["one_stage"]["conversations"]["input_tokens"]
    )


def test_a_unified_passage_is_learned_as_its_question_and_answer(
    job: SimpleNamespace, tiny_tokenizer: Any, training: Callable, tmp_path: Path
) -> None:
    texts = [row["id"] for row in files.read_jsonl(job.paths.chimed / "cpt.jsonl") if row["source"] == "book"]
    taken = {row["id"] for row, _ in one_stage.documents(job.paths.chimed, job.paths.tokens)}
    mine = next(name for name in texts if name in taken)
    rows = [{"id": name, "question": f"{name}是什么？", "answer": "要休息。"} for name in (mine, "elsewhere-1")]
    files.write_jsonl(tmp_path / "unified.jsonl", rows)
    without, before = one_stage.passages(job, tiny_tokenizer)
    job.parameters.one_stage["unified"] = str(tmp_path / "unified.jsonl")
    found, counts = one_stage.passages(job, tiny_tokenizer)
    wanted = messages((f"{mine}是什么？", "要休息。"))
    assert wanted in [row["messages"] for row in found] and wanted not in [row["messages"] for row in without]
    assert counts["book"]["unified"] == 1 and before["book"]["unified"] == counts["qa"]["unified"] == 0
    assert counts["book"]["instructed"] == before["book"]["instructed"]
