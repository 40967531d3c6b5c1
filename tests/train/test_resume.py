"""A training that was killed, at any step or while it wrote a checkpoint, ends where the uninterrupted one ends.

Every training here is a process of its own, forked from a server that has imported the libraries once: all run under
the same conditions, and a kill takes what the machine would take.
"""

from __future__ import annotations

import fractions
import multiprocessing
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.tokens.pack import pack
from qilin_lib.train import checkpoints, dcpt, dpo, fit, launch, saving, sft

STAGES = {"03_dcpt": dcpt, "04_sft": sft, "05_dpo": dpo}
LIBRARIES = ["torch", "datasets", "bitsandbytes", "peft", "trl.trainer.sft_trainer", "trl.trainer.dpo_trainer"]
# 26 examples, 8 a step, 6 steps: the second epoch begins after step 4, the fourth ends with a smaller batch.
SHAPE = {"save_steps": 2, "max_steps": 6, "gradient_accumulation_steps": 2, "lora_dropout": 0.1, "max_heldout": 1}
Run = Callable[..., Path]


# --- what happens inside a child --------------------------------------------------------------------------------------


def child(job: str, fault: str = "", step: int = 0) -> None:
    """Train as a child of a notebook does; `fault` strikes when `step` comes, or in the checkpoint of that step."""
    import torch

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    read = fit.read_job(job)
    made = fit.log_callback

    def armed(out: Path) -> Any:
        callback = made(out)
        event = fault if fault.startswith("on_") else "on_step_end"
        usual = getattr(callback, event)

        def strike(args: Any, state: Any, control: Any, **others: Any) -> None:
            usual(args, state, control, **others)
            if state.global_step == step:
                FAULTS.get(fault, die)(out)

        setattr(callback, event, strike)
        return callback

    if fault == "watch unpickling":
        watch_unpickling(read.out)
    elif fault:
        fit.log_callback = armed
    STAGES[read.parameters.notebook].work(read)


def die(*_: Any, **__: Any) -> None:
    """As if the machine had taken it: no handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def limit_files(out: Path, name: str, share: float, action: int) -> None:
    """From now on the kernel lets no file grow past a share of `name` in the checkpoint before."""
    size = max(path.stat().st_size for path in (out / "checkpoints").glob(f"checkpoint-2/{name}"))
    # Default action: the write that goes too far ends the process in its middle. Ignored: it fails, as on a full disk.
    signal.signal(signal.SIGXFSZ, action)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size * share), resource.RLIM_INFINITY))


def full_device(out: Path) -> None:
    """The next optimizer.pt lies on a device without room."""
    folder = out / "checkpoints" / "checkpoint-4"
    folder.mkdir()
    (folder / "optimizer.pt").symlink_to("/dev/full")


def die_at(owner: Any, name: str) -> Callable[[Path], None]:
    """A fault that kills at the next call of `owner.name`."""
    return lambda _: setattr(owner, name, die)


def die_before_optimizer(_: Path) -> None:
    from transformers import Trainer

    Trainer._save_optimizer_and_scheduler = die


def die_before_seal_has_its_name(_: Path) -> None:
    rename = os.replace
    os.replace = lambda old, new: die() if Path(new).name == "sealed.json" else rename(old, new)


def watch_unpickling(out: Path) -> None:
    """unpickling.json: {"loaded": {file: weights_only} of torch.load, "classes": what Python's pickle looked up}."""
    import torch

    loaded: dict[str, bool] = {}
    classes: list[str] = []
    load, write = torch.load, checkpoints.seal

    def watched(file: Any, *others: Any, **named: Any) -> Any:
        loaded[Path(file).name] = named.get("weights_only") is True
        return load(file, *others, **named)

    def report(checkpoint: Path) -> None:
        seen = list(classes)
        classes.clear()
        pickle.loads(pickle.dumps(fractions.Fraction(1, 2)))
        control = {"control": list(classes)}
        classes.clear()
        files.write_json(out / "unpickling.json", {"loaded": loaded, "classes": seen, **control})
        write(checkpoint)

    torch.load = watched
    checkpoints.seal = report
    sys.addaudithook(lambda event, what: event == "pickle.find_class" and classes.append(".".join(what)))


FAULTS: dict[str, Callable[[Path], None]] = {
    "inside the weights": lambda out: limit_files(out, "*model.safetensors", 0.5, signal.SIG_DFL),
    "before the optimizer": die_before_optimizer,
    "inside the optimizer": lambda out: limit_files(out, "optimizer.pt", 0.75, signal.SIG_DFL),
    "inside the seal": die_before_seal_has_its_name,
    "while removing": die_at(shutil, "rmtree"),
    "while saving the model": die_at(saving, "save"),
    "no room for the weights": lambda out: limit_files(out, "*model.safetensors", 0.5, signal.SIG_IGN),
    "no room for the optimizer": lambda out: limit_files(out, "optimizer.pt", 0.75, signal.SIG_IGN),
    "full device": full_device,
}


# --- how a child is started and what its end is compared with ---------------------------------------------------------


@pytest.fixture(scope="module")
def data(tiny_model_dir: Path, tiny_tokenizer: Any, sentences: Callable, tmp_path_factory: Any) -> dict[str, dict]:
    """The paths of each stage's job; weights, documents, conversations and pairs are small."""
    return write_data(tmp_path_factory.mktemp("data"), tiny_model_dir, tiny_tokenizer, sentences)


def write_data(folder: Path, weights: Path, tokenizer: Any, sentences: Callable) -> dict[str, dict[str, Path]]:
    """{notebook: {name: path}} as `fit.train_in_child` gives them to its child."""
    documents = tokenizer(sentences(40, 12), add_special_tokens=False)["input_ids"]
    pack(documents, 64, 3, 0).save(folder / "blocks.npy")
    files.write_jsonl(folder / "held.jsonl", [{"text": text} for text in sentences(4, 13)])
    asked, good, bad = ([{"role": role, "content": text} for text in sentences(30, seed)]
                        for role, seed in (("user", 14), ("assistant", 15), ("assistant", 16)))  # fmt: skip
    common = [{"part": "medical", "split": "train" if i < 26 else "heldout", "source": "x"} for i in range(30)]
    files.write_jsonl(folder / "sft.jsonl", [{**common[i], "messages": [asked[i], good[i]]} for i in range(30)])
    files.write_jsonl(
        folder / "dpo.jsonl",
        [{**common[i], "prompt": [asked[i]], "chosen": [good[i]], "rejected": [bad[i]]} for i in range(30)],
    )
    held = {"medical": folder / "held.jsonl", "general": folder / "held.jsonl"}
    return {
        "03_dcpt": {"weights": weights, "blocks": folder / "blocks.npy", **held},
        "04_sft": {"weights": weights, "data": folder / "sft.jsonl"},
        "05_dpo": {"weights": weights, "data": folder / "dpo.jsonl"},
    }


def write_job(folder: Path, parameters: Any, paths: dict[str, Path]) -> Path:
    """job.json as a notebook leaves it for its child."""
    files.write_json(
        folder / "job.json",
        {
            "parameters": vars(parameters),
            "out": str(folder),
            "template": "baichuan",
            "paths": {key: str(path) for key, path in paths.items()},
        },
    )
    return folder / "job.json"


@pytest.fixture(scope="module")
def job(data: dict[str, dict], training: Callable, tmp_path_factory: Any) -> Run:
    """`job(notebook, finetuning)`: a fresh stage folder with its job.json."""

    def make(notebook: str, kind: str) -> Path:
        kept = ["lm_head"] if kind != "full" and notebook != "05_dpo" else []
        rest = {"sampled_prompts": 0} if notebook == "05_dpo" else {}
        parameters = training(notebook, finetuning=kind, modules_to_save=kept, **SHAPE, **rest)
        return write_job(tmp_path_factory.mktemp(notebook), parameters, data[notebook])

    return make


@pytest.fixture(scope="module")
def straight(job: Run) -> Run:
    """`straight(notebook, finetuning)`: the folder of a training that nobody interrupted."""
    done: dict[tuple[str, str], Path] = {}

    def run(notebook: str, kind: str) -> Path:
        if (notebook, kind) not in done:
            path = done[notebook, kind] = job(notebook, kind)
            assert train(path) == 0, output(path)
        return done[notebook, kind].parent

    return run


def train(job: Path, *fault: Any, target: Callable[..., None] | None = None) -> int:
    """Run `target` (quietly) in a process of its own; its exit code, negative for a signal."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([*LIBRARIES, *(module.__name__ for module in STAGES.values())])
    process = server.Process(target=target or quietly, args=(str(job), *fault))
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
        pytest.fail(f"the child hangs: {output(job)}")
    return int(process.exitcode or 0)


def quietly(job: str, *fault: Any) -> None:
    """`child` with its output in child.log."""
    log = os.open(Path(job).parent / "child.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        child(job, *fault)
    finally:
        print("TIMES", os.times(), flush=True)


def output(job: Path) -> str:
    return (job.parent / "child.log").read_text(encoding="utf-8", errors="replace")[-3000:]


def differences(expected: Path, found: Path) -> list[str]:
    """What distinguishes the ends of two trainings: weights, adapter, rows of the log, planned and done steps."""
    import torch
    from safetensors.torch import load_file

    wrong = []
    for path in sorted(expected.glob("*/*.safetensors")):
        one, other = load_file(path), load_file(found / path.relative_to(expected))
        assert one.keys() == other.keys() and one
        wrong += [f"{path.name}: {name}" for name in one if not torch.allclose(one[name], other[name], 0, 1e-6)]
    logs = [[lasting(row) for row in fit.read_log(folder)] for folder in (expected, found)]
    assert [row["step"] for row in logs[0] if row["step"]] == [1, 2, 3, 4, 5, 6]
    if logs[1] != [pytest.approx(row, abs=1e-5) for row in logs[0]]:
        wrong.append(f"log: {logs}")
    facts = [files.read_json(folder / "facts.json") for folder in (expected, found)]
    return wrong + [name for name in ("steps_planned", "steps_done") if {fact[name] for fact in facts} != {6}]


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    """A log row without timings and without counters that TRL starts anew."""
    return {key: value for key, value in row.items() if key.endswith(("step", "loss", "norm", "rate", "epoch"))}


def saved(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").glob("checkpoint-*"))


# --- kills at a step --------------------------------------------------------------------------------------------------


def draws(notebook: str, kind: str, count: int) -> list[tuple[str, int]]:
    """Moments and ascending steps 1-5, other ones for each stage, the same ones every time."""
    draw = random.Random(f"{notebook} {kind} 8")
    moments = ("on_step_begin", "on_pre_optimizer_step", "on_step_end", "on_log")
    return [(draw.choice(moments), step) for step in sorted(draw.sample(range(1, 6), count))]


KILLS = [
    ("03_dcpt", "full", 1),
    ("03_dcpt", "qlora", 1),
    ("04_sft", "lora", 2),
    ("04_sft", "qlora", 1),
    ("05_dpo", "qlora", 1),
    ("05_dpo", "full", 1),
]


@pytest.mark.parametrize(("notebook", "kind", "kills"), KILLS)
def test_killed_at_any_step_and_continued_equals_uninterrupted(
    notebook: str, kind: str, kills: int, job: Run, straight: Run
) -> None:
    broken = job(notebook, kind)
    for moment, step in draws(notebook, kind, kills):
        assert train(broken, moment, step) == -signal.SIGKILL, output(broken)
        assert not (broken.parent / "facts.json").exists()
    before = checkpoints.last(broken.parent / "checkpoints")
    assert train(broken) == 0, output(broken)
    assert files.read_json(broken.parent / "facts.json")["resumed_from"] == (before.name if before else None)
    assert differences(straight(notebook, kind), broken.parent) == []
    assert saved(broken.parent) == ["checkpoint-6"]


def test_kills_are_at_different_steps_of_all_stages() -> None:
    struck = [kill for row in KILLS for kill in draws(*row)]
    assert len(set(struck)) == len(struck) and {step for _, step in struck} >= {1, 2, 3, 4, 5}
    assert {notebook for notebook, _, _ in KILLS} == STAGES.keys()


def test_the_comparison_sees_a_lost_random_state(job: Run, straight: Run) -> None:
    broken = job("03_dcpt", "lora")
    assert train(broken, "on_step_begin", 3) == -signal.SIGKILL, output(broken)
    checkpoint = broken.parent / "checkpoints" / "checkpoint-2"
    (checkpoint / "rng_state.pth").unlink()
    assert checkpoints.last(checkpoint.parent) is None
    checkpoints.seal(checkpoint)
    assert train(broken) == 0, output(broken)
    assert differences(straight("03_dcpt", "lora"), broken.parent) != []


# --- kills inside a checkpoint ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "step", "counts", "left"),
    [
        ("inside the weights", 4, "checkpoint-2", ["checkpoint-2", "checkpoint-4"]),
        ("before the optimizer", 4, "checkpoint-2", ["checkpoint-2", "checkpoint-4"]),
        ("inside the optimizer", 4, "checkpoint-2", ["checkpoint-2", "checkpoint-4"]),
        ("inside the seal", 4, "checkpoint-2", ["checkpoint-2", "checkpoint-4"]),
        ("inside the seal", 2, None, ["checkpoint-2"]),
        ("while removing", 4, "checkpoint-4", ["checkpoint-2", "checkpoint-4"]),
        ("while saving the model", 6, "checkpoint-6", ["checkpoint-6"]),
    ],
)
def test_killed_in_the_middle_of_a_checkpoint(
    fault: str, step: int, counts: str | None, left: list[str], job: Run, straight: Run
) -> None:
    broken = job("03_dcpt", "lora")
    # The kernel ends a process that writes past its limit with SIGXFSZ, in the middle of the file.
    assert train(broken, fault, step) in (-signal.SIGKILL, -signal.SIGXFSZ), output(broken)
    folder = broken.parent / "checkpoints"
    found = checkpoints.last(folder)
    assert (found and found.name, saved(broken.parent)) == (counts, left)
    if fault == "inside the optimizer":
        sizes = {path.parent.name: path.stat().st_size for path in folder.glob("*/optimizer.pt")}
        assert 0 < sizes["checkpoint-4"] < sizes["checkpoint-2"]
    assert train(broken) == 0, output(broken)
    assert files.read_json(broken.parent / "facts.json")["resumed_from"] == counts
    assert differences(straight("03_dcpt", "lora"), broken.parent) == []
    assert saved(broken.parent) == ["checkpoint-6"]


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_named_and_costs_only_the_checkpoint_that_found_no_room(job: Run, straight: Run) -> None:
    broken = job("04_sft", "lora")
    for fault, cause in (
        ("no room for the weights", r"File too large: \S+/checkpoint-4/\*\.safetensors"),
        ("no room for the optimizer", r"File too large: \S+/checkpoint-4/optimizer\.pt"),
        ("full device", r"No space left on device: \S+/checkpoint-4/optimizer\.pt"),
    ):
        assert train(broken, fault, 4) == 1, output(broken)
        sentence = rf"^qilin_lib\.errors\.QilinError: .*{cause}; make room.* from checkpoint-2$"
        assert re.search(sentence, output(broken), re.MULTILINE), output(broken)
        assert checkpoints.last(broken.parent / "checkpoints").name == "checkpoint-2"
    assert train(broken) == 0, output(broken)
    assert differences(straight("04_sft", "lora"), broken.parent) == []


def test_the_notebook_s_error_names_the_full_disk(job: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = job("05_dpo", "lora")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    source = f"from test_resume import child; child({str(broken)!r}, 'no room for the optimizer', 4)"
    with pytest.raises(QilinError, match=r"exit code 1: .*File too large: .*optimizer\.pt; make room .*\(whole log: "):
        launch.run([sys.executable, "-c", source], broken.parent / "train.log", lambda _: None, 0)
    assert checkpoints.last(broken.parent / "checkpoints").name == "checkpoint-2"


# --- what a resume reads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("notebook", ["03_dcpt", "05_dpo"])
def test_a_resume_unpickles_nothing(notebook: str, job: Run) -> None:
    broken = job(notebook, "lora")
    assert train(broken, "on_step_begin", 3) == -signal.SIGKILL, output(broken)
    assert train(broken, "watch unpickling", 0) == 0, output(broken)
    seen = files.read_json(broken.parent / "unpickling.json")
    assert seen["loaded"] == {name: True for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")}
    assert seen["classes"] == []
    assert seen["control"] == ["fractions.Fraction"]
