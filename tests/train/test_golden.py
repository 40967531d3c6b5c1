"""The loss of every step of a two-layer model in DCPT, SFT and DPO, kept in golden.json.

Nothing learned comes before: weights are drawn with numpy, the vocabulary is written out (token "w7" has id 7), the
data are made-up ids. So a difference here is a difference in what training computes. When one is wanted, write the
file anew with

    OMP_NUM_THREADS=1 python tests/train/test_golden.py --write

and say in the commit message why the losses changed.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qilin_lib import files
from qilin_lib.tokens.pack import pack
from qilin_lib.tokens.template import BAICHUAN, IGNORE
from qilin_lib.train import dcpt, dpo, fit, sft

GOLDEN = Path(__file__).with_name("golden.json")
MODULES: dict[str, ModuleType] = {"03_dcpt": dcpt, "04_sft": sft, "05_dpo": dpo}
CASES = [(stage, kind) for stage in MODULES for kind in ("full", "lora")]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<reserved_102>", "<reserved_103>"]
EOS, USER, ASSISTANT = 3, 4, 5
VOCABULARY = 96
SETTINGS = {
    "gpus": 0, "dtype": "float32", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 6,
    "learning_rate": 0.003, "lr_scheduler_type": "linear", "warmup_ratio": 0.2, "weight_decay": 0.01,
    "max_grad_norm": 1.0, "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear",
    "modules_to_save": [], "gradient_checkpointing": False, "logging_steps": 1, "save_steps": 100, "max_heldout": 1,
    "seed": 17, "deepspeed": None, "report_to": "none", "dry_run": False, "nodes": 1, "nproc_per_node": None,
    "num_train_epochs": 3,
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
    """Train as the notebook's child does; the loss of each step as it was logged."""
    import torch

    files.write_json(out / "job.json", {
        "parameters": vars(parameters), "out": str(out), "template": "baichuan",
        "paths": {name: str(path) for name, path in paths.items()},
    })  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        MODULES[stage].work(fit.read_job(str(out / "job.json")))
    finally:
        torch.set_num_threads(threads)
    return [row["loss"] for row in fit.read_log(out) if "loss" in row]


def parameters_of(stage: str, **overrides: Any) -> SimpleNamespace:
    """The parameters of a stage as a child process gets them."""
    from qilin_lib import params

    return SimpleNamespace(**params.load(stage, {**SETTINGS, **OWN[stage], **overrides}).model_dump(mode="json"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    return make_data(tmp_path_factory.mktemp("data"), random.Random(6))


@pytest.fixture(scope="module")
def losses(weights: Path, data: dict, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], list[float]]:
    """`losses(stage, kind)`: the loss of every step, trained once."""
    done: dict[tuple[str, str], list[float]] = {}

    def make(stage: str, kind: str) -> list[float]:
        if (stage, kind) not in done:
            out = tmp_path_factory.mktemp(f"{stage}-{kind}")
            done[stage, kind] = run(
                stage, {"weights": weights, **data[stage]}, out, parameters_of(stage, finetuning=kind)
            )
        return done[stage, kind]

    return make


@pytest.mark.parametrize("stage, kind", CASES)
def test_losses_are_the_golden_ones(stage: str, kind: str, losses: Callable) -> None:
    expected = files.read_json(GOLDEN)[f"{stage} {kind}"]
    found = losses(stage, kind)
    assert len(found) == SETTINGS["max_steps"] and found == pytest.approx(expected, rel=1e-5, abs=0)


def first_batch(rows: list[Any], size: int = 4) -> list[Any]:
    """The rows that accelerate's seeded sampler takes first: a permutation of torch's from the trainer's seed."""
    import torch

    generator = torch.Generator().manual_seed(SETTINGS["seed"])
    return [rows[i] for i in torch.randperm(len(rows), generator=generator)[:size]]


def token_losses(model: Any, ids: list[int], learn: list[bool]) -> list[float]:
    """-log p of each token that is learned, one sequence at a time."""
    import torch

    with torch.no_grad():
        table = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
    return [-table[i - 1, ids[i]].item() for i in range(1, len(ids)) if learn[i]]


def chat(messages: list[dict[str, str]]) -> tuple[list[int], list[bool]]:
    ids: list[int] = []
    learn: list[bool] = []
    for message in messages:
        content = ids_of(message["content"])
        if message["role"] == "user":
            ids, learn = [*ids, USER, *content], learn + [False] * (len(content) + 1)
        else:
            ids, learn = [*ids, ASSISTANT, *content, EOS], learn + [False] + [True] * (len(content) + 1)
    return ids, learn


def by_hand(stage: str, model: Any, data: dict[str, Path]) -> float:
    """The first loss from the paper's formulas: mean over the batch's learned tokens; DPO at its reference: ln 2."""
    if stage == "05_dpo":
        return math.log(2)
    found: list[float] = []
    if stage == "04_sft":
        rows = [row for row in files.read_jsonl(data["data"]) if row["split"] == "train"]
        for row in first_batch(rows):
            found += token_losses(model, *chat(row["messages"]))
    else:
        ids, positions, labels = np.load(data["blocks"])
        for b in first_batch(list(range(len(ids)))):
            starts = [i for i in range(ids.shape[1]) if positions[b, i] == 0] + [ids.shape[1]]
            for start, end in zip(starts, starts[1:], strict=False):
                learn = [label != IGNORE for label in labels[b, start:end]]
                found += token_losses(model, ids[b, start:end].tolist(), learn)
    return sum(found) / len(found)


@pytest.mark.parametrize("stage", list(MODULES))
def test_first_loss_is_the_one_by_hand(stage: str, losses: Callable, weights: Path, data: dict) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(weights, attn_implementation="eager").eval()
    expected = by_hand(stage, model, data[stage])
    assert losses(stage, "lora")[0] == pytest.approx(expected, rel=1e-5)
    assert losses(stage, "full")[0] == pytest.approx(expected, rel=1e-5)


def write() -> None:
    """Train all cases and replace golden.json."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base, inputs = make_weights(root / "weights"), make_data(root / "data", random.Random(6))
        found = {}
        for stage, kind in CASES:
            out = root / f"{stage}-{kind}"
            out.mkdir()
            paths = {"weights": base, **inputs[stage]}
            found[f"{stage} {kind}"] = run(stage, paths, out, parameters_of(stage, finetuning=kind))
            print(stage, kind, found[f"{stage} {kind}"])
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit(__doc__)
    write()
