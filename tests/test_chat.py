"""Chatting with a stage: the same words as evaluation would get, several turns, and an end without a traceback."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.replies import texts

from qilin_lib import chains, chat
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import conversation, prompts
from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.evaluate.prompts import Prompt
from qilin_lib.files import write_json, write_jsonl, write_text
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.report import case_study, chat_box
from qilin_lib.runs import Run
from qilin_lib.tokens.template import PLAIN

TALK = ["头痛伴恶心，请问医生这是什么病", "可以服用奥美拉唑", "CT检查"]

MANIFEST = {"key": "k", "digest": "d", "inputs": {}, "outputs": {}, "parameters": {"profile": "smoke"}}


@pytest.fixture(scope="module")
def trained(tiny_model_dir: Path) -> Iterator[Any]:
    """The tiny model in the template that the run below was trained with; it says much the same to everything."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield TransformersBackend(load_model(tiny_model_dir), load_tokenizer(tiny_model_dir), PLAIN, 4, "cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def backend(trained: Any) -> Any:
    """A random model of the same shape, whose every token depends on every one before it; broken characters abound."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**trained.model.config.to_dict() | {"initializer_range": 0.5})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return TransformersBackend(LlamaForCausalLM(config), trained.tokenizer, PLAIN, 4, "cpu")


@pytest.fixture
def run(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose SFT has finished, with the tiny model as its weights."""
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    folder = tmp_path / "night"
    shutil.copytree(tiny_model_dir, folder / "04_sft" / "model")
    write_json(folder / "04_sft" / "manifest.json", MANIFEST)
    write_json(folder / "02_tokenize" / "base.json", {"name": "tiny", "parameters": 2_263_296})
    write_json(folder / "04_sft" / "facts.json", {"template": "plain", "template_sha256": PLAIN.sha256})
    return folder


def evaluated(backend: Any, messages: list[dict[str, str]], new_tokens: int) -> str:
    """What notebook 06 would get for these messages."""
    ids = backend.template.encode(messages, backend.tokenizer, add_generation_prompt=True)
    return texts(backend.generate([Prompt(messages, "", ids, "", 0, False)], new_tokens))[0]


@pytest.mark.slow
def test_a_greedy_answer_is_what_evaluation_gets_for_the_same_messages(backend: Any) -> None:
    talk, messages, pieces = conversation.Chat(backend, max_new_tokens=40), [], []
    for text in TALK:
        messages.append({"role": "user", "content": text})
        expected = evaluated(backend, messages, 40)
        assert talk.say(text, pieces.append) == (expected, 0)
        messages.append({"role": "assistant", "content": expected})
    answers = [message["content"] for message in messages[1::2]]
    assert talk.messages == messages and len(set(answers)) == 3, "it does not listen: the test shows nothing"
    assert "".join(pieces) == "".join(answers) and len(pieces) > 30


def test_earlier_turns_matter_and_reset_forgets_them(backend: Any) -> None:
    talk = conversation.Chat(backend, max_new_tokens=40)
    alone = talk.say(TALK[1])[0]
    talk.reset()
    talk.say(TALK[0])
    assert talk.say(TALK[1])[0] != alone
    talk.reset()
    assert talk.say(TALK[1])[0] == alone


def test_the_oldest_turns_go_first_and_their_number_is_said(backend: Any) -> None:
    talk = conversation.Chat(backend, max_new_tokens=100)
    forgotten = [talk.say(f"{text}，" * 12)[1] for text in TALK * 2]
    assert forgotten[0] == 0 and any(forgotten) and all(number % 2 == 0 for number in forgotten)
    ids = backend.template.encode(talk.messages[:-1], backend.tokenizer, add_generation_prompt=True)
    assert len(ids) + 100 <= backend.context and talk.messages[0]["role"] == "user"
    # One turn more would not have fitted: no more was forgotten than had to be.
    kept = len(talk.messages)
    assert kept == 2 * 6 - sum(forgotten)


def test_a_message_longer_than_the_context_is_refused_and_nothing_lost(backend: Any) -> None:
    talk = conversation.Chat(backend, max_new_tokens=100)
    talk.say(TALK[0])
    before = list(talk.messages)
    with pytest.raises(QilinError, match=r"this message has \d+ tokens, .* leaves 412 beside 100 new ones"):
        talk.say("头痛" * 2000)
    assert talk.messages == before


def test_sampling_follows_the_seed_and_a_narrow_nucleus_is_greedy(backend: Any) -> None:
    def said(temperature: float, top_p: float, seed: int) -> str:
        return conversation.Chat(backend, conversation.Sampling(temperature, top_p, seed), 30).say(TALK[0])[0]

    assert said(1.5, 1.0, 1) == said(1.5, 1.0, 1)
    assert len({said(1.5, 1.0, seed) for seed in range(4)}) == 4
    assert said(1.0, 1e-6, 5) == said(0.0, 1.0, 0)


def session(backend: Any, lines: list[Any]) -> str:
    """Everything shown in a session whose reader types `lines`; an exception among them is raised instead."""
    shown: list[str] = []
    typed = iter([*lines, EOFError()])

    def read(prompt: str) -> str:
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    conversation.converse(conversation.Chat(backend, max_new_tokens=8), read, shown.append)
    return "".join(shown)


def test_a_session_shows_the_disclaimer_and_knows_its_commands(backend: Any) -> None:
    shown = session(backend, [TALK[0], "", "/rest", "/reset", TALK[0], "/exit", "never asked"])
    assert shown.startswith("Research only, not for clinical use. 仅供研究，不得用于临床。\n")
    assert "unknown command /rest (did you mean '/reset'?)" in shown
    first, second = shown.split("model> ")[1:]
    assert first.split("\n")[0] == second.split("\n")[0] and "never" not in shown
    assert second.count("\n") == 1, "something was written after /exit"
    assert shown.count(conversation.DISCLAIMER) == 2, "a new session (/reset) shows it again"


def test_ctrl_c_and_ctrl_d_end_it(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session(backend, []).endswith("\n") and session(backend, [KeyboardInterrupt()]).endswith("\n")

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conversation.Chat, "_choose", stopped)
    assert session(backend, [TALK[0], "never asked"]).endswith("model> \n")


def test_errors_and_forgotten_turns_are_shown_in_the_session(backend: Any) -> None:
    shown = session(backend, ["头痛" * 2000, *[f"{text}，" * 20 for text in TALK * 2]])
    assert "model> error: this message has" in shown
    assert "2 earlier messages no longer fit the model's context and were forgotten" in shown


@pytest.mark.slow
def test_a_scripted_session_of_the_command(run: Path, trained: Any) -> None:
    command = [sys.executable, "-m", "qilin_lib.chat", "night", "--stage", "sft", "--max-new-tokens", "12"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, input=f"{TALK[0]}\n{TALK[1]}\n", capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    messages = [{"role": "user", "content": TALK[0]}]
    first = evaluated(trained, messages, 12)
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": TALK[1]}]
    assert done.stdout.split("\n", 3)[1:3] == [conversation.DISCLAIMER, conversation.HELP]
    assert (
        done.stdout.split("\n", 3)[3] == f"you> model> {first}\nyou> model> {evaluated(trained, messages, 12)}\nyou> \n"
    )


@pytest.mark.slow
def test_passages_of_the_run_stand_before_each_message_and_are_shown(run: Path, trained: Any, tmp_path: Path) -> None:
    rows = [{"text": text, "source": "x"} for text in ("偏头痛伴恶心可以服用布洛芬。", "饭后散步有助于消化。")]
    write_jsonl(run / "01_build_chimed" / "cpt.jsonl", rows)
    write_text(tmp_path / "raw" / "notes.txt", "no benchmark")
    build = {"facts": {"raw_dir": str(tmp_path / "raw")}, "parameters": {"contamination_share": 0.5}}
    write_json(run / "01_build_chimed" / "manifest.json", MANIFEST | build)
    command = [sys.executable, "-m", "qilin_lib.chat", "night", "--stage", "sft", "--max-new-tokens", "12"]
    command += ["--retrieval", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "QILIN_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, input=f"{TALK[0]}\n", capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    asked = prompts.PASSAGES.replace("{passages}", f"[1] {rows[0]['text']}") + TALK[0]
    answer = evaluated(trained, [{"role": "user", "content": asked}], 12)
    assert f"model> {answer}\n[1] cpt.jsonl:1: {rows[0]['text']}\n" in done.stdout
    assert chat.main(["night", "--stage", "sft", "--retrieval", "0"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nigth"], "run 'nigth': no such run in .* (did you mean 'night'?); there are night"),
        (["night", "--stage", "dpp"], "--stage dpp: unknown (did you mean 'dpo'?); there are base, dcpt, sft, dpo"),
        (["night"], "run 'night' has no finished 05_dpo: run notebooks/05_dpo.ipynb first"),
        (["night", "--stage", "sft", "--top-p", "0.5"], "--top-p 0.5 changes nothing at temperature 0"),
        (["night", "--stage", "sft", "--max-new-tokens", "512"], "--max-new-tokens 512: must be 1 to 511"),
        (["night", "--temperature", "nan"], "--temperature nan: must be 0"),
        (["night", "--temperature", "0.7", "--top-p", "0"], "--top-p 0.0: must be above 0"),
        (["night", "--seed", "-1"], "--seed -1: must be 0"),
    ],
)
def test_a_wrong_call_is_one_sentence(run: Path, capsys: pytest.CaptureFixture, arguments: list, said: str) -> None:
    assert chat.main(arguments) == 2
    error = capsys.readouterr().err
    before, _, after = said.partition(".*")
    assert error.startswith(f"error: {before}") and after in error and error.count("\n") == 1


def test_the_first_of_all_runs_is_to_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path / "none"))
    with pytest.raises(QilinError, match="run 'smoke': no such run .* there is none: run `make smoke` first"):
        conversation.load("smoke", "dpo")


def test_a_box_of_the_notebook_loads_no_model_before_a_message_and_then_any_stage(
    run: Path, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = conversation.load
    monkeypatch.setattr(chat_box, "load", lambda name, stage: loaded.append(stage) or load(name, stage))
    stage = SimpleNamespace(run_dir=run, parent=lambda name: run / name, run=Run(run))
    stage.parameters = SimpleNamespace(chain=chains.DEFAULT)
    box = chat_box.widget(stage)
    assert loaded == [], "a headless run would hold a model"
    shown, stage, text, (send, reset) = *box.children[:3], box.children[3].children
    assert conversation.DISCLAIMER in shown.value and stage.options == (("tiny 2.3M + DCPT + SFT", "sft"),)
    text.value = TALK[0]
    messages = [{"role": "user", "content": TALK[0]}]
    first = evaluated(trained, messages, 128)
    assert first in unescape(shown.value) and text.value == "" and loaded == ["sft"]
    text.value = TALK[1]
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": TALK[1]}]
    assert evaluated(trained, messages, 128) in unescape(shown.value) and loaded == ["sft"]
    before = shown.value
    send.click()
    assert shown.value == before, "an empty field was sent"
    text.value = "<b>头痛" * 2000
    assert "error" in shown.value and "<b>" not in shown.value
    reset.click()
    assert TALK[0] not in shown.value and conversation.DISCLAIMER in shown.value


@pytest.mark.slow
def test_one_question_to_all_stages_is_answered_in_children_and_none_asks_nobody(
    run: Path, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = SimpleNamespace(run_dir=run, parent=lambda name: run / name, run=Run(run))
    stage.parameters = SimpleNamespace(question="<b>\n" + TALK[0], chain=chains.DEFAULT)
    # DCPT has "finished", but its weights are gone.
    write_json(run / "03_dcpt" / "manifest.json", MANIFEST)
    monkeypatch.setattr(conversation, "load", None)
    asked = case_study.ask(stage)
    titles = re.findall(r'<div class="title">([^<]*)', asked)
    assert titles == ["question", "tiny 2.3M + DCPT", "tiny 2.3M + DCPT + SFT"] and "<b>" not in asked
    assert asked.count("no answer") == 1 and "Error" in asked and "Traceback" not in asked
    answer = evaluated(trained, [{"role": "user", "content": stage.parameters.question}], 128)
    assert answer in unescape(asked) and conversation.DISCLAIMER in asked
    monkeypatch.setattr(case_study.subprocess, "run", None)
    stage.parameters.question = None
    assert "No question" in case_study.ask(stage)


def test_every_stage_can_be_talked_to(run: Path, tiny_model_dir: Path) -> None:
    shutil.copytree(tiny_model_dir, run / "08_rlhf" / "rl" / "model")
    write_json(run / "08_rlhf" / "rl" / "facts.json", {"template": "plain", "template_sha256": PLAIN.sha256})
    write_json(run / "08_rlhf" / "manifest.json", MANIFEST)
    assert conversation.load("night", "rl").template == PLAIN


def test_bytes_of_another_encoding_are_asked_all_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A GBK file through a pipe, where the locale is zh_CN.UTF-8: Python reads such a standard input strictly."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("咳嗽".encode("gbk")), "utf-8", "strict"))
    assert chat.main(["night", "--stage", "sft", "--once", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_an_answer_cannot_drive_the_terminal(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "\x1b]52;c;eA==\x07\u202e头"
    ids = trained.tokenizer.encode(hostile, add_special_tokens=False)
    monkeypatch.setattr(conversation.Chat, "_tokens", lambda self, asked: iter(ids))
    shown = session(trained, [TALK[0]])
    assert r"\x1b]52;c;eA==\x07\u202e头" in shown and not set("\x1b\x07\u202e") & set(shown)


def test_no_half_character_is_shown_with_a_byte_level_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=alphabet[0])
    ids = tokenizer.encode("头痛：B超", add_special_tokens=False)
    assert len(ids) == 13, "one token a byte"
    monkeypatch.setattr(conversation.Chat, "_tokens", lambda self, asked: iter(ids))
    pieces: list[str] = []
    backend = SimpleNamespace(tokenizer=tokenizer, template=PLAIN, context=400, device="cpu")
    assert conversation.Chat(backend).say("问", pieces.append)[0] == "头痛：B超"
    assert [piece for piece in pieces if piece] == list("头痛：B超")


def test_ids_beyond_the_vocabulary_write_nothing(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings are often padded beyond the tokenizer, and sampling can draw such an id."""
    ids = trained.tokenizer.encode("头痛", add_special_tokens=False)
    beyond = len(trained.tokenizer) + 5
    monkeypatch.setattr(conversation.Chat, "_tokens", lambda self, asked: iter([beyond, *ids, beyond]))
    pieces: list[str] = []
    try:
        said: Any = conversation.Chat(trained).say("问", pieces.append)[0]
    except TypeError as reason:
        said = reason
    assert said == "头痛" and "".join(pieces) == "头痛"
