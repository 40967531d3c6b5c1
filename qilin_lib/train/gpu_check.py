"""What a GPU alone can prove: speed, memory and hand-over of a 7B, with random weights made on the device.

A model of Baichuan-7B's shape in LLaMA layout; QLoRA as on a card of 24 GB, LoRA at the paper's lengths, generation.
Nothing is installed. It ends within six minutes. `--tiny` runs the same code on the CPU at a small shape.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qilin_lib import files, params, strict_yaml
from qilin_lib.models import decode, merge
from qilin_lib.models.examine import tensors_of
from qilin_lib.models.load import load_model, weight_files
from qilin_lib.models.shapes import KNOWN, sizes
from qilin_lib.runs import environment
from qilin_lib.train import methods, preflight, probe, speed
from qilin_lib.train.speed import GIB

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "bitsandbytes")
# Of the whole check; GiB that a card of 24 GB has beside its context.
SECONDS, CARD_24 = 350, 23.0
Row = dict[str, Any]
CASES, TINY, SMALL = strict_yaml.read(Path(__file__).with_name("gpu_check.yaml")).values()
# Tokens of a block; root mean square of an update by that of the weights.
BLOCK, SHARES = {False: 1024, True: 64}, (0.0005, 0.0025, 0.01)


def lacking(tiny: bool) -> str:
    """Why the check cannot run here, in one sentence; "" if it can."""
    if absent := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        return f"these Python packages are not installed: {', '.join(absent)}"
    import torch

    temporary = tempfile.gettempdir()
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11):
        return f"torch is {torch.__version__}; it takes 2.11 or later"
    if not tiny and not torch.cuda.is_available():
        return "torch sees no GPU here; --tiny runs the same code on the CPU"
    if not tiny and torch.cuda.get_device_properties(0).total_memory < 22 * GIB:
        return "the GPU has less than 22 GiB"
    if not tiny and shutil.disk_usage(temporary).free < 16 * GIB:
        return f"{temporary} has no 16 GiB free for the model; TMPDIR names another folder"
    return ""


def make_base(folder: Path, tiny: bool) -> Row:
    """A random model in Baichuan-7B's LLaMA layout with a tokenizer of as many made-up words."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    config = LlamaConfig(**KNOWN["baichuan-inc/Baichuan-7B"] | (TINY if tiny else {}), pad_token_id=0)
    torch.manual_seed(0)
    with torch.device("cpu" if tiny else "cuda:0"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if tiny else torch.bfloat16)
    model.save_pretrained(folder)
    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(config.vocab_size)}, unk_token="w1"))
    special = {"pad_token": "w0", "unk_token": "w1", "eos_token": "w2"}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    return {"weights": sum(weight.numel() for weight in model.parameters())}


def train_steps(notebook: str, chosen: dict[str, Any], base: Path, tiny: bool) -> Row:
    """Four steps of a case at full rows, its peak beside the estimate."""
    fields = params.MODELS[params.SECTIONS[notebook][0]].model_fields
    own = {"gradient_accumulation_steps": 1, "allow_high_lr": True, **(SMALL if tiny else {"gpus": 1}), **chosen}
    p = params.load(notebook, {name: value for name, value in own.items() if name in fields})
    rows, length = methods.batch(p, BLOCK[tiny])
    least = most = 0.0
    for where, what, size in preflight.training(sizes(base), p, rows, length):
        if where == "training" and what != "CUDA context":
            least, most = least + size / GIB * (what not in preflight.BOUNDS), most + size / GIB
    with tempfile.TemporaryDirectory() as out:
        facts = probe.measure(probe.job_of(p.model_dump(mode="json"), base, Path(out)), BLOCK[tiny], steps=4)
    measured = {"tokens/s": "input_tokens_per_second", "MFU": "mfu", "peak GiB": "peak_memory_gib"}
    bounds = {"batch": f"{rows} x {length}", "at least": round(least, 2), "at most": round(most, 2)}
    return bounds | {column: facts[name] for column, name in measured.items()}


def generated(base: Path, tiny: bool) -> Row:
    """Greedy answers to eight prompts at once, in 16 bit."""
    device, asked, new = ("cpu", 8, 8) if tiny else ("cuda:0", 256, 128)
    model = load_model(base, "float32" if tiny else "bfloat16", device=device).eval()
    prompts = np.random.default_rng(0).integers(4, model.config.vocab_size, (8, asked)).tolist()
    speed.reset_peak_memory()
    started = time.perf_counter()
    written = decode.write(model, prompts, set(), new, lambda logits, _: logits.argmax(-1).tolist())
    rate = sum(map(len, written)) / (time.perf_counter() - started)
    return {"batch": f"8 x {asked} + {new}", "tokens/s": round(rate), "peak GiB": round(speed.peak_memory() / GIB, 3)}


def survival(base: Path, share: float, tiny: bool) -> Row:
    """Share of a rank-8 update, so large against one matrix, that is there when the next stage reads it: stored in
    bfloat16 to nearest, by stochastic rounding, and that as NF4. Projection <stored - W, update> / <update, update>."""
    import torch
    from safetensors import safe_open

    device, (name, _) = "cpu" if tiny else "cuda:0", sizes(base).linear[0]
    file = next(path for path in weight_files(base) if f"{name}.weight" in tensors_of(path))
    with safe_open(file, "pt", device=device) as tensors:
        weight = tensors.get_tensor(f"{name}.weight").bfloat16().float()
    torch.manual_seed(1)
    update = torch.randn(len(weight), 8, device=device) @ torch.randn(8, weight.shape[1], device=device)
    update *= share * weight.std() / update.std()
    stochastic = merge.rounded(weight + update, "bfloat16", "").float().to(device)

    def kept(after: Any, before: Any) -> float | None:
        projection = merge.Projection()
        projection.add(after - before, update)
        return projection.share

    nearest, nf4 = (weight + update).bfloat16().float(), kept(merge.nf4(stochastic), merge.nf4(weight))
    return {"nearest bf16": kept(nearest, weight), "stochastic bf16": kept(stochastic, weight), "as NF4": nf4}


def row(case: Callable[[], Row], deadline: float, gib: float | None = None) -> Row:
    """What a case measured with so much of the GPU (None: all), or in one line why not; it takes no other with it."""
    import torch

    if (left := int(deadline - time.monotonic())) < 20:
        return {"note": "skipped: no time left"}
    signal.alarm(left)
    try:
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(0).total_memory / GIB
            torch.cuda.set_per_process_memory_fraction(min(1.0, (gib or total) / total))
        return case()
    # Out of memory, a library's own complaint, the alarm: all are results of this check.
    except Exception as reason:
        return {"note": f"{type(reason).__name__}: {' '.join(str(reason).split())[:150]}"}
    finally:
        signal.alarm(0)


def check(tiny: bool) -> dict[str, Row]:
    """The table: one row per case."""

    def out_of_time(*_: Any) -> None:
        raise TimeoutError("no time left")

    deadline, rows = time.monotonic() + SECONDS, {}
    signal.signal(signal.SIGALRM, out_of_time)
    with tempfile.TemporaryDirectory(prefix="qilin-gpu-check-") as folder:
        base = Path(folder)
        rows["base"] = row(partial(make_base, base, tiny), deadline)
        for name, (notebook, chosen) in CASES.items():
            gib = CARD_24 if name.startswith("QLoRA") else None
            rows[name] = row(partial(train_steps, notebook, chosen, base, tiny), deadline, gib)
            print(f"{name}: {rows[name]}", flush=True)
        rows["generation"] = row(partial(generated, base, tiny), deadline)
        for share in SHARES:
            rows[f"update of {share:.2%}"] = row(partial(survival, base, share, tiny), deadline)
    return rows


def main(arguments: list[str]) -> None:
    """Print the table, or one sentence why there is none; neither is an error."""
    parser = argparse.ArgumentParser(prog="python -m qilin_lib.gpu_check", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a small model on the CPU: does the check itself work?")
    parser.add_argument("--out", type=Path, help="write the table as JSON too")
    options = parser.parse_args(arguments)
    # One card; before torch looks for them.
    cards = "" if options.tiny else os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ["CUDA_VISIBLE_DEVICES"] = cards.split(",")[0]
    if why := lacking(options.tiny):
        print(f"gpu_check: skipped, because {why}.")
        return
    rows, device = check(options.tiny), "CPU" if options.tiny else (speed.card() or ["unknown"])[0]
    print(device, pd.DataFrame.from_dict(rows, "index").to_string(na_rep=""), sep="\n")
    if options.out:
        files.write_json(options.out, {"device": device, **environment.describe()["packages"], "rows": rows})
