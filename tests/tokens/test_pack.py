"""Packing loses no token, and `isolated` gives every document the loss it has alone (functionary#265)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import families
from hypothesis import given
from hypothesis import strategies as st

from qilin_lib.tokens.pack import Blocks, pack
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


def test_padding_of_the_end_tokens_id_carries_no_loss() -> None:
    """pad = eos in LLaMA-like tokenizers: real ends must stay in the loss, padding must not (trl#1623)."""
    blocks = pack([[7, 8]], 6, EOS, EOS)
    assert blocks.ids.tolist() == [[7, 8, EOS, EOS, EOS, EOS]]
    assert blocks.labels.tolist() == [[IGNORE, 8, EOS, IGNORE, IGNORE, IGNORE]]
    assert blocks.positions.tolist() == [[0, 1, 2, 0, 1, 2]]


@pytest.fixture(scope="module")
def random_model(tiny_shape: Any, tiny_tokenizer: Any) -> Any:
    return families.wide_weights(tiny_shape, tiny_tokenizer)


def block_sums(model: Any, blocks: Blocks) -> np.ndarray:
    """Summed loss of each block through the model's own loss, as training computes it."""
    import torch

    sums, how = [], {"use_cache": False, "num_items_in_batch": 1}
    for parts in zip(*vars(blocks).values(), strict=True):
        ids, positions, labels = (torch.from_numpy(part.astype(np.int64))[None] for part in parts)
        with torch.no_grad():
            sums.append(model(input_ids=ids, position_ids=positions, labels=labels, **how).loss.item())
    return np.array(sums)


def pieces_of(documents: list[list[int]], size: int) -> list[list[list[int]]]:
    """For each block the pieces of documents in it: documents with their ends, one after the other, cut at borders."""
    found: list[list[list[int]]] = []
    place = 0
    for document in documents:
        rest = [*document, EOS]
        while rest:
            room = size - place % size
            if room == size:
                found.append([])
            found[-1].append(rest[:room])
            place += len(rest[:room])
            rest = rest[room:]
    return found


def piece_loss(model: Any, piece: list[int]) -> float:
    """Summed loss of one piece forwarded by itself: no packing, no labels, no position ids, no padding."""
    import torch

    with torch.no_grad():
        table = model(input_ids=torch.tensor([piece]), use_cache=False).logits[0].double().log_softmax(-1)
    return -sum(table[i - 1, piece[i]].item() for i in range(1, len(piece)))


def causal_loss(model: Any, ids: list[int], pad: int) -> float:
    """Summed loss of `ids` under a plain causal mask that is written out; the last `pad` tokens are padding."""
    import torch

    length = len(ids)
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), attention_mask=mask, use_cache=False).logits
    table = logits[0].double().log_softmax(-1)
    return -sum(table[i - 1, ids[i]].item() for i in range(1, length - pad))


def made_up(seed: int, longest: int) -> list[list[int]]:
    dice = np.random.default_rng(seed)
    return [dice.integers(6, 300, dice.integers(0, longest)).tolist() for _ in range(9)]


@pytest.mark.parametrize("seed, longest, size", [(1, 12, 16), (2, 40, 16), (3, 30, 64), (4, 8, 2)])
def test_isolated_blocks_have_the_losses_of_their_pieces_alone(
    seed: int, longest: int, size: int, random_model: Any
) -> None:
    documents = made_up(seed, longest)
    expected = [sum(piece_loss(random_model, p) for p in pieces) for pieces in pieces_of(documents, size)]
    found = block_sums(random_model, pack(documents, size, EOS, PAD))
    assert len(expected) > 1 and found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    naive = block_sums(random_model, pack(documents, size, EOS, PAD, "naive"))
    assert abs(naive - found).max() > 1


@pytest.mark.parametrize("seed, longest, size", [(1, 12, 16), (2, 40, 16), (3, 30, 64)])
def test_naive_blocks_have_the_loss_of_the_running_text(seed: int, longest: int, size: int, random_model: Any) -> None:
    documents = made_up(seed, longest)
    stream = stream_of(documents)
    padded = stream + [PAD] * (-len(stream) % size)
    starts = range(0, len(padded), size)
    expected = [
        causal_loss(random_model, padded[start : start + size], max(0, start + size - len(stream))) for start in starts
    ]
    found = block_sums(random_model, pack(documents, size, EOS, PAD, "naive"))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
