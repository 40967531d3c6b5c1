"""A made-up run with three trained stages, to be exported."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from qilin_lib import files, params, runs
from qilin_lib.report import export
from qilin_lib.tokens.template import BAICHUAN

LICENCES = {"kg_cpubmed": "CC BY-ND 4.0", "kg_xywy": "not stated", "cmexam": "Apache-2.0", "ceval": "CC BY-NC-SA 4.0"}
HELDOUT = {
    "medical": {"tokens": [10, 20], "before": [-30.0, -60.0], "after": [-10.0, -20.0]},
    "general": {"tokens": [], "before": [], "after": []},
}
PAIRS = {"policy_chosen": [-1.0], "policy_rejected": [-3.0], "reference_chosen": [-2.0], "reference_rejected": [-2.0]}


def row(source: str, part: str, kept: int, contaminated: int = 0) -> dict[str, Any]:
    return {
        "source": source,
        "set": part,
        "standing": "original",
        "licence": LICENCES[source],
        "kept": kept,
        "contaminated": contaminated,
        "deidentified": {"NAME": 2},
    }


def facts(tokens: int) -> dict[str, Any]:
    kind = {"finetuning": "lora", "template": "baichuan", "template_sha256": BAICHUAN.sha256}
    sources = {"sources": {"cmexam": {"read": 9, "used": 8}, "remedi": {"read": 3}}}
    return {**kind, "steps_done": 7, "tokens_seen": tokens, "beta": 0.1, **sources}


def score(value: float) -> dict[str, Any]:
    return {"value": value, "n": 43, "low": value - 1, "high": value + 1}


class MadeUp:
    """A run folder whose stages hold little, with manifests written by the kit itself."""

    def __init__(self, run_dir: Path) -> None:
        self.dir = run_dir
        self.stages: dict[str, runs.Stage] = {}

    def begin(self, notebook: str) -> runs.Stage:
        if notebook not in self.stages:
            parameters = params.load(notebook, {"run": self.dir.name})
            inputs = {name: runs.read_manifest(self.dir, name)["digest"] for name in runs.PARENTS[notebook]}
            self.stages[notebook] = runs.Stage(parameters, self.dir, f"key of {notebook}", inputs, False)
            self.stages[notebook].begin()
        return self.stages[notebook]

    def finish(self, notebook: str, **told: Any) -> dict[str, Any]:
        return self.begin(notebook).finish(**told)

    def json(self, path: str, value: Any) -> None:
        self.begin(path.partition("/")[0])
        files.write_json(self.dir / path, value)


def lora(before: Path, stage: Path, seed: int) -> Path:
    """A LoRA with weights that are not zero, on `before`, which is full weights or an adapter; its folder."""
    import torch
    from peft import LoraConfig, get_peft_model

    from qilin_lib.models.adapters import describe
    from qilin_lib.models.load import load_model, load_tokenizer
    from qilin_lib.models.merge import start

    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    base, _ = start(before, stage / "start", False, [])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        get_peft_model(load_model(base), settings).save_pretrained(stage / "adapter")
    describe(stage / "adapter", base, False, "float32", BAICHUAN.sha256)
    load_tokenizer(base).save_pretrained(stage / "adapter")
    return stage / "adapter"


def merge_of(stage: Path) -> str:
    """sha256 of the weights that a stage started from."""
    return files.sha256_file(next((stage / "start").glob("*/model.safetensors")))


@pytest.fixture(scope="session")
def finished(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = MadeUp(tmp_path_factory.mktemp("export") / "madeup")
    rows = [
        row("cmexam", "sft", 12_345, 3),
        row("kg_cpubmed", "cpt", 678),
        row("kg_xywy", "cpt", 9),
        row("ceval", "eval", 5),
    ]
    run.json("01_build_chimed/ledger.json", {"sources": rows})
    run.finish("01_build_chimed", raw_dir="/secret/place")
    base = {"name": "tiny", "path": str(tiny_model_dir), "parameters": 123_456, "template": "baichuan"}
    run.json("02_tokenize/base.json", base)
    weights = {"model.safetensors": files.sha256_file(tiny_model_dir / "model.safetensors")}
    run.json("02_tokenize/base_weights.json", weights)
    run.finish("02_tokenize", base=base)
    before = tiny_model_dir
    for number, name in enumerate(("03_dcpt", "04_sft", "05_dpo")):
        run.begin(name)
        before = lora(before, run.dir / name, number)
        run.json(f"{name}/heldout.json", PAIRS if name == "05_dpo" else HELDOUT)
        run.finish(name, **facts(1_000_000 + number))
    models = {name: {"accuracy": score(value)} for name, value in (("base", 10.0), ("sft", 27.9))}
    top = {"cmexam": models, "split": {"cmexam": "test"}, "cap": {"cmexam": 43}}
    run.json("06_eval/scores.json", {**top, "protocol": "fixed", "tokenisation": "char"})
    run.finish("06_eval")
    return run.dir


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, to be damaged."""
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path / "runs"))
    shutil.copytree(finished, tmp_path / "runs" / "madeup")
    return tmp_path / "runs" / "madeup"


@pytest.fixture
def make(run_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    return lambda stage="sft", name="out", **more: export.export("madeup", stage, tmp_path / name, **more)


def front(folder: Path) -> dict[str, Any]:
    _, head, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head)


def readme(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def change(path: Path, *keys: str, to: Any) -> None:
    content = files.read_json(path)
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    files.write_json(path, content)
