"""Attention over packed rows: the numbers of transformers' sdpa with its isolation mask, without a mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import families

from qilin_lib.errors import QilinError
from qilin_lib.models import attention
from qilin_lib.models.adapters import add_lora
from qilin_lib.models.load import load_model
from qilin_lib.tokens.pack import pack
from qilin_lib.train.fit import prepare_model
from qilin_lib.train.methods import dcpt, sft

WIDTH = 24
# Documents of every row, by length: a row is what they fill.
LAYOUTS = {
    "many": [[5, 1, 1, 7, 2, 8]],
    "one": [[24]],
    "ends-with-one-token": [[23, 1]],
    "begins-with-one-token": [[1, 23]],
    "equal": [[6, 6, 6, 6], [6, 6, 6, 6]],
    "rows": [[24], [24], [10, 14], [3, 3, 3, 15], [14, 10], [10, 14]],
    "padding-as-a-document": [[20, 4], [24], [9, 15]],
    "single-tokens": [[1] * 24, [24]],
}


def batch(layout: list[list[int]], vocabulary: int = 90) -> dict[str, Any]:
    """Random ids; positions and labels as packing makes them: a document's first token is not learned."""
    import torch

    positions = torch.tensor([[place for length in row for place in range(length)] for row in layout])
    ids = torch.from_numpy(np.random.default_rng(3).integers(6, vocabulary, tuple(positions.shape)))
    return {"input_ids": ids, "position_ids": positions, "labels": ids.masked_fill(positions == 0, -100)}


@pytest.fixture(scope="module", params=[2, 4], ids=["grouped-heads", "own-heads"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA of two layers and four query heads on two or four heads of keys, wide weights: neighbours would show."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=request.param, max_position_embeddings=128, initializer_range=0.15,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("llama")
    with torch.random.fork_rng():
        torch.manual_seed(4)
        LlamaForCausalLM(config).save_pretrained(path)
    return path


def passed(model: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(logits, gradients by name) of a training pass."""
    model.zero_grad()
    output = model.train()(**given)
    output.loss.backward()
    return output.logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def furthest(found: tuple[Any, dict[str, Any]], expected: tuple[Any, dict[str, Any]]) -> float:
    """The largest difference of a logit or a gradient."""
    assert found[1].keys() == expected[1].keys() and found[1]
    pairs = [(found[0], expected[0]), *((found[1][name], expected[1][name]) for name in found[1])]
    return max((one - other).abs().max().item() for one, other in pairs)


def of_kind(kind: str, folder: Path, name: str, training: Callable) -> Any:
    """A model with attention `name`; "lora" with an adapter that is not zero any more."""
    import torch

    model = load_model(folder, attention=name)
    if kind == "lora":
        torch.manual_seed(6)
        model = add_lora(model, training("03_dcpt"), False)
        for weight_name, weight in model.named_parameters():
            if "lora_B" in weight_name:
                torch.nn.init.normal_(weight, std=0.05)
        model.enable_input_require_grads()
    if kind != "full":
        model.gradient_checkpointing_enable()
    assert model.config._attn_implementation == name
    return model


@pytest.mark.parametrize("kind", ["full", "checkpointing", "lora"])
def test_logits_and_gradients_are_those_of_the_isolation_mask(kind: str, folder: Path, training: Callable) -> None:
    ours, theirs = (of_kind(kind, folder, name, training) for name in ("documents", "sdpa"))
    for name, layout in LAYOUTS.items():
        given = batch(layout)
        assert furthest(passed(ours, given), passed(theirs, given)) < 1e-5, name


def test_the_bound_means_something(folder: Path) -> None:
    """Without isolation the same batches have other logits, and each document alone has ours."""
    import torch

    ours, theirs = (load_model(folder, attention=name).eval() for name in ("documents", "sdpa"))
    for name in ("many", "rows", "padding-as-a-document"):
        given = batch(LAYOUTS[name])
        with torch.no_grad():
            found = ours(**given).logits
            naive = theirs(input_ids=given["input_ids"]).logits
            for ids, logits, lengths in zip(given["input_ids"], found, LAYOUTS[name], strict=True):
                parts = zip(ids.split(lengths), logits.split(lengths), strict=True)
                for alone, together in parts:
                    assert torch.allclose(theirs(input_ids=alone[None]).logits[0], together, atol=1e-5)
        assert (found - naive).abs().max() > 0.1, name


@pytest.mark.parametrize("padded", [0, 4])
def test_an_attention_mask_is_refused(padded: int, folder: Path) -> None:
    """Also one that hides nothing: with it transformers ignores position ids that restart."""
    import torch

    model, mask = load_model(folder, attention="documents"), torch.ones(1, WIDTH, dtype=torch.long)
    mask[:, :padded] = 0
    for some in (mask, mask[:, None, None].bool().expand(1, 1, WIDTH, WIDTH).tril()):
        with pytest.raises(ValueError, match='load the model with attention="sdpa"'):
            model(**batch(LAYOUTS["many"]), attention_mask=some)


def test_what_reads_no_documents_is_refused_and_an_empty_cache_changes_nothing(folder: Path) -> None:
    """A cache that holds tokens, a layer that passes no positions. transformers' own mask forgets the documents where
    there is a cache; ours never asks it."""
    import torch

    ours, theirs = (load_model(folder, attention=name).eval() for name in ("documents", "sdpa"))
    given, states = batch(LAYOUTS["many"]), torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match="keys of the same tokens"):
        ours.generate(input_ids=given["input_ids"], use_cache=True, min_new_tokens=3, max_new_tokens=3, pad_token_id=0)
    with pytest.raises(ValueError, match="needs position_ids"):
        attention.document_attention(torch.nn.Module(), states, states, states, None)
    with torch.no_grad():
        before = ours(**given, use_cache=True).logits
        assert torch.allclose(before, theirs(**given).logits, atol=1e-5)
        # Positions that were written in place are read anew.
        given["position_ids"].copy_(batch([[12, 12]])["position_ids"])
        after = ours(**given).logits
        assert torch.allclose(after, theirs(**given).logits, atol=1e-5) and (before - after).abs().max() > 0.1


@pytest.mark.parametrize(("window", "masked"), [(WIDTH - 1, True), (WIDTH, False), (WIDTH + 1, False)])
@pytest.mark.parametrize("family", ["mistral", "gemma3", "phi3"])
def test_a_window_is_kept_and_costs_a_mask_only_where_it_is_shorter_than_a_row(
    family: str, window: int, masked: bool, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import masking_utils

    path = families.base(family, tiny_tokenizer, tmp_path, sliding_window=window)
    made = []
    usual = masking_utils.sdpa_mask
    monkeypatch.setattr(masking_utils, "sdpa_mask", lambda *a, **k: made.append(1) or usual(*a, **k))
    ours = load_model(path, attention="documents")
    found = {name: passed(ours, batch(layout)) for name, layout in LAYOUTS.items()}
    assert bool(made) == masked
    theirs = load_model(path, attention="sdpa")
    for name, layout in LAYOUTS.items():
        assert furthest(found[name], passed(theirs, batch(layout))) < 1e-4, name


@pytest.mark.parametrize(
    ("notebook", "changed", "expected"),
    [
        ("03_dcpt", {"finetuning": "full"}, "documents"),
        ("03_dcpt", {"finetuning": "qlora"}, "documents"),
        ("03_dcpt", {"attn_implementation": "eager"}, "eager"),
        ("03_dcpt", {"packing": "naive"}, "sdpa"),
        ("04_sft", {"packing": True}, "documents"),
        ("04_sft", {"packing": True, "attn_implementation": "sdpa"}, "sdpa"),
        ("04_sft", {"packing": False, "attn_implementation": "documents"}, "sdpa"),
        ("05_dpo", {"attn_implementation": "eager"}, "eager"),
    ],
)
def test_training_on_packed_rows_has_it(
    notebook: str, changed: dict[str, Any], expected: str, training: Callable, tiny_model_dir: Path, tmp_path: Path
) -> None:
    packing = changed.pop("packing", "isolated") if notebook == "03_dcpt" else "isolated"
    job = SimpleNamespace(parameters=training(notebook, **changed), out=tmp_path)
    model, tokenizer = prepare_model(job.parameters, tiny_model_dir)
    if notebook == "03_dcpt":
        dcpt.make_trainer(job, model, pack([[7, 8, 9, 10], [11, 12]], WIDTH, 3, 0, packing))
    elif notebook == "04_sft":
        sft.make_trainer(job, model, tokenizer, [])
    assert model.config._attn_implementation == expected


def test_a_kernel_that_the_model_or_the_machine_lacks_is_refused(
    training: Callable, tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    gemma = families.base("gemma2", tiny_tokenizer, tmp_path)
    for path, name in ((gemma, "sdpa"), (tiny_model_dir, "flash_attention_2")):
        with pytest.raises(QilinError, match=f"attn_implementation: {name}: .*; nearest valid: auto"):
            prepare_model(training("04_sft", attn_implementation=name), path)
    parameters = training("04_sft", packing=True, attn_implementation="documents")
    model, tokenizer = prepare_model(parameters, gemma)
    with pytest.raises(QilinError, match=r"attn_implementation: documents: a gemma2 does not keep .*soft caps"):
        sft.make_trainer(SimpleNamespace(parameters=parameters, out=tmp_path), model, tokenizer, [])


@pytest.mark.parametrize("packing", ["isolated", "naive"])
def test_rows_joined_for_flash_attention_are_the_rows(packing: str, folder: Path) -> None:
    """transformers gives its kernel the documents of a single row alone."""
    blocks = pack([[7, 8, 9, 10], [11, 12], list(range(20, 60)), [5] * 9], WIDTH, 3, 0, packing)
    given = dcpt.stack(range(len(blocks.ids)), blocks)
    joined = attention.joined(given)
    assert len(given["input_ids"]) > 2 and joined["input_ids"].shape == (1, given["input_ids"].numel())
    model = load_model(folder)
    one, other = passed(model, given), passed(model, joined)
    assert furthest((one[0].flatten(0, 1)[None], one[1]), other) < 1e-5


def test_one_kernel_for_all_documents_is_a_kernel_for_each(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch's kernel is given, by a plain one in its place: it runs on a GPU alone."""
    import torch
    import torch.nn.attention.varlen as library

    calls = []

    def plain(q: Any, k: Any, v: Any, starts: Any, keys: Any, longest: int, _: int, **others: Any) -> Any:
        assert starts.dtype == torch.int32 and starts[0] == 0 and starts[-1] == len(q) and keys is starts
        assert others.pop("window_size") == (-1, 0) and longest == starts.diff().max()
        calls.append(len(starts) - 1)
        sizes = starts.diff().tolist()
        parts = zip(*(states.transpose(0, 1).split(sizes, dim=1) for states in (q, k, v)), strict=True)
        attend = torch.nn.functional.scaled_dot_product_attention
        return torch.cat([attend(*part, is_causal=True, **others) for part in parts], dim=1).transpose(0, 1)

    monkeypatch.setattr(library, "varlen_attn", plain)
    theirs, ours = load_model(folder, attention="documents"), load_model(folder, attention="documents")
    ours.set_attn_implementation("varlen")
    for name, layout in LAYOUTS.items():
        calls.clear()
        assert furthest(passed(ours, batch(layout)), passed(theirs, batch(layout))) < 1e-5, name
        assert set(calls) <= {sum(map(len, layout))} and bool(calls) == any(len(row) > 1 for row in layout), name


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_no_saved_file_names_it(kind: str, training: Callable, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Whoever loads the trained model has transformers' own attention."""
    parameters = training("03_dcpt", finetuning=kind)
    model, _ = prepare_model(parameters, tiny_model_dir)
    attention.isolate(model, parameters)
    assert model.config._attn_implementation == "documents"
    model.save_pretrained(tmp_path)
    saved = [path.read_text(encoding="utf-8") for path in tmp_path.glob("*.json")]
    assert saved and not [text for text in saved if "attn_implementation" in text or '"documents"' in text]
