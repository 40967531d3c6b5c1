"""Answers by vLLM in an interpreter of its own: it pins another transformers than the kit's.

The worker (`vllm_worker.py`) gets token ids and gives token ids; nothing is rendered or tokenised again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.train import children

WORKER, LOG = Path(__file__).with_name("vllm_worker.py"), "vllm.log"
# Prompts that vLLM gets at a time: it batches within them, and what they gave is on disk before the next.
TOGETHER = 256
# What points an interpreter at the kit's own packages, and a model at the processes of the kit.
_HIDDEN = re.compile(
    r"PYTHON(PATH|HOME)|VIRTUAL_ENV|PYTORCH_CUDA_ALLOC_CONF|OMP_NUM_THREADS|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)"
    r"|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+"
)
_TOLD = re.compile(r"\b\w*(?:Error|Exception)\b: .*")


class Answer(NamedTuple):
    """Token ids without an end token, why they end ("stop", "length"), and the log-probabilities of the
    `logprob_token_ids` that were asked for, as the first token."""

    ids: list[int]
    reason: str
    logprobs: list[float] | None


def check(notebook: str, python: str) -> str:
    """The version of vLLM that the interpreter `python` has; QilinError if it has none or is none."""
    ask = "from importlib.metadata import version; print(version('vllm'))"
    try:
        found = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True, env=_environment())
    except (OSError, subprocess.CalledProcessError) as reason:
        why = str(reason) if isinstance(reason, OSError) else (reason.stderr.strip().splitlines() or ["no output"])[-1]
        raise QilinError(
            f"{notebook}: vllm_python = '{python}': {why}; nearest valid: null (the kit's own), or the python "
            "of an environment of its own in which `pip install vllm` has run"
        ) from None
    return found.stdout.strip()


class Engine:
    """vLLM with the full weights in `model`, on the visible GPUs from `first` on. It starts when it is first asked.

    `close` ends it and all that it started; its log in `work` stays if it failed. `settings`: further keyword arguments
    of vllm.LLM.
    """

    def __init__(self, python: str | Path, model: Path, work: Path, first: int = 0, **settings: Any) -> None:
        self._command, self._work, self._first = [str(python), str(WORKER), str(work)], work, first
        self._settings = {"model": str(model), "skip_tokenizer_init": True, **settings}
        self._open, self._process, self._failed = ExitStack(), None, False

    def ask(self, prompts: Sequence[tuple[str, list[int]]], seed: int = 0, **sampling: Any) -> list[list[Answer] | str]:
        """The answers to each (key, token ids), in their order, or why vLLM refuses the prompt.

        `sampling`: arguments of SamplingParams. A draw depends on seed and key alone. QilinError names cause and log.
        """
        if self._process is None:
            shutil.rmtree(self._work, ignore_errors=True)
            files.write_json(self._work / "engine.json", self._settings)
            environment = _environment(self._first, self._settings.get("tensor_parallel_size", 1))
            opened = (open(self._work / name, "w+", encoding="utf-8") for name in (LOG, "asked.jsonl", "answers.jsonl"))
            log, self._asked, self._answers = map(self._open.enter_context, opened)
            running = children.running(self._command, [environment], log.fileno())
            (self._process,) = self._open.enter_context(running)
        self._asked.write(json.dumps({"prompts": prompts, "seed": seed, "sampling": sampling}) + "\n")
        self._asked.flush()
        stops, results = set(sampling.get("stop_token_ids") or ()), []
        for key, _ in prompts:
            row = json.loads(self._next_line())
            if row["key"] != key:
                raise RuntimeError(f"{self._work}: the answers to {row['key']} stand where those to {key} belong")
            whole = [([i for i in ids if i not in stops], *rest) for ids, *rest in row.get("answers", ())]
            results.append(row["error"] if "error" in row else [Answer(*one) for one in whole])
        return results

    def close(self) -> None:
        self._open.close()
        if self._process is not None and not self._failed:
            shutil.rmtree(self._work, ignore_errors=True)

    def _next_line(self) -> str:
        """The next whole line that the worker writes. The error names the last three that its log does (vLLM's
        processes refer to what stands above), else the log's last line."""
        line, log = "", self._work / LOG
        while not line.endswith("\n"):
            ended = self._process.poll()
            line += self._answers.readline()
            if line.endswith("\n"):
                break
            if ended is not None:
                self._failed = True
                text = log.read_text(encoding="utf-8", errors="replace")
                told = list(dict.fromkeys(match[0][:300] for match in _TOLD.finditer(text)))
                why = "; ".join(told[-3:]) or (text.strip().splitlines() or ["no output"])[-1]
                raise QilinError(f"vLLM ended with exit code {ended}: {why} (whole log: {log})")
            time.sleep(0.01)
        return line


def _environment(first: int = 0, count: int = 1) -> dict[str, str]:
    """The user's, with `count` of the visible GPUs from `first` on."""
    kept = {name: value for name, value in os.environ.items() if not _HIDDEN.fullmatch(name)}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = visible.split(",") if visible is not None else [str(number) for number in range(first + count)]
    return kept | {"CUDA_VISIBLE_DEVICES": ",".join(numbers[first : first + count])}
