"""A chain that is killed inside its fourth training goes on there, and lends its stages to another run."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.exported import lora
from helpers.trainings import differences, output, train, triplets

from qilin_lib import files, params, runs, stages
from qilin_lib.errors import QilinError
from qilin_lib.tokens import corpus, store
from qilin_lib.train import job as jobs
from qilin_lib.train import launch
from qilin_lib.train.methods import sft

pytestmark = pytest.mark.slow
CHAIN = ["dcpt", "sft", "dpo", "sft2"]
BEFORE = ("01_build_chimed", "02_tokenize", "03_dcpt", "04_sft", "05_dpo")
# 6 steps of 8, a checkpoint after 2 and 4.
SHAPE = {"finetuning": "lora", "max_steps": 6, "save_steps": 2, "logging_steps": 1, "max_heldout": 1}


@pytest.fixture
def chained(
    tmp_path: Path,
    empty_runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model_dir: Path,
    tiny_tokenizer: Any,
    sentences: Callable,
) -> Callable[..., runs.Stage]:
    """`chained(run, **more)`: sft2 of a run; the five stages before it are finished in run "killed", in little."""
    folder = tmp_path / "params"
    folder.mkdir()
    (folder / "smoke.yaml").write_bytes((params.ROOT / "params" / "smoke.yaml").read_bytes())
    files.write_text(folder / "chained.yaml", f"extends: smoke\nchain: {CHAIN}\nsft2: {{lora_r: 4}}\n")
    monkeypatch.setenv("QILIN_PARAMS_DIR", str(folder))
    raw = tmp_path / "raw"
    files.write_text(raw / "cmd" / "a.jsonl", "{}\n")

    def opened(notebook: str, run: str, **more: Any) -> runs.Stage:
        given = {"profile": "chained", "run": run, **more}
        return stages.open_stage(params.load(notebook, given | ({"raw_dir": str(raw)} if notebook[:2] == "01" else {})))

    before = tiny_model_dir
    for number, name in enumerate(BEFORE):
        stage = opened(name, "killed")
        stage.begin()
        if number == 0:
            files.write_jsonl(stage.dir / "sft.jsonl", triplets(sentences(90, 14), 30, held=4))
        elif number == 1:
            base = {"name": "tiny", "path": str(tiny_model_dir), "parameters": 1, "template": "baichuan"}
            files.write_json(stage.dir / "base.json", base)
            rows = stage.parent("01_build_chimed") / "sft.jsonl"
            store.write(rows, corpus.folder(stage.dir, "sft"), tiny_tokenizer)
        else:
            before = lora(before, stage.dir, number)
        stage.finish(raw_dir=str(raw))
    return lambda run, **more: opened("04_sft", run, stage="sft2", **SHAPE, **more)


def in_process(*fault: Any) -> Callable[..., None]:
    """In `launch.run`'s place: the phases of a training in a process that libraries were imported into; a `fault`
    strikes as it does in helpers.trainings."""

    def run(command: list[str], *_: Any) -> None:
        path = Path(next(part for part in command if part.endswith("job.json")))
        jobs.run_phase("open", str(path))
        if (code := train(path, sft, *fault)) != 0:
            raise QilinError(f"signal {-code}: {output(path)[-300:]}")

    return run


def test_a_chain_killed_in_its_fourth_training_goes_on_there_and_shares_its_stages(
    chained: Callable[..., runs.Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "run", in_process("on_step_end", 3))
    stage = chained("killed")
    assert stage.name == "04_sft2"
    with pytest.raises(QilinError, match=f"^signal {int(signal.SIGKILL)}: "):
        sft.train(stage)
    assert not stage.run.finished("04_sft2") and all(stage.run.finished(name) for name in BEFORE)
    monkeypatch.setattr(launch, "run", in_process())
    straight = chained("straight", from_run="killed")
    assert all((straight.run_dir / name).is_symlink() for name in BEFORE), "what stands before it is the other run's"
    straight.finish(**sft.train(straight))
    again = chained("killed")
    facts = sft.train(again)
    assert (facts["resumed_from"], facts["steps_done"]) == ("checkpoint-2", 6)
    assert differences(straight.dir, again.dir) == []
    manifest = again.finish(**facts)
    assert [*manifest["inputs"]] == ["01_build_chimed", "02_tokenize", "05_dpo"]
    lent = chained("lent", from_run="killed")
    assert lent.up_to_date and lent.dir.is_symlink() and lent.key == straight.key
