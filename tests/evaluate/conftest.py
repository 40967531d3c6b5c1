"""A raw folder in the real layout, a character-level tokenizer, a stand-in template and a tiny random Llama."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SUBJECTS = ("advanced_mathematics", "clinical_medicine", "physician")


class CharTokenizer:
    """One token a character; 0 pads, 1 ends."""

    eos_token_id, unk_token_id = 1, None
    all_special_ids = (0, 1)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [2 + ord(character) % 500 if ord(character) > 127 else 502 + ord(character) for character in text]

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(i - 502) if i >= 502 else chr(0x4E00 + i) for i in ids if i > 1)


class StandInTemplate:
    """Two role tokens, an end token after the assistant: the interface of tokens.template."""

    name = "stand-in"

    def encode(self, messages: list[dict], tokenizer: Any, add_generation_prompt: bool = False) -> list[int]:
        ids: list[int] = []
        for message in messages:
            user, content = message["role"] == "user", tokenizer.encode(message["content"], add_special_tokens=False)
            ids += [2, *content] if user else [3, *content, 1]
        return ids + [3] * add_generation_prompt


@pytest.fixture
def tokenizer() -> CharTokenizer:
    return CharTokenizer()


@pytest.fixture
def template() -> StandInTemplate:
    return StandInTemplate()


@pytest.fixture
def tiny_llama() -> Any:
    """make(seed) -> a two-layer random LlamaForCausalLM in fp32, context 512, 640 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed: int = 0) -> Any:
        config = LlamaConfig(
            vocab_size=640,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.5,
            eos_token_id=1,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).eval()

    return make


@pytest.fixture
def backend(tiny_model_dir: Path, tmp_path: Path) -> Any:
    """The small trained model with room for five shots: its positions are rotary, so no weight depends on it."""
    import torch

    from qilin_lib.evaluate.backends import TransformersBackend
    from qilin_lib.evaluate.templates import unspoken
    from qilin_lib.models.load import load_model, load_tokenizer
    from qilin_lib.tokens.template import PLAIN

    folder = tmp_path / "model"
    model, tokenizer = load_model(tiny_model_dir), load_tokenizer(tiny_model_dir)
    model.config.max_position_embeddings = tokenizer.model_max_length = 8192
    with torch.no_grad():  # sharper layers: as trained, it says the same letter to everything
        for layer in model.model.layers:
            for weight in layer.parameters():
                weight.mul_(3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TransformersBackend(load_model(folder), load_tokenizer(folder), unspoken(PLAIN), 4, "cpu")


@pytest.fixture
def raw_dir(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    for subject in SUBJECTS:
        _ceval_csv(root, subject, "dev", 5)
        _ceval_csv(root, subject, "val", 7)
    _write_csv(
        root / "cmexam" / "test.csv",
        ["Question", "Options", "Answer", "Explanation"],
        [
            ["叩诊浊音见于", "A 肺不张\nB 肺实变\nC 胸腔积液\nD 肺气肿\nE 气胸", "ABC", "浊音见于含气减少。"],
            ["首选检查是", r"A X线\nB CT检查\nC B超\nD 磁共振\nE 心电图", "B", "CT 分辨率高。"],
            ["由国家制定的是", "A 甲\nB 乙\nC 丙\nD 丁", "nan", "略"],
            ["多行\n题干", "A 甲\nB 乙\nC 丙\nD 丁", "D", ""],
            ["答案不在选项中", "A 甲\nB 乙\nC 丙\nD 丁", "E", "略"],
        ],
    )
    rows = [{"questions": f"头痛{n}天怎么办", "answers": f"建议休息{n}天。"} for n in range(4)]
    path = root / "huatuo26m_test" / "test_datasets.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return root


@pytest.fixture
def stage_of_06(tmp_path: Path, tiny_model_dir: Path, raw_dir: Path) -> Callable[..., Any]:
    """`stage_of_06(name, given)`: notebook 06 of a run whose only model is the tiny base."""
    from qilin_lib import files, params
    from qilin_lib.runs import Stage

    def make(name: str, given: dict[str, Any]) -> Stage:
        folder = tmp_path / name
        path = os.path.relpath(tiny_model_dir, folder / "02_tokenize")
        files.write_json(folder / "02_tokenize" / "base.json", {"path": path, "name": "tiny", "parameters": 100_000})
        built = {"key": "", "digest": "", "inputs": {}, "outputs": {}, "facts": {"raw_dir": str(raw_dir)}}
        files.write_json(folder / "01_build_chimed" / "manifest.json", built)
        return Stage(params.load("06_eval", given), folder, "", {}, False)

    return make


@pytest.fixture
def params() -> SimpleNamespace:
    return SimpleNamespace(
        benchmarks=["ceval", "cmexam", "huatuo"],
        further_benchmarks=None,
        chain=["dcpt", "sft", "dpo"],
        protocols=["fixed", "released"],
        baselines={},
        shots=5,
        ceval_subjects=None,
        ceval_split="val",
        cmexam_split="test",
        batch_size=4,
        seed=1,
        max_items_ceval_per_subject=2,
        max_items_cmexam=None,
        max_items_huatuo=3,
        max_items_further=4,
        max_new_tokens_cmexam=12,
        max_new_tokens_huatuo=9,
        perplexity=False,
        max_new_tokens_ner=9,
        max_new_tokens_dialogue=9,
        tokenisation="char",
        bootstrap_resamples=50,
    )


def _ceval_csv(root: Path, subject: str, split: str, n: int) -> None:
    header = ["id", "question", "A", "B", "C", "D", "answer"] + ["explanation"] * (split == "dev")
    rows = [[i, f"{subject}第{i}题____", "甲", "乙", "丙", "丁", "ABCD"[i % 4], "略"][: len(header)] for i in range(n)]
    _write_csv(root / "ceval" / split / f"{subject}_{split}.csv", header, rows)


def _write_csv(path: Path, header: list[str], rows: list[list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8-sig", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
