"""Packing loses no token, and `isolated` gives every document the loss it has alone (functionary#265)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_lib.tokens.pack import Blocks, load_blocks, pack
from qilin_lib.tokens.template import IGNORE

EOS, PAD = 3, 0
DOCUMENTS = st.lists(st.lists(st.integers(4, 99), max_size=20), max_size=8)
SIZES = st.integers(2, 16)
PACKINGS = st.sampled_from(["isolated", "naive"])


def stream_of(documents: list[list[int]]) -> list[int]:
    return [token for document in documents for token in [*document, EOS]]


@given(documents=DOCUMENTS, size=SIZES, packing=PACKINGS)
def test_every_token_once_and_one_end_each(documents: list[list[int]], size: int, packing: str) -> None:
    blocks = pack(documents, size, EOS, PAD, packing)
    stream = stream_of(documents)
    assert blocks.ids.ravel()[: len(stream)].tolist() == stream
    assert (blocks.ids.ravel()[len(stream) :] == PAD).all()
    assert (blocks.ids == EOS).sum() == len(documents)
    shape = (-(-len(stream) // size), size)
    assert all(part.shape == shape and part.dtype == np.int32 for part in vars(blocks).values())


@given(documents=DOCUMENTS, size=SIZES)
def test_isolated_restarts_at_documents_blocks_and_padding(documents: list[list[int]], size: int) -> None:
    blocks = pack(documents, size, EOS, PAD)
    stream = stream_of(documents)
    starts = {sum(len(d) + 1 for d in documents[:i]) for i in range(len(documents) + 1)}
    since = 0
    for place, (token, position, label) in enumerate(
        zip(blocks.ids.ravel(), blocks.positions.ravel(), blocks.labels.ravel(), strict=True)
    ):
        since = 0 if place in starts or place % size == 0 else since + 1
        assert position == since
        assert label == (IGNORE if since == 0 or place >= len(stream) else token)
    assert blocks.useful_tokens == (blocks.positions.ravel()[: len(stream)] > 0).sum()


@given(documents=DOCUMENTS, size=SIZES)
def test_naive_counts_positions_through(documents: list[list[int]], size: int) -> None:
    blocks = pack(documents, size, EOS, PAD, "naive")
    assert (blocks.positions == np.arange(size)).all()
    length = len(stream_of(documents))
    assert (blocks.labels.ravel()[:length] == blocks.ids.ravel()[:length]).all()
    assert (blocks.labels.ravel()[length:] == IGNORE).all()


def test_padding_of_the_end_tokens_id_carries_no_loss() -> None:
    """pad = eos in LLaMA-like tokenizers: real ends must stay in the loss, padding must not (trl#1623)."""
    blocks = pack([[7, 8]], 6, EOS, EOS)
    assert blocks.ids.tolist() == [[7, 8, EOS, EOS, EOS, EOS]]
    assert blocks.labels.tolist() == [[IGNORE, 8, EOS, IGNORE, IGNORE, IGNORE]]
    assert blocks.positions.tolist() == [[0, 1, 2, 0, 1, 2]]


def test_saved_blocks_come_back_and_keep_their_bytes(tmp_path: Path) -> None:
    blocks = pack([[5, 6, 7], [8, 9]], 4, EOS, PAD)
    for name in ("a.npy", "b.npy"):
        blocks.save(tmp_path / name)
    again = load_blocks(tmp_path / "a.npy")
    assert all((getattr(again, part) == array).all() for part, array in vars(blocks).items())
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    from qilin_lib.models.load import load_model

    return load_model(tiny_model_dir).eval()


def token_losses(model: Any, blocks: Blocks) -> np.ndarray:
    """Loss of every labelled token in the order of the stream, 0 where there is no label."""
    import torch

    ids, positions, labels = (torch.from_numpy(part.astype(np.int64)) for part in vars(blocks).values())
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    losses = torch.zeros(ids.shape)
    losses[:, 1:] = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORE, reduction="none"
    )
    return losses.numpy().ravel()


def alone(model: Any, document: list[int]) -> np.ndarray:
    """The oracle: one document, no neighbours, no padding."""
    import torch

    ids = torch.tensor([[*document, EOS]])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none").numpy()


@pytest.mark.parametrize("packing", ["isolated", "naive"])
def test_only_isolated_packing_keeps_a_documents_own_loss(
    packing: str, model: Any, tiny_tokenizer: Any, sentences: Callable
) -> None:
    documents = tiny_tokenizer(sentences(5, 9), add_special_tokens=False)["input_ids"]
    size = sum(len(document) + 1 for document in documents) + 7
    losses = token_losses(model, pack(documents, size, EOS, PAD, packing))
    differences, place = [], 0
    for document in documents:
        packed = losses[place + 1 : place + len(document) + 1]
        differences.append(abs(packed.mean() - alone(model, document).mean()))
        place += len(document) + 1
    assert differences[0] < 1e-5
    assert max(differences[1:]) < 1e-5 if packing == "isolated" else min(differences[1:]) > 1e-3


def test_loss_of_a_block_is_the_mean_over_documents_tokens(
    model: Any, tiny_tokenizer: Any, sentences: Callable
) -> None:
    """What training sees: `model(labels=…)` of a packed block equals the pooled loss of the documents alone."""
    import torch

    documents = tiny_tokenizer(sentences(3, 10), add_special_tokens=False)["input_ids"]
    blocks = pack(documents, sum(len(d) + 1 for d in documents) + 5, EOS, PAD)
    ids, positions, labels = (torch.from_numpy(part.astype(np.int64)) for part in vars(blocks).values())
    with torch.no_grad():
        loss = model(input_ids=ids, position_ids=positions, labels=labels).loss.item()
    assert loss == pytest.approx(np.concatenate([alone(model, d) for d in documents]).mean(), abs=1e-5)
