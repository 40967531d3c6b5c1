"""A two-layer model with drawn weights, made-up data and a training of them: what golden.json was written from.

Nothing learned comes before: weights are drawn with numpy, the vocabulary is written out (token "w7" has id 7), the
data are made-up ids. So a difference in a loss is a difference in what training computes.
"""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from qilin_lib import files, params
from qilin_lib.tokens.pack import pack
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import fit
from qilin_lib.train import job as jobs
from qilin_lib.train.methods import dcpt, dpo, sft

MODULES: dict[str, ModuleType] = {"03_dcpt": dcpt, "04_sft": sft, "05_dpo": dpo}
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<reserved_102>", "<reserved_103>"]
EOS, USER, ASSISTANT = 3, 4, 5
VOCABULARY = 96
SETTINGS = {
    "gpus": 0, "dtype": "float32", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 6,
    "learning_rate": 0.003, "lr_scheduler_type": "linear", "warmup_ratio": 0.2, "weight_decay": 0.01,
    "max_grad_norm": 1.0, "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear",
    "modules_to_save": [], "gradient_checkpointing": False, "logging_steps": 1, "save_steps": 100, "max_heldout": 1,
    "seed": 17, "deepspeed": None, "report_to": "none", "dry_run": False, "nodes": 1, "nproc_per_node": None,
    "num_train_epochs": 3, "attn_implementation": "auto",
}  # fmt: skip
LENGTHS = {"max_source_length": 60, "max_target_length": 60}
OWN: dict[str, dict[str, Any]] = {
    "03_dcpt": {},
    "04_sft": {**LENGTHS, "max_length": 136, "packing": False, "source_weights": None},
    "05_dpo": {
        **LENGTHS, "beta": 0.5, "allow_high_lr": True, "label_smoothing": 0.0, "rpo_alpha": None, "sampled_prompts": 0,
        "precompute_ref_log_probs": False,
    },
}  # fmt: skip


def make_weights(folder: Path) -> Path:
    """A LLaMA of two layers, weights N(0, 0.08²) from numpy, whose tokenizer splits at blanks."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = SPECIAL + [f"w{i}" for i in range(len(SPECIAL), VOCABULARY)]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=SPECIAL[4:],
    )  # fmt: skip
    tokenizer.chat_template = BAICHUAN.jinja("</s>")
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, use_cache=False,
        pad_token_id=0, bos_token_id=2, eos_token_id=EOS,
    )  # fmt: skip
    model, dice = LlamaForCausalLM(config), np.random.default_rng(5)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.dim() > 1:
                weight.copy_(torch.from_numpy(dice.normal(0, 0.08, tuple(weight.shape)).astype(np.float32)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def words(dice: random.Random, shortest: int, longest: int) -> str:
    """Ids as a text. Every third is its predecessor's neighbour, so that there is something to learn."""
    ids = [dice.randrange(6, VOCABULARY)]
    for place in range(1, dice.randint(shortest, longest)):
        ids.append(6 + (ids[-1] - 5) % 90 if place % 3 == 0 else dice.randrange(6, VOCABULARY))
    return " ".join(f"w{i}" for i in ids)


def ids_of(text: str) -> list[int]:
    return [int(word[1:]) for word in text.split()]


def make_data(folder: Path, dice: random.Random) -> dict[str, dict[str, Path]]:
    """Inputs of the three stages; texts, turns and answers all have different lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = [ids_of(words(dice, 3, 50)) for _ in range(40)]
    pack(documents, 32, EOS, 0).save(folder / "blocks.npy")
    turn = lambda role, *sizes: {"role": role, "content": words(dice, *sizes)}  # noqa: E731
    conversations, pairs = [], []
    for number in range(26):
        split = {"split": "heldout" if number > 23 else "train"}
        asked = [turn("user", 2, 15), turn("assistant", 1, 25)]
        again = [turn("user", 1, 6), turn("assistant", 1, 9)] if number % 3 == 0 else []
        conversations.append({**split, "part": "medical", "source": "s", "messages": asked + again})
        answers = {side: [turn("assistant", 1, 20)] for side in ("chosen", "rejected")}
        pairs.append({**split, "source": "s", "prompt": [turn("user", 2, 12)], **answers})
    files.write_jsonl(folder / "sft.jsonl", conversations)
    files.write_jsonl(folder / "dpo.jsonl", pairs)
    files.write_jsonl(folder / "heldout.jsonl", [{"text": words(dice, 5, 9), "split": "heldout"}])
    return {
        "03_dcpt": {name: folder / "heldout.jsonl" for name in ("medical", "general")}
        | {"blocks": folder / "blocks.npy"},
        "04_sft": {"data": folder / "sft.jsonl"},
        "05_dpo": {"data": folder / "dpo.jsonl", "cache": folder / "cache"},
    }


def run(stage: str, paths: dict[str, Path], out: Path, parameters: SimpleNamespace) -> list[float]:
    """Train as the notebook's child does; the loss of each step as it was logged. L1 holds for one thread."""
    files.write_json(out / "job.json", {
        "parameters": vars(parameters), "out": str(out), "template": "baichuan",
        "paths": {name: str(path) for name, path in paths.items()},
    })  # fmt: skip
    MODULES[stage].work(jobs.read(str(out / "job.json")))
    return [row["loss"] for row in fit.read_log(out) if "loss" in row]


def parameters_of(stage: str, **overrides: Any) -> SimpleNamespace:
    """The parameters of a stage as a child process gets them."""
    return SimpleNamespace(**params.load(stage, {**SETTINGS, **OWN[stage], **overrides}).model_dump(mode="json"))
