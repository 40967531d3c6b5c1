"""The endpoint backend against `transformers serve`, a server that is not ours, with the tiny model on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.replies import texts

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.evaluate.endpoint import EndpointBackend
from qilin_lib.evaluate.prompts import Prompt
from qilin_lib.evaluate.server import ALL_REFUSED
from qilin_lib.schema import Baseline
from qilin_lib.tokens.template import PLAIN

pytestmark = pytest.mark.slow

QUESTIONS = ("患者咳嗽发热三天", "头痛伴恶心，请问医生这是什么病", "糖尿病饮食控制", "血压偏高需要复查，建议多喝水休息")
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def server(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a server that serves the tiny model under the name of its folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    # float32 on both sides: a tie that bfloat16 makes could break either way.
    settings = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as handle:
        child = subprocess.Popen(
            [program, "serve", str(tiny_model_dir), *settings],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=handle,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait(child, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            child.kill()
            child.wait()


def _wait(child: subprocess.Popen, url: str, log: Path) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        assert child.poll() is None, log.read_text(encoding="utf-8")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"no server after five minutes: {log.read_text(encoding='utf-8')}")


@pytest.fixture(scope="module")
def local(tiny_model_dir: Path, tiny_tokenizer: Any) -> TransformersBackend:
    from qilin_lib.models.load import load_model

    return TransformersBackend(load_model(tiny_model_dir, "float32", device="cpu"), tiny_tokenizer, PLAIN, 4, "cpu")


def asked_of(server: str, model: Path, template: str, cache: Path) -> EndpointBackend:
    prices = {"price_per_million_input": 1.0, "price_per_million_output": 1.0}
    line = Baseline(model=str(model), endpoint=server, template=template, api_key_env="QILIN_TEST_NO_KEY", **prices)
    return EndpointBackend(line, 4, cache)


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_a_server_s_greedy_text_is_that_of_the_model_loaded_here(
    template: str, server: str, tiny_model_dir: Path, tiny_tokenizer: Any, local: TransformersBackend, tmp_path: Path
) -> None:
    backend = asked_of(server, tiny_model_dir, template, tmp_path)
    prompts = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        text = backend.render(messages, "")
        # The ids that the server's tokenizer makes: of the chat by the model's own template, of the text as it is.
        chat = tiny_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        ids = chat if template == "chat" else tiny_tokenizer(text)["input_ids"]
        prompts.append(Prompt(messages, "", ids, text, 0, False))
    expected = texts(local.generate(prompts, NEW_TOKENS))
    answers = texts(backend.generate(prompts, NEW_TOKENS))
    assert len(set(expected)) > 1 and all(expected), "the model's text depends on the question"
    assert answers == expected
    usage = backend.usage()
    assert usage["prompt_tokens"] == sum(len(prompt.ids) for prompt in prompts)
    assert 0 < usage["completion_tokens"] <= NEW_TOKENS * len(prompts) and usage["unmetered"] == 0
    assert usage["cost"] == pytest.approx((usage["prompt_tokens"] + usage["completion_tokens"]) / 1e6)


def test_a_model_that_the_server_does_not_have_is_refused_prompt_by_prompt(server: str, tmp_path: Path) -> None:
    backend = asked_of(server, Path("gpt-nosuch"), "chat", tmp_path)
    prompts = [Prompt([{"role": "user", "content": f"头痛{n}"}], "", [], "", 0, False) for n in range(ALL_REFUSED)]
    with pytest.raises(QilinError, match=r"each of 20 prompts is refused: status 400 .*requested 'gpt-nosuch'"):
        backend.generate(prompts, NEW_TOKENS)
    assert backend.usage()["completion_tokens"] == 0
