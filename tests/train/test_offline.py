"""With a local model and local data, training and loading ask the network for nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_resume import SHAPE, STAGES, write_data, write_job

from qilin_lib import files
from qilin_lib.train import launch

# An audit hook sees every connection and every name look-up of the process, whichever library asks.
GUARDED_CHILD = """
import json, sys, traceback

attempts = []

def guard(event, what):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = what[0]
    elif event in ("socket.connect", "socket.sendto"):
        host = what[1][0] if isinstance(what[1], tuple) else "local"
    else:
        return
    if host not in ("local", "localhost", "127.0.0.1", "::1", None):
        attempts.append(f"{event} {host}")
        traceback.print_stack()
        raise OSError(f"no network here: {event} {host}")

sys.addaudithook(guard)

from huggingface_hub import constants
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.train import dcpt, dpo, fit, sft

result = {"offline": constants.HF_HUB_OFFLINE}
weights, answer, *jobs = sys.argv[1:]
load_model(weights)
load_tokenizer(weights)
for module, job in zip((dcpt, sft, dpo), jobs, strict=True):
    module.work(fit.read_job(job))
result["attempts"] = list(attempts)

import huggingface_hub, socket
attempts.clear()
try:
    huggingface_hub.hf_hub_download("owner/name", "config.json")
except Exception as error:
    result["refused"] = type(error).__name__
result["control"] = list(attempts)
attempts.clear()
for address in (("192.0.2.1", 80), ("127.0.0.1", 9)):
    with socket.socket() as plain:
        plain.settimeout(1)
        try:
            plain.connect_ex(address)
        except OSError:
            pass
result["raw"] = list(attempts)
json.dump(result, open(answer, "w"))
"""


def test_training_and_loading_from_local_folders_use_no_network(
    tiny_model_dir: Path,
    tiny_tokenizer: Any,
    sentences: Callable,
    training: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = write_data(tmp_path, tiny_model_dir, tiny_tokenizer, sentences)
    jobs = [write_job(tmp_path / name, training(name, **SHAPE), data[name]) for name in STAGES]
    for name in [*filter(lambda name: name.endswith(("_OFFLINE", "_TELEMETRY")), os.environ), "DO_NOT_TRACK"]:
        monkeypatch.delenv(name, raising=False)
    # An empty cache: nothing that was downloaded earlier helps.
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    answer, log = tmp_path / "answer.json", tmp_path / "train.log"
    command = [sys.executable, "-c", GUARDED_CHILD, str(tiny_model_dir), str(answer), *map(str, jobs)]
    launch.run(command, log, lambda _: None, 0)
    seen = files.read_json(answer)
    assert seen["attempts"] == [] and seen["offline"] is False, log.read_text(encoding="utf-8")[:5000]
    assert [(job.parent / "facts.json").exists() for job in jobs] == [True] * 3
    # The guard works: the hub is refused, and so is a bare connection, but not one to this machine.
    assert seen["control"] and seen["refused"]
    assert seen["raw"] == ["socket.connect 192.0.2.1"]
