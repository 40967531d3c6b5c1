"""Baichuan's forward pass in plain torch, checkpoints in its own layout, and SentencePiece models for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]
# As Baichuan-7B's: markup, line ends, digits and wide punctuation, then the role tags.
SYMBOLS = ["<SEP>", "\n", "\t", "<br>", "<br/>", "---", "-->", *"0123456789０１２３", *"，。！？："]
SYMBOLS += [f"<reserved_{number}>" for number in range(100, 106)]


def configuration(**changes: Any) -> dict[str, Any]:
    made = {
        "architectures": ["BaiChuanForCausalLM"],
        "model_type": "baichuan",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": "silu",
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "vocab_size": 900,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    return {**made, **changes}


def random_tensors(config: dict[str, Any], dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensors:
    """Weights large enough that every part of the forward pass shows in the logits."""
    draw = torch.Generator().manual_seed(seed)
    hidden, wide, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    width = hidden // config["num_attention_heads"]

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=draw) / columns**0.5).to(dtype)

    def scale() -> torch.Tensor:
        return (1 + 0.3 * torch.randn(hidden, generator=draw)).to(dtype)

    made = {"model.embed_tokens.weight": matrix(vocabulary, hidden)}
    for number in range(config["num_hidden_layers"]):
        at = f"model.layers.{number}."
        made[at + "self_attn.W_pack.weight"] = matrix(3 * hidden, hidden)
        made[at + "self_attn.o_proj.weight"] = matrix(hidden, hidden)
        made[at + "self_attn.rotary_emb.inv_freq"] = 1 / (10000 ** (torch.arange(0, width, 2).float() / width))
        made[at + "mlp.gate_proj.weight"] = matrix(wide, hidden)
        made[at + "mlp.down_proj.weight"] = matrix(hidden, wide)
        made[at + "mlp.up_proj.weight"] = matrix(wide, hidden)
        made[at + "input_layernorm.weight"] = scale()
        made[at + "post_attention_layernorm.weight"] = scale()
    return {**made, "model.norm.weight": scale(), "lm_head.weight": matrix(vocabulary, hidden)}


def write_weights(folder: Path, tensors: Tensors, kind: str, shards: int) -> None:
    """Write `kind` "bin" or "safetensors"; more than one shard comes with an index."""
    from safetensors.torch import save_file

    stem, index = {"bin": ("pytorch_model", "pytorch_model.bin"), "safetensors": ("model", "model.safetensors")}[kind]
    names, weight_map = list(tensors), {}
    for number in range(shards):
        part = {name: tensors[name] for name in names[number::shards]}
        file = f"{stem}.{kind}" if shards == 1 else f"{stem}-{number + 1:05}-of-{shards:05}.{kind}"
        (torch.save if kind == "bin" else save_file)(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        (folder / f"{index}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def rotated(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """x (batch, heads, length, width): dimension i turns with i + width / 2 by position / 10000^(2i / width)."""
    half = x.shape[-1] // 2
    angle = positions[:, None, :, None] / 10000 ** (torch.arange(half, dtype=torch.float32) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1)


def forward(
    tensors: Tensors, config: dict[str, Any], ids: torch.Tensor, mask: torch.Tensor | None = None, second: bool = False
) -> torch.Tensor:
    """Logits (batch, length, vocabulary) in fp32. mask: 1 for text, 0 for padding; `second`: Baichuan2's NormHead."""
    t = {name: tensor.float() for name, tensor in tensors.items()}
    mask = torch.ones_like(ids) if mask is None else mask
    batch, length = ids.shape
    heads, eps = config["num_attention_heads"], config["rms_norm_eps"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    seen = torch.ones(length, length, dtype=torch.bool).tril() & mask[:, None, None, :].bool()
    seen = seen | torch.eye(length, dtype=torch.bool)
    x = t["model.embed_tokens.weight"][ids]
    for number in range(config["num_hidden_layers"]):
        at = f"model.layers.{number}."
        packed = norm(x, t[at + "input_layernorm.weight"], eps) @ t[at + "self_attn.W_pack.weight"].T
        packed = packed.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = rotated(packed[0], positions), rotated(packed[1], positions), packed[2]
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        mixed = scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value
        x = x + mixed.transpose(1, 2).reshape(batch, length, -1) @ t[at + "self_attn.o_proj.weight"].T
        y = norm(x, t[at + "post_attention_layernorm.weight"], eps)
        gate = y @ t[at + "mlp.gate_proj.weight"].T
        gated = gate * gate.sigmoid() * (y @ t[at + "mlp.up_proj.weight"].T)
        x = x + gated @ t[at + "mlp.down_proj.weight"].T
    head = t["lm_head.weight"]
    return norm(x, t["model.norm.weight"], eps) @ (head / head.norm(dim=-1, keepdim=True) if second else head).T


# --- SentencePiece ----------------------------------------------------------------------------------------------------


def trained(folder: Path, texts: list[str], pieces: int = 900, **changes: Any) -> Path:
    """A small BPE model by SentencePiece's own trainer, with Baichuan's settings as far as they are known."""
    from sentencepiece import SentencePieceTrainer

    settings: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": pieces,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "nmt_nfkc",
        "add_dummy_prefix": True,
        "remove_extra_whitespaces": True,
        "user_defined_symbols": SYMBOLS,
        "hard_vocab_limit": True,
        "character_coverage": 1.0,
        "num_threads": 1,
        "minloglevel": 2,
    }
    prefix = folder / "tokenizer"
    SentencePieceTrainer.train(sentence_iterator=iter(texts), model_prefix=str(prefix), **{**settings, **changes})
    return prefix.with_suffix(".model")


def proto(pieces: list[tuple[str, float, int]], charsmap: bytes) -> bytes:
    """A SentencePiece model, BPE with byte fallback and SentencePiece's default prefix and spaces, of the given pieces
    (text, score, type)."""
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    made = ModelProto()
    for text, score, kind in pieces:
        made.pieces.add(piece=text, score=score, type=kind)
    made.trainer_spec.model_type = made.trainer_spec.BPE
    made.trainer_spec.vocab_size = len(pieces)
    made.trainer_spec.byte_fallback = True
    made.normalizer_spec.precompiled_charsmap = charsmap
    return made.SerializeToString()
