"""Answers drawn by vLLM in an interpreter of its own: it pins another transformers than the kit's.

The worker (`vllm_worker.py`) gets token ids and gives token ids; nothing is rendered or tokenised again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.train import children

WORKER = Path(__file__).with_name("vllm_worker.py")
Answers = list[tuple[list[int], str]]


def check(notebook: str, python: str) -> str:
    """The version of vLLM that the interpreter `python` has; QilinError if it has none or is none."""
    ask = "from importlib.metadata import version; print(version('vllm'))"
    try:
        found = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True, env=_environment())
    except (OSError, subprocess.CalledProcessError) as reason:
        why = str(reason) if isinstance(reason, OSError) else (reason.stderr.strip().splitlines() or ["no output"])[-1]
        raise QilinError(
            f"{notebook}: vllm_python = '{python}': {why}; nearest valid: null (the kit's own sampling), or the python "
            "of an environment of its own in which `pip install vllm` has run"
        ) from None
    return found.stdout.strip()


def generate(
    python: str | Path,
    model: Path,
    prompts: Iterable[tuple[str, list[int]]],
    work: Path,
    *,
    seed: int,
    dtype: str,
    **sampling: Any,
) -> Iterator[tuple[str, Answers]]:
    """(key, answers) of each (key, token ids), in their order, as they come; an answer is (ids, why it ended).

    `model`: a folder of full weights. `sampling`: n, temperature, top_p, max_tokens, stop_token_ids. An end token is
    not part of an answer. The worker and what it starts end with this generator. QilinError names cause and log.
    """
    shutil.rmtree(work, ignore_errors=True)
    keyed = dict(prompts)
    files.write_jsonl(work / "prompts.jsonl", ({"key": key, "ids": ids} for key, ids in keyed.items()))
    engine = {"model": str(model), "skip_tokenizer_init": True, "dtype": dtype, "seed": seed}
    files.write_json(work / "request.json", {"engine": engine, "sampling": sampling, "seed": seed})
    (work / "answers.jsonl").touch()
    stops, log = set(sampling["stop_token_ids"]), work / "vllm.log"
    command = [str(python), str(WORKER), str(work)]
    with open(log, "w") as told, children.running(command, [_environment()], told.fileno()) as (process,):
        with open(work / "answers.jsonl", encoding="utf-8") as answers:
            for key in keyed:
                row = json.loads(_next_line(answers, process, log))
                if row["key"] != key:
                    raise RuntimeError(f"{answers.name}: the answers to {row['key']} stand where those to {key} belong")
                yield key, [([i for i in ids if i not in stops], reason) for ids, reason in row["answers"]]


def _next_line(file: Any, process: subprocess.Popen, log: Path) -> str:
    """The next whole line that the worker writes."""
    line = ""
    while not line.endswith("\n"):
        ended = process.poll()
        line += file.readline()
        if ended is not None and not line.endswith("\n"):
            raise QilinError(f"vLLM ended with exit code {ended}: {children.cause(log, 0)} (whole log: {log})")
        if not line.endswith("\n"):
            time.sleep(0.1)
    return line


def _environment() -> dict[str, str]:
    """The user's, without what points an interpreter at the kit's own packages."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in hidden}
