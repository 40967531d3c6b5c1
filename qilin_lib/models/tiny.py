"""The built-in base model: a small LLaMA, pre-trained for a minute on general text, so that "base" is a real row."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.models.load import made_once, quiet_libraries
from qilin_lib.tokens.own_template import choose
from qilin_lib.tokens.pack import Blocks, pack
from qilin_lib.tokens.tokenizer import train_tokenizer

Progress = Callable[[str], None]
# Fields that `schema_data.Tiny` and `LlamaConfig` share; the vocabulary's size is the tokenizer's.
SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)


def tiny_base(
    texts: list[str], vocabulary: list[str], shape: Any, seed: int, cache: Path, progress: Progress = lambda *_: None
) -> Path:
    """Folder of the tiny base model, made once and kept in `cache` under a hash of texts, shape, seed and code.

    `texts` are general-domain documents, `vocabulary` the texts that the tokenizer is trained on, `shape` a
    `schema_data.Tiny`; `progress(line)` is called now and then.
    """
    code = [Path(path).read_text(encoding="utf-8") for path in (__file__, inspect.getfile(train_tokenizer))]
    key = files.sha256_text(json.dumps([texts, vocabulary, shape.model_dump(), seed, code]))
    return made_once(cache / f"tiny-{key[:16]}", lambda target: _make(texts, vocabulary, shape, seed, target, progress))


def _make(texts: list[str], vocabulary: list[str], shape: Any, seed: int, target: Path, progress: Progress) -> None:
    tokenizer = train_tokenizer(vocabulary, shape.vocab_size, shape.max_position_embeddings)
    tokenizer.chat_template = choose("auto", tokenizer).jinja(tokenizer.eos_token)
    documents = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    blocks = pack(documents, shape.block_size, tokenizer.eos_token_id, tokenizer.pad_token_id)
    model = new_model(shape, tokenizer, seed)
    losses = pretrain(model, blocks, shape, seed, progress)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    files.write_jsonl(target / "log.jsonl", losses)


def new_model(shape: Any, tokenizer: Any, seed: int) -> Any:
    """A LLaMA of the given shape with random weights drawn from `seed`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    quiet_libraries()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=False,
        use_cache=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **{name: getattr(shape, name) for name in SHAPE},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def pretrain(model: Any, blocks: Blocks, shape: Any, seed: int, progress: Progress) -> list[dict[str, float]]:
    """Plain AdamW with a one-cycle rate over shuffled blocks; returns [{step, loss}] and leaves `model` trained."""
    import torch

    steps, batch = shape.max_steps, shape.per_device_train_batch_size
    order = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=shape.learning_rate, weight_decay=0.01, betas=(0.9, 0.95))
    # At a tenth of ten steps torch would divide by the length of the rise, which is none.
    rise = 0.2 if steps == 10 else 0.1
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, shape.learning_rate, total_steps=steps, pct_start=rise)
    model.train()
    log, queue = [], []
    for step in range(1, steps + 1):
        while len(queue) < batch:
            queue += order.permutation(len(blocks.ids)).tolist()
        rows, queue = queue[:batch], queue[batch:]
        tensors = [torch.from_numpy(a[rows].astype(np.int64)) for a in (blocks.ids, blocks.positions, blocks.labels)]
        loss = model(input_ids=tensors[0], position_ids=tensors[1], labels=tensors[2], use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 10 == 0 or step == steps:
            log.append({"step": step, "loss": round(loss.item(), 4)})
            progress(f"tiny base model: step {step}/{steps}, loss {loss.item():.3f}")
    return log
