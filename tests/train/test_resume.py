"""A training that was killed and goes on ends where the uninterrupted one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_lib import files
from qilin_lib.tokens.pack import pack
from qilin_lib.train import checkpoints, dcpt, dpo, fit, sft

# The child dies as if the machine had taken it: no handler runs, and step 4 is logged beyond the checkpoint of step 3.
DYING_CHILD = """
import os, signal, sys
from qilin_lib.train import dcpt, fit

made = fit.log_callback

def deadly(out):
    callback = made(out)
    def on_step_begin(args, state, control, **_):
        if state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
    callback.on_step_begin = on_step_begin
    return callback

fit.log_callback = deadly
dcpt.work(fit.read_job(sys.argv[1]))
"""


STAGES = {"03_dcpt": dcpt, "04_sft": sft, "05_dpo": dpo}
Make = Callable[[str, str, str], Path]


@pytest.fixture
def data(tiny_model_dir: Path, tiny_tokenizer: Any, sentences: Callable, tmp_path: Path) -> dict[str, dict[str, Path]]:
    """The paths of each stage's job; weights, documents, conversations and pairs are small."""
    documents = tiny_tokenizer(sentences(40, 12), add_special_tokens=False)["input_ids"]
    pack(documents, 64, 3, 0).save(tmp_path / "blocks.npy")
    files.write_jsonl(tmp_path / "held.jsonl", [{"text": text} for text in sentences(4, 13)])
    asked, good, bad = ([{"role": role, "content": text} for text in sentences(30, seed)]
                        for role, seed in (("user", 14), ("assistant", 15), ("assistant", 16)))  # fmt: skip
    common = [{"part": "medical", "split": "train" if i < 26 else "heldout"} for i in range(30)]
    files.write_jsonl(tmp_path / "sft.jsonl", [{**common[i], "messages": [asked[i], good[i]]} for i in range(30)])
    files.write_jsonl(
        tmp_path / "dpo.jsonl",
        [{**common[i], "prompt": [asked[i]], "chosen": [good[i]], "rejected": [bad[i]]} for i in range(30)],
    )
    held = {"medical": tmp_path / "held.jsonl", "general": tmp_path / "held.jsonl"}
    return {
        "03_dcpt": {"weights": tiny_model_dir, "blocks": tmp_path / "blocks.npy", **held},
        "04_sft": {"weights": tiny_model_dir, "data": tmp_path / "sft.jsonl"},
        "05_dpo": {"weights": tiny_model_dir, "data": tmp_path / "dpo.jsonl"},
    }


@pytest.fixture
def job(data: dict[str, dict[str, Path]], training: Callable, tmp_path: Path) -> Make:
    """`job(name, notebook, finetuning)`: the job.json that a notebook leaves for its child."""

    def make(name: str, notebook: str, kind: str) -> Path:
        whole = [] if notebook == "05_dpo" else ["lm_head"]
        parameters = training(notebook, finetuning=kind, save_steps=3, lora_dropout=0.1, modules_to_save=whole)
        target = tmp_path / name / "job.json"
        files.write_json(
            target,
            {
                "parameters": vars(parameters),
                "out": str(target.parent),
                "template": "baichuan",
                "paths": {key: str(path) for key, path in data[notebook].items()},
            },
        )
        return target

    return make


def kill_after_step_four(job: Path) -> None:
    """Same number of threads as this process: sums are taken in the same order."""
    import torch

    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", DYING_CHILD, str(job)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


def interrupt_after_step_four(job: Path, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fit.log_callback

    def impatient(out: Path) -> Any:
        callback = made(out)

        def on_step_begin(args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 4:
                raise KeyboardInterrupt

        callback.on_step_begin = on_step_begin
        return callback

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fit, "log_callback", impatient)
        module.work(fit.read_job(str(job)))


def assert_same_end(straight: Path, broken: Path) -> None:
    """Adapter, merged model, log and facts of two stage folders, the second of which was stopped after step 4."""
    import torch
    from safetensors.torch import load_file

    for part in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        expected, found = (load_file(folder / part) for folder in (straight, broken))
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=f"{part}: {name}")
    expected_rows, rows = ([lasting(row) for row in fit.read_log(folder)] for folder in (straight, broken))
    assert [row["step"] for row in rows] == [0] * (rows[0]["step"] == 0) + [1, 2, 3, 4, 5, 6]
    assert rows == [pytest.approx(row, abs=1e-5) for row in expected_rows]
    trained = [row["step"] for row in files.read_jsonl(broken / "log.jsonl") if row["step"]]
    assert trained == [1, 2, 3, 4, 4, 5, 6]
    facts = files.read_json(broken / "facts.json")
    assert facts["resumed_from"] == "checkpoint-3" and facts["steps_done"] == facts["steps_planned"] == 6
    assert files.read_json(straight / "facts.json")["resumed_from"] is None


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    """A log row without timings and without counters that TRL starts anew."""
    return {key: value for key, value in row.items() if key.endswith(("step", "loss", "norm", "rate", "epoch"))}


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_killed_and_continued_equals_uninterrupted(kind: str, job: Make) -> None:
    straight, broken = (job(name, "03_dcpt", kind) for name in ("straight", "broken"))
    dcpt.work(fit.read_job(str(straight)))
    kill_after_step_four(broken)
    out = broken.parent
    assert checkpoints.last(out / "checkpoints") == out / "checkpoints" / "checkpoint-3"
    assert not (out / "facts.json").exists() and [row["step"] for row in fit.read_log(out)] == [1, 2, 3, 4]
    dcpt.work(fit.read_job(str(broken)))
    assert_same_end(straight.parent, out)


@pytest.mark.parametrize("notebook", ["04_sft", "05_dpo"])
def test_interrupted_and_continued_equals_uninterrupted(
    notebook: str, job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL casts a quantised model's adapter to bfloat16, a resume reloads it as fp32; DPO evaluates before step 1."""
    module = STAGES[notebook]
    straight, broken = (job(name, notebook, "qlora") for name in ("straight", "broken"))
    module.work(fit.read_job(str(straight)))
    interrupt_after_step_four(broken, module, monkeypatch)
    module.work(fit.read_job(str(broken)))
    assert_same_end(straight.parent, broken.parent)
    assert sorted(path.name for path in (broken.parent / "adapter").iterdir() if path.is_dir()) == []
