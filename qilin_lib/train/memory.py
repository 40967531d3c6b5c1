"""Bytes that one training process holds, by term: pure formulas over a census of weights and a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qilin_lib.models.shapes import Census, Linear

# NF4 with double quantisation: 4 bits a weight and about 0.127 bit of constants (Dettmers et al. 2023, §3).
NF4_BYTES = 4.127 / 8
# TRL's fused head works in tiles of this many tokens and words (trl/kernels/chunked_logprob.py).
TILE_TOKENS, TILE_WORDS = 4096, 32768
# Temporaries of that head in float32 where there is no Triton, i.e. on the CPU; bytes a logit, from an allocator trace.
TILE_TEMPORARIES = 29
# Cross-entropy in float32 keeps log-probabilities, then makes their gradient and that of the logits: 4 + 4 + 4 bytes.
CROSS_ENTROPY = 12


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass, their longest possible length in tokens, and the share of tokens that carry loss."""

    rows: int
    length: int
    share: float = 1.0

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def scored(self) -> float:
        return self.tokens * self.share


@dataclass(frozen=True)
class Widths:
    """Bytes a number. `arithmetic`: matrix products; `stream`: between layers; `linear`: results of linear layers in
    the feed-forward; `autocast`: torch casts between them (bfloat16 without DeepSpeed, which casts the whole model)."""

    arithmetic: int
    stream: int
    linear: int
    autocast: bool


def widths(parameters: Any) -> Widths:
    """What `fit.prepare_model` and accelerate make of dtype, finetuning and deepspeed."""
    if parameters.dtype == "float32":
        return Widths(4, 4, 4, False)
    if parameters.deepspeed:
        return Widths(2, 2, 2, False)
    # Embeddings stay fp32 in full training, and `prepare_model_for_kbit_training` upcasts them for QLoRA.
    stream = 2 if parameters.finetuning == "lora" else 4
    return Widths(2, stream, 4 if parameters.finetuning == "qlora" else 2, True)


def stored(census: Census, parameters: Any) -> float:
    """Bytes of the base model's weights in one process, before any sharding."""
    width = widths(parameters)
    if parameters.finetuning == "qlora":
        kept = 2 if parameters.deepspeed and parameters.dtype == "bfloat16" else 4
        return census.inner * NF4_BYTES + (census.total - census.inner) * kept
    if parameters.finetuning == "full" and not parameters.deepspeed:
        # Autocast keeps a bfloat16 copy of every linear weight while the graph lives.
        return census.total * 4 + (_matrices(census) * 2 if width.autocast else 0)
    return census.total * (4 if parameters.dtype == "float32" else 2)


def trained_bytes(census: Census, parameters: Any) -> float:
    """Bytes of the trained weights: peft keeps LoRA in fp32, copies of whole modules in the base model's type."""
    if parameters.finetuning == "full":
        return census.total * (4 if not parameters.deepspeed or parameters.dtype == "float32" else 2)
    if parameters.deepspeed and parameters.dtype == "bfloat16":
        return census.trained * 2
    copies = 2 if parameters.finetuning == "lora" and parameters.dtype == "bfloat16" else 4
    return census.lora * 4 + census.copies * copies


def activations(census: Census, parameters: Any, batch: Batch) -> float:
    """Bytes of activations at the peak, without head and loss: what is saved for the backward pass, and its gradients.

    With gradient checkpointing one layer is there in full while it is computed again (Korthikanti et al. 2022,
    arXiv:2205.05198, Eq. 6). In flight are the gradients of one feed-forward and of the stream, in fp32.
    """
    again = max(_layers(census, parameters, batch)) if parameters.gradient_checkpointing else 0.0
    first = _by_layer(census)[0]
    inner = max(linear.outputs for linear in first if linear.name == "gate_proj")
    flying = 4 * (2 * inner + census.config.hidden_size)
    mask = batch.rows * batch.length**2
    return saved(census, parameters, batch) + batch.tokens * (again + flying) + mask


def saved(census: Census, parameters: Any, batch: Batch) -> float:
    """Bytes that autograd saves in the forward pass of the decoder.

    Layer by layer after Korthikanti et al. (§4.1), redone for RMSNorm, SwiGLU, fused attention and LoRA as transformers
    and peft compute them; with gradient checkpointing one input a layer.
    """
    width, layers = widths(parameters), _layers(census, parameters, batch)
    kept = len(layers) * census.config.hidden_size * width.stream if parameters.gradient_checkpointing else sum(layers)
    last_norm = 4 + (width.stream if parameters.finetuning == "full" else 0)
    return batch.tokens * (kept + census.config.hidden_size * last_norm)


def _layers(census: Census, parameters: Any, batch: Batch) -> list[float]:
    """Bytes a token that each decoder layer saves."""
    width = widths(parameters)
    return [_layer(layer, parameters, width, batch, census.config) for layer in _by_layer(census)]


def _layer(linears: list[Linear], parameters: Any, width: Widths, batch: Batch, config: Any) -> float:
    """Bytes a token that one decoder layer saves."""
    full = parameters.finetuning == "full"
    sizes = {linear.name: linear for linear in linears}
    hidden, inner = sizes["q_proj"].inputs, sizes["gate_proj"].outputs
    # RMSNorm computes in fp32 and saves its input so; if its weight is trained, also what it multiplies.
    norms = 2 * hidden * (4 + (width.stream if full else 0)) + 2 * 4
    # Fused attention saves q, k, v, its output, the log-sum-exp of each head, and the mask as a bias.
    # With a mask, transformers repeats k and v for grouped queries.
    attention = (
        4 * sizes["q_proj"].outputs * width.arithmetic
        + 4 * config.num_attention_heads
        + batch.length * width.arithmetic
    )
    # SwiGLU saves gate, its SiLU and up.
    feed_forward = 3 * inner * width.linear
    return norms + attention + feed_forward + _linear_inputs(linears, parameters, width)


def _linear_inputs(linears: list[Linear], parameters: Any, width: Widths) -> float:
    """Bytes a token of inputs that trained weights need; layers with the same input share it unless each casts it."""
    dropout = parameters.lora_dropout > 0
    total, shared = 0.0, set()
    for linear in linears:
        source = {"q_proj": "a", "k_proj": "a", "v_proj": "a", "gate_proj": "m", "up_proj": "m"}.get(linear.name)
        if linear.rank:
            total += linear.rank * width.arithmetic
            if dropout:
                # On a GPU the mask is one byte; the CPU keeps the scaled noise itself.
                total += linear.inputs * (1 if parameters.gpus else 4)
            own = dropout or width.autocast
        elif linear.trained:
            own = width.autocast and width.stream != width.arithmetic and source is not None
        else:
            continue
        if own or linear.name not in ("o_proj",) and (source or linear.name) not in shared:
            total += linear.inputs * width.arithmetic
        shared.add(source or linear.name)
    return total


def logits(census: Census, parameters: Any, batch: Batch) -> float:
    """Bytes at the peak of head and loss: all scored tokens' logits (transformers' cross-entropy), or for DPO one tile
    of them (TRL's fused head)."""
    words, hidden, width = census.config.vocab_size, census.config.hidden_size, widths(parameters)
    if parameters.notebook != "05_dpo":
        return batch.scored * (words * CROSS_ENTROPY + hidden * width.stream)
    kept = batch.tokens * hidden * width.stream
    tokens, tile = min(batch.tokens, TILE_TOKENS), min(words, TILE_WORDS)
    temporaries = 0 if parameters.gpus else tile * TILE_TEMPORARIES
    gradient = batch.tokens * hidden * 4 + (words * hidden * 4 if census.head.trained else 0)
    return tokens * (TILE_WORDS * width.arithmetic + temporaries) + gradient + kept


def _by_layer(census: Census) -> list[list[Linear]]:
    """The linear layers of each decoder layer; a layer begins with q_proj."""
    grouped: list[list[Linear]] = []
    for linear in census.layers:
        if linear.name == "q_proj":
            grouped.append([])
        grouped[-1].append(linear)
    return grouped


def _matrices(census: Census) -> int:
    return census.inner + census.head.inputs * census.head.outputs
