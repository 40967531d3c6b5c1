"""Trainings that are killed, or meet a full disk, in processes of their own, and what their ends are compared with.

A training is forked from a server that has imported the libraries once: all run under the same conditions, and a kill
takes what the machine would take.
"""

from __future__ import annotations

import fractions
import importlib
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files
from qilin_lib.models import adapters
from qilin_lib.tokens.pack import pack
from qilin_lib.tokens.template import BAICHUAN, Template
from qilin_lib.train import checkpoints, fit
from qilin_lib.train import job as jobs
from qilin_lib.train.methods import dcpt, dpo, reward, rl, sft

STAGES = {"03_dcpt": dcpt, "04_sft": sft, "05_dpo": dpo}
LIBRARIES = ["torch", "datasets", "bitsandbytes", "peft", "trl.trainer.sft_trainer", "trl.trainer.dpo_trainer"]
MODULES = [module.__name__ for module in (dcpt, sft, dpo, reward, rl)]
SCORES = {module.__name__: module.score for module in (dcpt, sft, dpo, reward)}


# --- what happens inside a child --------------------------------------------------------------------------------------


def child(job: str, module: str, fault: str = "", step: int = 0) -> None:
    """Train with `module` as a child of a notebook does; `fault` strikes at `step`, or in the checkpoint of that step.

    "watch unpickling" is no fault: it trains to the end and leaves unpickling.json.
    """
    import torch

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    read = jobs.read(job)
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
    importlib.import_module(module).work(read)
    if score := SCORES.get(module):
        score(read)


def die(*_: Any, **__: Any) -> None:
    """As if the machine had taken it: no handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def limit_files(out: Path, name: str, share: float, action: int) -> None:
    """From now on the kernel lets no file grow past a share of `name` in the checkpoint before."""
    size = max(path.stat().st_size for path in (out / "checkpoints").glob(f"checkpoint-*/{name}"))
    # Default action: the write that goes too far ends the process in its middle. Ignored: it fails, as on a full disk.
    signal.signal(signal.SIGXFSZ, action)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size * share), resource.RLIM_INFINITY))


def no_room_for_the_model(out: Path) -> None:
    """The checkpoint of the last step finds its place, what is saved behind it finds none."""
    usual = fit.save

    def save(*given: Any) -> None:
        limit_files(out, "*model.safetensors", 0.5, signal.SIG_IGN)
        usual(*given)

    fit.save = save


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
    "while saving the model": die_at(fit, "save"),
    "no room for the weights": lambda out: limit_files(out, "*model.safetensors", 0.5, signal.SIG_IGN),
    "no room for the optimizer": lambda out: limit_files(out, "optimizer.pt", 0.75, signal.SIG_IGN),
    "no room for the model": no_room_for_the_model,
    "full device": full_device,
}


# --- how a child is started and what its end is compared with ---------------------------------------------------------


def triplets(texts: Iterable[str], count: int, held: int = 0) -> list[dict[str, Any]]:
    """Made-up rows of dpo.jsonl, which serve as rows of sft.jsonl too; the last `held` are held out."""
    texts = iter(texts)
    rows = []
    for i in range(count):
        sides = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        turns = {side: [{"role": role, "content": next(texts)}] for side, role in sides.items()}
        row = {
            "id": str(i),
            "source": "ab"[i % 2],
            "part": "medical",
            "split": "train" if i < count - held else "heldout",
        }
        rows.append(row | turns | {"messages": turns["prompt"] + turns["chosen"]})
    return rows


def job(parameters: Any, out: Path, weights: Path, template: Template = BAICHUAN, **paths: Path) -> SimpleNamespace:
    """What `jobs.read` gives to a child."""
    everything = SimpleNamespace(weights=weights, cache=out / "cache", **paths)
    return SimpleNamespace(parameters=parameters, out=out, template=template, paths=everything)


def left(parameters: Any, weights: Path, out: Path, rewards: bool = False) -> Path:
    """What a training leaves in `out`, untrained: an adapter, or full weights, of a reward model if so told."""
    model, tokenizer = (reward if rewards else fit).prepare_model(parameters, weights)
    folder = out / ("model" if parameters.finetuning == "full" else "adapter")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if parameters.finetuning != "full":
        adapters.describe(folder, weights, parameters.finetuning == "qlora", parameters.dtype, BAICHUAN.sha256)
    return folder


def shifted(model: Any, scale: float, seed: int) -> Any:
    """The model, its trained weights that far from where they were made: a fresh adapter changes nothing."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float() + scale * torch.randn(weight.shape)
    return model


def token_logprobs(model: Any, ids: list[int], temperature: float = 1.0) -> Any:
    """log p of every token of one sequence but the first: no padding, float64 from the logits on, with a gradient."""
    import torch

    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].double() / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def write_data(folder: Path, weights: Path, tokenizer: Any, sentences: Callable) -> dict[str, dict[str, Path]]:
    """{notebook: {name: path}} as `job.train_stage` gives them to its child; 26 rows to train on, four held out."""
    documents = tokenizer(sentences(40, 12), add_special_tokens=False)["input_ids"]
    pack(documents, 64, tokenizer.eos_token_id, tokenizer.pad_token_id or 0).save(folder / "blocks.npy")
    files.write_jsonl(folder / "held.jsonl", [{"text": text} for text in sentences(4, 13)])
    files.write_jsonl(folder / "rows.jsonl", triplets(sentences(90, 14), 30, held=4))
    held = {"medical": folder / "held.jsonl", "general": folder / "held.jsonl"}
    return {
        "03_dcpt": {"weights": weights, "blocks": folder / "blocks.npy", **held},
        "04_sft": {"weights": weights, "data": folder / "rows.jsonl"},
        "05_dpo": {"weights": weights, "data": folder / "rows.jsonl"},
    }


def write_job(folder: Path, parameters: Any, paths: dict[str, Path], module: str = dcpt.__name__) -> Path:
    """job.json as a notebook leaves it for its child."""
    files.write_json(
        folder / "job.json",
        {
            "module": module,
            "parameters": vars(parameters),
            "out": str(folder),
            "template": "baichuan",
            "paths": {key: str(path) for key, path in paths.items()},
        },
    )
    return folder / "job.json"


def train(job: Path, module: ModuleType, *fault: Any) -> int:
    """`child` in a process of its own; its exit code, negative for a signal."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([*LIBRARIES, *MODULES])
    process = server.Process(target=quietly, args=(str(job), module.__name__, *fault))
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
        pytest.fail(f"the child hangs: {output(job)}")
    return int(process.exitcode or 0)


def quietly(job: str, module: str, *fault: Any) -> None:
    """`child` with its output in child.log."""
    log = os.open(Path(job).parent / "child.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    child(job, module, *fault)


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
