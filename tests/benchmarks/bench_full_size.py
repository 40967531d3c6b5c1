"""By hand, on a CPU: a random checkpoint in Baichuan-7B's layout through conversion, QLoRA SFT and scoring, and 03 to
05 at its widths with eight layers.

python tests/benchmarks/bench_full_size.py WORK [sharded one sft chain]: 50 GB of disk, 20 GiB of memory, half an hour.
Peaks are of anonymous memory: pages of mapped files, which the kernel takes back at any time, are not in them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import baichuan_oracle as oracle  # noqa: E402

from qilin_lib import files, params  # noqa: E402
from qilin_lib.models.adapters import trained  # noqa: E402

SHAPE = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 64000}
SHAPE |= {"max_position_embeddings": 4096, "torch_dtype": "float16"}
TEXTS = [f"患者咳嗽发热{n}天，头痛伴恶心，建议多喝水休息，血压偏高需要复查。" for n in range(200)]
SHORT = {"gpus": 0, "dtype": "bfloat16", "deepspeed": None, "per_device_train_batch_size": 1, "max_heldout": 2}
SHORT |= {"gradient_accumulation_steps": 1, "max_steps": 2, "logging_steps": 1, "warmup_ratio": 0.0}
TURNS = {"max_source_length": 28, "max_target_length": 28}


def measured(arguments: list[str], log: Path) -> dict[str, float]:
    """{seconds, gib}: of a command and the largest anonymous memory of its process. Raises if it fails."""
    started, peak = time.monotonic(), 0
    with open(log, "a", encoding="utf-8") as handle:
        process = subprocess.Popen([sys.executable, *arguments], stdout=handle, stderr=subprocess.STDOUT)
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
                peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line[:7] == "RssAnon")])
            except OSError:
                pass
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"{arguments} ended with {process.returncode}; see {log}")
    return {"seconds": round(time.monotonic() - started, 1), "gib": round(peak / 2**20, 2)}


def write_source(folder: Path, layers: int, shards: int) -> None:
    """A random checkpoint in Baichuan's layout: one .bin file, or several."""
    folder.mkdir(parents=True)
    config = oracle.configuration(**SHAPE, num_hidden_layers=layers)
    files.write_json(folder / "config.json", config)
    import torch

    oracle.write_weights(folder, oracle.random_tensors(config, torch.float16), "bin", shards)
    oracle.trained(folder, TEXTS, 620, hard_vocab_limit=False).rename(folder / "tokenizer.model")


def source(work: Path, layers: int, shards: int) -> Path:
    """In a process of its own, so that its memory is gone."""
    folder = work / "source"
    shutil.rmtree(folder, ignore_errors=True)
    told("write", measured([__file__, "--source", str(folder), str(layers), str(shards)], work / "log.txt"))
    return folder


def convert(work: Path, name: str, layers: int, shards: int) -> Path:
    target = work / name
    shutil.rmtree(target, ignore_errors=True)
    origin = source(work, layers, shards)
    command = ["-m", "qilin_lib.models.baichuan", str(origin), str(target)]
    told(f"convert {layers} layers, {shards} file(s)", measured(command, work / "log.txt"))
    shutil.rmtree(origin)
    return target


def job(work: Path, notebook: str, paths: dict[str, Path], phases: list[str], **more: Any) -> dict[str, Any]:
    """Run the phases of a training as its notebook does; returns its facts."""
    out = work / "run" / notebook
    shutil.rmtree(out, ignore_errors=True)
    chosen = {"profile": "qlora_24gb", "run": "bench", **SHORT, **more}
    described = {
        "module": f"qilin_lib.train.methods.{notebook[3:]}",
        "parameters": params.load(notebook, chosen).model_dump(mode="json"),
        "out": str(out),
        "start": str(out / "start"),
        "template": "baichuan",
        "paths": {name: str(path) for name, path in paths.items()},
    }
    files.write_json(out / "job.json", described)
    for phase in phases:
        command = ["-m", "qilin_lib.train.job", str(out / "job.json"), phase]
        told(f"{notebook} {phase}", measured(command, work / "log.txt"))
    return files.read_json(out / "facts.json")


def write_data(work: Path, base: Path) -> dict[str, Path]:
    from qilin_lib.models.load import load_tokenizer
    from qilin_lib.tokens.pack import pack

    turn = lambda role, text: {"role": role, "content": text}  # noqa: E731
    sft, dpo = [], []
    for number, text in enumerate(TEXTS):
        row = {"id": str(number), "part": "medical", "source": "x", "split": "train" if number < 190 else "heldout"}
        asked, answered = turn("user", text), turn("assistant", text[::-1])
        sft.append({**row, "messages": [asked, answered]})
        dpo.append({**row, "prompt": [asked], "chosen": [answered], "rejected": [turn("assistant", "不知道。")]})
    files.write_jsonl(work / "sft.jsonl", sft)
    files.write_jsonl(work / "dpo.jsonl", dpo)
    files.write_jsonl(work / "held.jsonl", [{"text": text} for text in TEXTS[190:]])
    tokenizer = load_tokenizer(base)
    tokens = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    pack(tokens, 64, tokenizer.eos_token_id, 0).save(work / "blocks.npy")
    return {name: work / f"{name}.jsonl" for name in ("sft", "dpo", "held")} | {"blocks": work / "blocks.npy"}


def told(what: str, figures: dict[str, Any]) -> None:
    print(json.dumps({"what": what, **figures}, ensure_ascii=False), flush=True)


def main(work: Path, parts: list[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    if "sharded" in parts:
        shutil.rmtree(convert(work, "sharded", 32, 8))
    if "one" in parts:
        convert(work, "llama", 32, 1)
    if "sft" in parts:
        data = write_data(work, work / "llama")
        paths = {"weights": work / "llama", "data": data["sft"]}
        job(work, "04_sft", paths, ["train", "score"], max_length=96, packing=False, **TURNS)
    if "chain" in parts:
        shutil.rmtree(work / "llama", ignore_errors=True)
        base = convert(work, "llama", 8, 1)
        data = write_data(work, base)
        held = {"medical": data["held"], "general": data["held"], "blocks": data["blocks"]}
        steps = {"max_steps": 6}
        job(work, "03_dcpt", {"weights": base, **held}, ["train", "score"], **steps)
        phases, before = ["open", "train", "score"], trained(work / "run" / "03_dcpt")
        for notebook, name in (("04_sft", "sft"), ("05_dpo", "dpo")):
            more = {"max_length": 96, "packing": False} if name == "sft" else {"sampled_prompts": 1}
            paths = {"weights": before, "data": data[name], "cache": work / "cache"}
            facts = job(work, notebook, paths, phases, **TURNS, **steps, **more)
            told(f"{notebook} stands on", {key: facts[key] for key in ("update_kept", "update_kept_nf4")})
            before = trained(work / "run" / notebook)


if __name__ == "__main__":
    if sys.argv[1] == "--source":
        sys.exit(write_source(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
    main(Path(sys.argv[1]), sys.argv[2:] or ["sharded", "one", "sft", "chain"])
