"""What a training is refused for before anything is touched, with the reason that 01's ledger gives."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files, params, runs
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import describe, load_trained
from qilin_lib.models.load import load_model
from qilin_lib.models.merge import merge
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import checks, fit

LOST = {"rejected": {"too short": 3}, "duplicate": 2, "contaminated": 1, "excluded": 0, "merged": 0}


@pytest.fixture
def stage(tmp_path: Path, tiny_model_dir: Path) -> Callable[..., Any]:
    """`stage(notebook, splits, ledger rows, **parameters)`: an unfinished stage on a run with rows of these splits."""

    def make(notebook: str, splits: list[str], rows: list[dict[str, Any]], **overrides: Any) -> Any:
        for name in ("sft", "dpo"):
            files.write_jsonl(tmp_path / "01_build_chimed" / f"{name}.jsonl", ({"split": split} for split in splits))
        files.write_json(tmp_path / "01_build_chimed" / "ledger.json", {"sources": rows, "hits": {}})
        files.write_json(tmp_path / "02_tokenize" / "base.json", {"path": str(tiny_model_dir)})
        parameters = params.load(notebook, {"run": "mine", **overrides})
        folder = tmp_path / notebook
        return SimpleNamespace(name=notebook, parameters=parameters, parent=lambda name: tmp_path / name, dir=folder)

    return make


@pytest.mark.parametrize(
    ("splits", "rows", "why"),
    [
        ([], [], "no source of its raw folder feeds sft"),
        ([], [{"set": "dpo", "read": 5, "kept": 5, **LOST}], "no source of its raw folder feeds sft"),
        (
            [],
            [{"set": "sft", "read": 6, "kept": 0, **LOST}],
            "of 6 read none was kept (3 rejected, 2 duplicate, 1 contaminated)",
        ),
        (["heldout"] * 2, [{"set": "sft", "read": 2, "kept": 2, **LOST}], "all 2 records that were kept are held out"),
    ],
)
def test_an_empty_set_is_named_with_its_reason(stage: Callable, splits: list, rows: list, why: str) -> None:
    with pytest.raises(QilinError) as error:
        checks.check(stage("04_sft", splits, rows))
    assert str(error.value).startswith("04_sft: sft.jsonl of run 'mine' has nothing to train on: ")
    assert why in str(error.value) and "nearest valid" in str(error.value)


def test_pairs_that_are_made_need_conversations_and_no_pairs(stage: Callable) -> None:
    """Who has no preference data makes some (05's `constructed`)."""
    made = {"strategies": {"other_answer": 5}}
    asked = stage("05_dpo", ["train"], [], constructed=made)
    files.write_jsonl(asked.parent("01_build_chimed") / "dpo.jsonl", [])
    assert checks.check(asked) is None
    files.write_jsonl(asked.parent("01_build_chimed") / "sft.jsonl", [])
    with pytest.raises(QilinError, match="05_dpo: sft.jsonl of run 'mine' has nothing to train on"):
        checks.check(asked)


@pytest.mark.parametrize("notebook", ["03_dcpt", "04_sft", "05_dpo"])
def test_a_misspelt_module_is_found_before_anything_starts(stage: Callable, notebook: str) -> None:
    wrong = {"target_modules": ["q_proj", "gate_porj"]}
    asked = stage(notebook, ["train"], [], **wrong)
    with pytest.raises(QilinError, match=rf"{notebook}: target_modules: 'gate_porj' .*'gate_proj'"):
        checks.check(asked)
    checks.check(stage(notebook, ["train"], [], **wrong, finetuning="full"))
    with pytest.raises(QilinError, match=rf"{notebook}.*target_modules = '\*q_proj': no regular expression"):
        checks.check(stage(notebook, ["train"], [], target_modules="*q_proj"))
    with pytest.raises(QilinError, match=rf"{notebook}: peft: .*exclude_modules.*nothing to repeat"):
        checks.check(stage(notebook, ["train"], [], peft={"exclude_modules": "*q_proj"}))


@pytest.mark.parametrize(
    ("billions", "overrides", "refused"),
    [
        (13, {"deepspeed": "zero3"}, True),
        (13, {"deepspeed": "zero3_offload"}, True),
        (13, {"deepspeed": "zero2"}, False),
        (6.7, {"deepspeed": "zero3"}, False),
        (6.7, {"deepspeed": "zero3", "dtype": "float32"}, True),
    ],
)
def test_zero3_is_refused_where_a_card_cannot_hold_the_whole_model(
    stage: Callable, billions: float, overrides: dict[str, Any], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process loads all weights before DeepSpeed splits them."""
    monkeypatch.setattr(checks, "sizes", lambda _: SimpleNamespace(total=billions * 1e9))
    asked = stage("03_dcpt", ["train"], [], **{"finetuning": "full", "gpus": 8, "dtype": "bfloat16"} | overrides)
    if not refused:
        return checks.check(asked)
    with pytest.raises(QilinError, match=rf"03_dcpt: deepspeed: {overrides['deepspeed']}: .* GiB.*nearest valid: "):
        checks.check(asked)


def test_a_missing_tracker_is_one_sentence(stage: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QilinError, match="03_dcpt: report_to = 'wandb', but .* not installed; .* pip install wandb"):
        checks.check(stage("03_dcpt", ["train"], [], report_to="wandb"))


def test_a_field_of_training_arguments_reaches_the_trainer(training: Callable, tmp_path: Path) -> None:
    from transformers import TrainingArguments

    further = {"neftune_noise_alpha": 5.0, "optim": "adafactor", "adam_beta2": 0.95}
    arguments = TrainingArguments(**fit.arguments(training("04_sft", trainer=further), tmp_path))
    assert (arguments.neftune_noise_alpha, arguments.optim, arguments.adam_beta2) == (5.0, "adafactor", 0.95)


def test_a_field_of_the_methods_own_configuration_is_known(stage: Callable) -> None:
    assert checks.check(stage("05_dpo", ["train"], [], trainer={"ld_alpha": 0.5})) is None
    with pytest.raises(QilinError, match="04_sft: trainer: 'ld_alpha'"):
        checks.check(stage("04_sft", ["train"], [], trainer={"ld_alpha": 0.5}))


@pytest.mark.parametrize(
    ("notebook", "parameter", "given", "sentence"),
    [
        ("04_sft", "trainer", {"neftune_noise_alfa": 5}, "did you mean 'neftune_noise_alpha'?"),
        ("04_sft", "trainer", {"neftune_noise_alpha": "five"}, "neftune_noise_alpha = 'five'"),
        ("04_sft", "trainer", {"optim": "adamw_8"}, "optim = 'adamw_8'"),
        ("03_dcpt", "trainer", {"learning_rate": 1e-4}, "nearest valid: dcpt.learning_rate"),
        ("03_dcpt", "trainer", {"warmup_steps": 10}, "nearest valid: dcpt.warmup_ratio"),
        ("03_dcpt", "trainer", {"fp16": True}, "nearest valid: dcpt.dtype"),
        ("03_dcpt", "trainer", {"output_dir": "elsewhere"}, "the kit sets it"),
        ("03_dcpt", "trainer", {"push_to_hub": True}, "the kit sets it"),
        ("03_dcpt", "trainer", {"save_strategy": "no"}, "the kit sets it"),
        ("03_dcpt", "trainer", {"fsdp": "full_shard"}, "the kit sets it"),
        ("03_dcpt", "trainer", {"enable_jit_checkpoint": True}, "the kit sets it"),
        ("04_sft", "trainer", {"average_tokens_across_devices": False}, "the kit sets it"),
        ("05_dpo", "trainer", {"truncation_mode": "keep_end"}, "the kit sets it"),
        ("05_dpo", "trainer", {"beta": 0.2}, "nearest valid: dpo.beta"),
        ("05_dpo", "trainer", {"trust_remote_code": True}, "the kit sets it"),
        ("08_rlhf", "trainer", {"max_steps": 3}, "nearest valid: rlhf.reward.max_steps"),
        ("04_sft", "peft", {"use_dorra": True}, "did you mean 'use_dora'?"),
        ("04_sft", "peft", {"r": 4}, "nearest valid: sft.lora_r"),
        ("04_sft", "peft", {"init_lora_weights": "pissa"}, "changes the weights below"),
        ("04_sft", "peft", {"init_lora_weights": "orthogonal"}, "finetuning: qlora.* nearest valid: true"),
        ("04_sft", "peft", {"bias": "all"}, "bias"),
        ("04_sft", "peft", {"use_rslora": "yes"}, "use_rslora = 'yes'"),
        ("04_sft", "peft", {"exclude_modules": ["q_prj"]}, "exclude_modules: 'q_prj' .*did you mean 'q_proj'"),
        ("04_sft", "peft", {"rank_pattern": {"q_proj": 4, "gate_porj": 2}}, "rank_pattern: 'gate_porj' .*'gate_proj'"),
        ("04_sft", "peft", {"layers_to_transform": [0]}, "cannot be used when `target_modules` is a str"),
        ("04_sft", "peft", {"layers_to_transform": [0, 2]}, "layers_to_transform: 2: the model has layers 0 to 1"),
        ("04_sft", "peft", {"rank_pattern": {"q_proj": 0}}, "positive integer"),
        ("04_sft", "peft", {"exclude_modules": "*q"}, "nothing to repeat"),
    ],
)
def test_what_cannot_be_handed_through_is_refused_before_anything_starts(
    stage: Callable, notebook: str, parameter: str, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(QilinError) as error:
        checks.check(stage(notebook, ["train"], [], **{parameter: given}))
    assert str(error.value).startswith(f"{notebook}: {parameter}: ")
    assert sentence in str(error.value) or re.search(sentence, str(error.value))


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ({"method": "kto", "label_smoothing": 0.1}, "label_smoothing: 0.0"),
        ({"method": "orpo", "rpo_alpha": 1.0}, "rpo_alpha: null"),
        ({"method": "kto", "precompute_ref_log_probs": True}, "precompute_ref_log_probs: false"),
        ({"method": "orpo", "precompute_ref_log_probs": True}, "precompute_ref_log_probs: false"),
        ({"method": "ktoo"}, "did you mean 'kto'"),
    ],
)
def test_what_only_dpo_has_is_refused(given: dict[str, Any], nearest: str) -> None:
    with pytest.raises(QilinError) as error:
        params.load("05_dpo", given)
    assert nearest in str(error.value)


def test_only_what_moves_results_counts_for_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(**overrides: Any) -> str:
        return runs.key(params.load("04_sft", overrides), {})

    plain = key()
    assert key(trainer={"dataloader_num_workers": 2}) == plain
    assert key(trainer={"neftune_noise_alpha": 5}) != plain
    assert key(peft={"use_rslora": True}) != plain
    # A stage that was finished before these parameters came stays finished.
    before = params.load("04_sft", {}).model_dump(mode="json")
    settings = runs.result_settings({n: v for n, v in before.items() if n not in ("trainer", "peft")}, frozenset())
    assert runs.result_settings(before, frozenset()) == settings


@pytest.mark.slow
@pytest.mark.parametrize("further", [
    {"use_rslora": True}, {"use_dora": True}, {"use_dora": True, "use_rslora": True}, {"init_lora_weights": "gaussian"},
    {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 64}},
])  # fmt: skip
@pytest.mark.parametrize("quantised", [False, True])
def test_every_kind_of_adapter_is_loaded_and_merged_as_it_was_trained(
    further: dict[str, Any], quantised: bool, tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    import torch

    parameters = training("03_dcpt", finetuning="qlora" if quantised else "lora", peft=further)
    model, tokenizer = fit.prepare_model(parameters, tiny_model_dir)
    for name, value in further.items():
        assert getattr(model.peft_config["default"], name) == value
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape)
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    describe(tmp_path / "adapter", tiny_model_dir, quantised, "float32", BAICHUAN.sha256)
    ids = torch.randint(6, 400, (2, 24))
    positions = torch.arange(24)[None].expand(2, -1)

    def logits(one: Any) -> Any:
        with torch.no_grad():
            return one.eval()(input_ids=ids, position_ids=positions, use_cache=False).logits

    trained = logits(model)
    assert (logits(load_trained(tmp_path / "adapter", "float32")[0]) - trained).abs().max() < 1e-4
    merge(tiny_model_dir, tmp_path / "adapter", tmp_path / "merged")
    merged = logits(load_model(tmp_path / "merged"))
    exact = trained if not quantised else logits(load_trained(tmp_path / "adapter", "float32", quantised=False)[0])
    assert (merged - exact).abs().max() < 1e-3
    assert (exact - logits(load_model(tiny_model_dir))).abs().max() > 0.05
