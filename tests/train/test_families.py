"""Every published family trains as it stands: packed rows, labelled positions, and 02 to 05 in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import families, trainings

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.models import decode
from qilin_lib.models.adapters import is_adapter, load_to_answer, load_trained, trained
from qilin_lib.models.examine import why_unusable
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.tokens.template import IGNORE
from qilin_lib.train import fit, heldout
from qilin_lib.train import job as jobs
from qilin_lib.train.fit import prepare_model
from qilin_lib.train.methods import dcpt, dpo, reward, sft

# Of a loss in float32. Wrong isolation, windows, caps or scales move it by more than a hundredth.
TOLERANCE = 2e-5
LENGTHS = (23, 5, 11, 17, 3, 30)


@pytest.fixture(scope="module")
def base(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`base(family)`: folder of its scaled-down model, made once."""

    @cache
    def make(family: str) -> Path:
        return families.base(family, tiny_tokenizer, tmp_path_factory.mktemp(family) / "base")

    return make


def conversations(vocabulary: int) -> list[sft.Example]:
    """Made-up ids, the second half of each with loss; some longer than a window, some shorter."""
    import torch

    draw = torch.Generator().manual_seed(11)
    rows = [torch.randint(6, vocabulary, (length,), generator=draw).tolist() for length in LENGTHS]
    return [(ids, [IGNORE] * (len(ids) // 2) + ids[len(ids) // 2 :]) for ids in rows]


def loss_apart(folder: Path, examples: list[sft.Example]) -> float:
    """Mean loss of all labelled tokens: each conversation alone, every logit, by transformers' own attention."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for ids, labels in examples:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
            target = torch.tensor(labels[1:])
            total += torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum").item()
            count += int((target != IGNORE).sum())
    return total / count


def packed_trainer(folder: Path, parameters: Any, out: Path) -> tuple[Any, list[sft.Example]]:
    """SFT's trainer on `conversations`, all in one batch of rows of 48 tokens."""
    parameters.max_length, parameters.per_device_train_batch_size = 48, len(LENGTHS)
    model, tokenizer = prepare_model(parameters, folder)
    examples = conversations(model.config.vocab_size)
    job = SimpleNamespace(parameters=parameters, out=out)
    return sft.make_trainer(job, model, tokenizer, examples), examples


def first_loss(trainer: Any) -> tuple[float, dict[str, Any]]:
    """(loss of the first batch, the batch), by the model and the batches that would be trained with."""
    import torch

    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        return trainer.model.eval()(**batch).loss.item(), batch


# Soft caps: not by sdpa.
BACKENDS = [
    (family, kernel)
    for family in families.FAMILIES
    for kernel in ("auto", "sdpa", "eager")
    if (family, kernel) != ("gemma2", "sdpa")
]


@pytest.mark.parametrize(("family", "kernel"), BACKENDS)
def test_packed_conversations_have_the_loss_that_each_has_alone(
    family: str, kernel: str, base: Callable, training: Callable, tmp_path: Path
) -> None:
    """Soft caps, windows and scales of logits included; and only labelled positions reach the vocabulary."""
    parameters = training("04_sft", packing=True, attn_implementation=kernel)
    trainer, examples = packed_trainer(base(family), parameters, tmp_path)
    used = "eager" if family == "gemma2" else "documents" if kernel == "auto" else kernel
    assert trainer.model.config._attn_implementation == used
    found, batch = first_loss(trainer)
    assert (batch["position_ids"][:, 1:] == 0).any(), "nothing shares a row: this would prove nothing"
    assert found == pytest.approx(loss_apart(base(family), examples), abs=TOLERANCE)


@pytest.mark.parametrize("family", families.ONE_TEXT)
def test_a_model_that_reads_a_row_as_one_text_is_not_packed(
    family: str, base: Callable, training: Callable, tmp_path: Path
) -> None:
    """Its neighbours would show in every loss; a row each is right."""
    with pytest.raises(QilinError, match="nearest valid: packing: false"):
        packed_trainer(base(family), training("04_sft", packing=True, finetuning="full"), tmp_path)
    trainer, examples = packed_trainer(base(family), training("04_sft", packing=False, finetuning="full"), tmp_path)
    assert first_loss(trainer)[0] == pytest.approx(loss_apart(base(family), examples), abs=TOLERANCE)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_log_probabilities_of_dpo_are_those_of_all_logits(
    family: str, base: Callable, training: Callable, tmp_path: Path
) -> None:
    """TRL's head works on tiles of the states; caps and scales of logits are its own then."""
    import torch

    parameters = training("05_dpo", allow_high_lr=True)
    model, tokenizer = prepare_model(parameters, base(family))
    rows = conversations(model.config.vocab_size)
    pairs = [
        {"prompt_ids": ids[:2], "chosen_ids": ids[2:], "rejected_ids": ids[-1:1:-1]} for ids, _ in rows if len(ids) > 2
    ]
    trainer = dpo.make_trainer(SimpleNamespace(parameters=parameters, out=tmp_path), model, tokenizer, pairs, pairs)
    answers = [(ids[:2], ids[2:]) for ids, _ in rows] + [(ids[:2], ids[-1:1:-1]) for ids, _ in rows]
    expected = heldout.sequence_logprobs(load_model(base(family)), [dpo.labelled(*answer) for answer in answers])
    with torch.no_grad():
        found = [part for batch in trainer.get_eval_dataloader() for part in _sides(trainer, batch)]
    assert sorted(found) == pytest.approx(sorted(expected.tolist()), abs=2e-4)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_preference_loss_holds_nothing_but_preferences(
    method: str, base: Callable, training: Callable, tmp_path: Path
) -> None:
    """TRL adds what balances the experts of a mixture: step 0 then took its own reference for another model."""
    targets = ["q_proj", "v_proj"]
    parameters = training("05_dpo", allow_high_lr=True, method=method, target_modules=targets)
    model, tokenizer = prepare_model(parameters, base("gpt_oss"))
    rows = conversations(model.config.vocab_size)
    pairs = [{"prompt_ids": [7], "chosen_ids": ids, "rejected_ids": ids[::-1]} for ids, _ in rows]
    make = dpo.methods.of(parameters).load().make_trainer
    trainer = make(SimpleNamespace(parameters=parameters, out=tmp_path), model, tokenizer, pairs, pairs)
    expected = dpo.methods.of(parameters).start
    assert dpo.step_zero(trainer, pairs, expected)["step_zero_loss"] == pytest.approx(expected, abs=1e-4)


def _sides(trainer: Any, batch: dict[str, Any]) -> list[float]:
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORE)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return trainer.model.eval()(**given, labels=labels, fused_lm_head=True).log_probs.sum(1).tolist()


@pytest.mark.parametrize("family", [*families.FAMILIES, "bloom", "gpt_oss"])
def test_answers_in_a_batch_are_those_without_cache(family: str, base: Callable) -> None:
    """Rows of several lengths, which leave the batch one after the other; prompts longer and shorter than a window."""
    import torch

    model = load_model(base(family)).eval()
    prompts = [ids for ids, _ in conversations(model.config.vocab_size)]

    def likeliest(ids: list[int]) -> int:
        with torch.no_grad():
            return int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())

    plain = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(12):
            ids.append(likeliest(ids))
        plain.append(ids[len(prompt) :])
    # Each of two rows ends where it says this for the first time.
    stops = {plain[0][4], plain[3][7]}
    expected = [ids[: next((at for at, token in enumerate(ids) if token in stops), 12)] for ids in plain]
    assert len({len(ids) for ids in expected}) > 1
    found = decode.write(model, prompts, stops, 12, lambda logits, _: logits.argmax(-1).tolist())
    assert found == expected


STAGES = {"03_dcpt": dcpt, "04_sft": sft, "05_dpo": dpo}
# One with caps, windows and tied embeddings, one with fused matrices and no padding token of its own.
USUAL = [("gemma2", "qlora"), ("phi3", "lora")]
ALL = [(family, kind) for family in families.PUBLISHED for kind in ("full", "lora", "qlora")]


@pytest.mark.parametrize(
    ("family", "kind"),
    [*USUAL, *(pytest.param(*one, marks=pytest.mark.extended) for one in ALL if one not in USUAL)],
)
def test_a_family_goes_through_all_stages(
    family: str, kind: str, base: Callable, training: Callable, sentences: Callable, tmp_path: Path
) -> None:
    """Two steps a stage; every stage starts from exactly what the one before left, and what it left is asked."""
    import torch

    weights = base(family)
    assert why_unusable(weights, sequence=False) == ""
    data, ids = trainings.write_data(tmp_path, weights, load_tokenizer(weights), sentences), torch.tensor([[7, 8, 9]])
    for notebook, module in STAGES.items():
        # A hand-over is on the weights before quantisation, under QLoRA too.
        before = load_trained(weights, "float32", quantised=False)[0](input_ids=ids).logits.detach()
        chosen = {"max_steps": 2, "finetuning": kind} | ({"allow_high_lr": True} if notebook == "05_dpo" else {})
        (tmp_path / notebook).mkdir()
        paths = {**data[notebook], "weights": weights, "cache": tmp_path}
        job = trainings.write_job(tmp_path / notebook, training(notebook, **chosen), paths)
        files.write_json(job, files.read_json(job) | {"template": "plain", "start": str(tmp_path / notebook / "start")})
        if is_adapter(weights):
            jobs.run_phase("open", job)
        started = load_model(jobs.read(job).paths.weights)(input_ids=ids).logits.detach()
        assert (started - before).abs().max() < 1e-4
        module.work(jobs.read(job))
        module.score(jobs.read(job))
        facts, scores = (files.read_json(job.with_name(name)) for name in ("facts.json", "heldout.json"))
        assert facts["steps_done"] == 2 and facts["train_loss"] > 0 and scores
        assert facts.get("step_zero_gap", 0.0) < 1e-4
        weights = trained(tmp_path / notebook)
    model = load_to_answer(weights, "float32").eval()
    assert len(decode.write(model, [[7, 8, 9], [10]], set(), 4, lambda logits, _: logits.argmax(-1).tolist())[1]) == 4


@pytest.mark.parametrize("family", families.PUBLISHED)
def test_rewards_of_a_batch_are_those_of_each_answer(family: str, base: Callable) -> None:
    """Also where padding and end are one token."""
    model, _ = reward.prepare_model(_rewarded(), base(family))
    rows = [ids for ids, _ in conversations(model.config.vocab_size)]
    together = reward.rewards(model, rows, len(rows))
    assert together == pytest.approx([reward.rewards(model, [row], 1)[0] for row in rows], abs=1e-4)
    assert len({round(one, 3) for one in together}) == len(rows)


def _rewarded() -> SimpleNamespace:
    own = {"gpus": 0, "finetuning": "lora", "dtype": "float32"}
    return SimpleNamespace(**params.load("08_rlhf", own).model_dump())


def test_a_family_without_a_sequence_classifier_gives_no_rewards(base: Callable) -> None:
    with pytest.raises(QilinError, match="transformers has no sequence classifier of model type 'cohere'"):
        reward.prepare_model(_rewarded(), base("cohere"))


def test_a_model_without_a_cache_of_keys_is_no_base(base: Callable) -> None:
    """It would be trained and then could not be asked."""
    assert "mamba" in why_unusable(base("mamba")) and "nearest valid" in why_unusable(base("mamba"))


def test_a_model_that_also_reads_images_is_no_base(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Gemma 3 from 4B on comes with a vision part; its text part alone trains."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    text = families.configuration("gemma3", len(tiny_tokenizer))
    vision = SiglipVisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision)).save_pretrained(tmp_path)
    families.renamed("gemma3", tiny_tokenizer).save_pretrained(tmp_path)
    assert why_unusable(tmp_path) == "", "it can be asked"
    assert "vision" in why_unusable(tmp_path, False) and "Gemma3ForCausalLM" in why_unusable(tmp_path, False)


@pytest.mark.parametrize(
    ("family", "finetuning"), [("llama3", "full"), ("gemma2", "lora"), ("granite", "lora"), ("cohere", "full")]
)
def test_the_fused_head_of_a_gpu_gives_the_loss_and_gradients_of_all_logits(
    family: str, finetuning: str, base: Callable, training: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL's tiles, here on a CPU: soft caps and scales of logits included, in SFT and on DCPT's blocks."""
    import torch

    found = {}
    for fused in (False, True):
        monkeypatch.setattr(fit, "has_fused_head", lambda *_, on=fused: on)
        settings = {"finetuning": finetuning, "max_steps": 1, "gradient_accumulation_steps": 2}
        parameters = training("04_sft", packing=True, **settings)
        trainer, examples = packed_trainer(base(family), parameters, tmp_path / f"{fused}")
        trainer.args.per_device_train_batch_size = 3
        batches, count = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 2, trainer.args.device)
        assert ("logits_to_keep" in batches[0]) != fused
        losses = [trainer.compute_loss(trainer.model, batch, num_items_in_batch=count) for batch in batches]
        sum(losses).backward()
        gradients = [weight.grad.flatten() for weight in trainer.model.parameters() if weight.grad is not None]
        found[fused] = sum(losses).item(), torch.cat(gradients)
    assert found[True][0] == pytest.approx(found[False][0], abs=TOLERANCE)
    assert found[True][0] == pytest.approx(loss_apart(base(family), examples), abs=TOLERANCE)
    assert found[True][1].norm() > 1e-3
    assert (found[True][1] - found[False][1]).norm() < 1e-4 * found[False][1].norm()


def test_the_fused_head_is_for_gpus_and_not_for_adapters_on_the_head(base: Callable, training: Callable) -> None:
    arguments = SimpleNamespace(use_liger_kernel=False)
    for targets, gpus, liger, expected in (
        ("all-linear", 1, False, True),
        ("all-linear", 0, False, False),
        (["q_proj", "lm_head"], 1, False, False),
        ("all-linear", 1, True, False),
    ):
        model, _ = prepare_model(training("04_sft", target_modules=targets), base("qwen3"))
        arguments.use_liger_kernel = liger
        assert fit.has_fused_head(model, SimpleNamespace(gpus=gpus), arguments) == expected


def test_a_tokenizer_that_transformers_reads_as_another_kind_is_refused(
    base: Callable, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """For some model types it takes a class of its own, whatever tokenizer.json holds: texts lose characters then."""
    shutil.copytree(base("qwen2"), tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    tokenizer = load_tokenizer(tmp_path / "base")
    assert tokenizer.decode(tokenizer.encode("咳嗽")) != "咳嗽", "transformers reads it: this test has become needless"
    assert "which tokenizer.json knows" in why_unusable(tmp_path / "base")
