"""DPO, KTO and ORPO: pairs in the SFT template, losses and gradients by the papers, and the reference."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.trainings import job as job_of
from helpers.trainings import shifted, token_logprobs, triplets

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models import names
from qilin_lib.models.load import load_model
from qilin_lib.tokens.template import BAICHUAN, PLAIN
from qilin_lib.train import methods
from qilin_lib.train.fit import prepare_model, read_log
from qilin_lib.train.methods import dpo, reward

pytestmark = pytest.mark.slow


# Far enough for the loss to leave ln 2; the product of two small LoRA matrices needs more than a whole weight.
SHIFT = {"lora": 0.1, "qlora": 0.1, "full": 0.03}


@pytest.fixture(scope="module")
def rows(sentences: Callable) -> list[dict[str, Any]]:
    """Seven triplets with answers of different lengths; every other one asks twice."""
    made = triplets(sentences(21, 11), 7)
    for earlier, row in zip(made[::2], made[1::2], strict=False):
        row["prompt"] = earlier["messages"] + row["prompt"]
    return made


@pytest.fixture
def job(tiny_model_dir: Path, training: Callable, tmp_path: Path) -> Callable[..., SimpleNamespace]:
    data = tmp_path / "dpo.jsonl"
    small = {"beta": 0.3, "allow_high_lr": True}
    return lambda **more: job_of(training("05_dpo", **small | more), tmp_path, tiny_model_dir, data=data)


def set_up(
    job: SimpleNamespace, rows: list[dict[str, Any]], shift: float = 0.0, seed: int = 2
) -> tuple[Any, list[dpo.Pair]]:
    """A trainer whose policy went `shift` away from where it was made."""

    model, tokenizer = prepare_model(job.parameters, job.paths.weights)
    pairs = [dpo.pair(row, job.template, tokenizer, job.parameters) for row in rows]
    trainer = dpo.make_trainer(job, model, tokenizer, pairs[:4], pairs)
    shifted(trainer.model, shift, seed)
    return trainer, pairs


def answer_logprob(model: Any, prompt: list[int], answer: list[int]) -> Any:
    """log π(answer | prompt); a tensor with a gradient."""
    return token_logprobs(model, prompt + answer)[-len(answer) :].sum()


def loss_by_the_book(policy: Any, reference: Any, pairs: list[dpo.Pair], p: SimpleNamespace) -> Any:
    """Mean of -log σ(β [log π/π_ref (chosen) - log π/π_ref (rejected)]), as robust DPO if `label_smoothing` says that
    labels are flipped (arXiv 2403.00409), plus `rpo_alpha` times the mean negative log-likelihood of a chosen token."""
    import torch

    losses, likelihood, tokens = [], 0.0, 0
    for one in pairs:
        sides = [(one["prompt_ids"], one[f"{side}_ids"]) for side in ("chosen", "rejected")]
        chosen, rejected = (answer_logprob(policy, *side) for side in sides)
        with torch.no_grad():
            frozen_chosen, frozen_rejected = (answer_logprob(reference, *side) for side in sides)
        margin = p.beta * ((chosen - frozen_chosen) - (rejected - frozen_rejected))
        likelihood, tokens = likelihood + chosen, tokens + len(one["chosen_ids"])
        clean, flipped = -torch.log(torch.sigmoid(margin)), -torch.log(torch.sigmoid(-margin))
        losses.append(((1 - p.label_smoothing) * clean - p.label_smoothing * flipped) / (1 - 2 * p.label_smoothing))
    return sum(losses) / len(losses) - (p.rpo_alpha or 0.0) * likelihood / tokens


def gradients(model: Any, loss: Any) -> dict[str, Any]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("template", [BAICHUAN, PLAIN])
def test_pair_is_the_templates_encoding(template: Any, rows: list[dict[str, Any]], tiny_tokenizer: Any) -> None:
    """Also for the reward model, which reads prompt and answer in one."""
    parameters = SimpleNamespace(max_source_length=500, max_target_length=500)
    for row in rows:
        found = dpo.pair(row, template, tiny_tokenizer, parameters)
        assert found["prompt_ids"] == template.encode(row["prompt"], tiny_tokenizer, add_generation_prompt=True)
        for side in ("chosen", "rejected"):
            whole = template.encode(row["prompt"] + row[side], tiny_tokenizer)
            assert found["prompt_ids"] + found[f"{side}_ids"] == whole
            assert reward.pair(row, template, tiny_tokenizer, parameters)[f"{side}_ids"] == whole
            assert found[f"{side}_ids"][-1] == tiny_tokenizer.eos_token_id


@pytest.mark.parametrize(
    "kind, overrides",
    [
        ("lora", {}),
        ("lora", {"label_smoothing": 0.1}),
        ("lora", {"label_smoothing": 0.2, "rpo_alpha": 1.5}),
        ("lora", {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("qlora", {}),
        ("full", {}),
    ],
)
def test_loss_and_gradients_are_the_papers(
    kind: str, overrides: dict[str, Any], job: Callable, rows: list[dict[str, Any]], tiny_model_dir: Path
) -> None:
    """Three random policies; the batches hold different pairs in another order, padded together."""
    import torch

    reference = load_model(tiny_model_dir, quantised=kind == "qlora").eval()
    made = job(finetuning=kind, **overrides)
    # modules_to_save are whole weights: a shift that suits LoRA matrices would break the model.
    shift = SHIFT["full"] if "modules_to_save" in overrides else SHIFT[kind]
    for seed in range(3):
        trainer, pairs = set_up(made, rows, shift, seed)
        batch = [pairs[i] for i in torch.randperm(7, generator=torch.Generator().manual_seed(seed))[: 3 + seed]]
        expected = loss_by_the_book(trainer.model.eval(), reference, batch, made.parameters)
        book = gradients(trainer.model, expected)
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(batch))
        assert abs(expected.item() - math.log(2)) > 0.01
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        ours = gradients(trainer.model, loss)
        largest = max(grad.abs().max() for grad in book.values())
        assert ours.keys() == book.keys() and largest > 1e-3
        for name, grad in book.items():
            torch.testing.assert_close(ours[name], grad, rtol=1e-4, atol=1e-5 * largest.item(), msg=name)


# --- one copy, the right one ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, cached", [("lora", False), ("qlora", False), ("lora", True), ("full", True)])
def test_there_is_one_copy_of_the_weights(
    kind: str, cached: bool, job: Callable, rows: list[dict[str, Any]], tiny_model_dir: Path
) -> None:
    trainer, _ = set_up(job(finetuning=kind, precompute_ref_log_probs=cached), rows)
    alone = load_model(tiny_model_dir, quantised=kind == "qlora")
    held = {p.data_ptr(): p.numel() for m in (trainer.model, trainer.ref_model) if m for p in m.parameters()}
    adapter = sum(p.numel() for name, p in trainer.model.named_parameters() if ".default." in name)
    assert trainer.ref_model is None and (adapter > 0) == (kind != "full")
    assert sum(held.values()) == sum(p.numel() for p in alone.parameters()) + adapter
    assert not [name for name, _ in trainer.model.named_parameters() if ".ref." in name]


@pytest.mark.parametrize(
    ("kind", "dtype", "cached"),
    [
        ("lora", "float32", True),
        ("lora", "bfloat16", False),
        ("qlora", "bfloat16", True),
        ("full", "float32", False),
        ("full", "bfloat16", True),
    ],
)
def test_before_step_one_policy_and_reference_agree(
    kind: str, dtype: str, cached: bool, job: Callable, rows: list[dict[str, Any]]
) -> None:
    """Also where whole modules are trained: the reference has them as they were, in the same precision."""
    whole = ["embed_tokens", "lm_head"] if dtype == "bfloat16" else []
    made = job(finetuning=kind, dtype=dtype, precompute_ref_log_probs=cached, modules_to_save=whole)
    trainer, pairs = set_up(made, rows)
    found = dpo.step_zero(trainer, pairs, math.log(2))
    assert found["step_zero_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert found["step_zero_gap"] < dpo.GAP[dtype]


@pytest.mark.parametrize(("kind", "cached"), [("lora", False), ("lora", True), ("full", True)])
def test_a_wrong_reference_stops_the_training(
    kind: str, cached: bool, job: Callable, rows: list[dict[str, Any]]
) -> None:
    """LLaMA-Factory#8459: the reference was silently another model than the policy. A shift too small for the loss."""
    made = job(finetuning=kind, precompute_ref_log_probs=cached)
    trainer, pairs = set_up(made, rows, SHIFT[kind] / {"lora": 10, "full": 100}[kind])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(2), abs=5e-3)
    with pytest.raises(RuntimeError, match="before step 1 .* the reference is not the SFT policy"):
        dpo.step_zero(trainer, pairs, math.log(2))


# --- the child --------------------------------------------------------------------------------------------------------


def test_dropout_acts_as_asked(job: Callable, rows: list[dict[str, Any]]) -> None:
    """TRL's default sets every dropout to 0, whatever the parameter says."""
    trainer, _ = set_up(job(lora_dropout=0.25), rows)
    import torch

    assert {m.p for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


def test_work_leaves_log_scores_answers_and_facts(job: Callable, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    made = job(sampled_prompts=2, max_target_length=16, max_steps=5)
    split = ["train"] * 4 + ["heldout"] * 3
    files.write_jsonl(tmp_path / "dpo.jsonl", [row | {"split": s} for row, s in zip(rows, split, strict=True)])
    dpo.work(made)
    dpo.score(made)
    log = [row for row in files.read_jsonl(tmp_path / "log.jsonl") if "loss" in row]
    tokenizer = prepare_model(made.parameters, made.paths.weights)[1]
    pairs = [dpo.pair(row, made.template, tokenizer, made.parameters) for row in rows]
    for side in ("chosen", "rejected"):
        # One batch of four is one epoch of four.
        assert log[0][f"lengths/{side}"] == sum(len(p[f"{side}_ids"]) for p in pairs[:4]) / 4
    names = [f"{kind}/{side}" for kind in ("logps", "rewards") for side in ("chosen", "rejected")]
    assert len(log) == 5 and {*names, "rewards/margins", "rewards/accuracies"} <= log[0].keys()
    scores, sampled = (files.read_json(tmp_path / name) for name in ("heldout.json", "behaviour.json"))
    for side in ("chosen", "rejected"):
        assert scores[f"tokens_{side}"] == [len(p[f"{side}_ids"]) for p in pairs[4:]]
        assert len(scores[f"reference_{side}"]) == 3 and scores[f"reference_{side}"] != scores[f"policy_{side}"]
    assert sampled["prompts"] == [row["prompt"] for row in rows[4:6]] and sampled["max_new_tokens"] == 16
    assert [len(sampled[who]["texts"]) for who in ("reference", "policy")] == [2, 2]
    facts = files.read_json(tmp_path / "facts.json")
    assert (facts["pairs"], facts["pairs_heldout"], facts["reference"]) == (4, 3, "live")
    assert facts["step_zero_gap"] < dpo.GAP["float32"] and "allow_high_lr" in facts["alarms"][0]


def test_a_held_out_pair_whose_rejected_answer_is_trained_on_is_kept_apart(
    job: Callable, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    made = job(sampled_prompts=1, max_steps=1)
    made.parameters.max_target_length = 3
    train = [row | {"split": "train"} for row in rows[:4]]
    begin = rows[0]["chosen"][0]["content"]
    train.append(train[0] | {"rejected": [{"role": "assistant", "content": f"{begin}休息"}]})
    held = [row | {"split": "heldout"} for row in rows[4:]]
    held[1] = held[1] | {"rejected": train[2]["rejected"]}
    files.write_jsonl(tmp_path / "dpo.jsonl", train + held)
    dpo.work(made)
    dpo.score(made)
    facts, scores = (files.read_json(tmp_path / name) for name in ("facts.json", "heldout.json"))
    assert len(scores["tokens_rejected"]) == 2
    assert files.read_json(tmp_path / "behaviour.json")["prompts"] == [held[0]["prompt"]]
    assert (facts["pairs"], facts["pairs_heldout"], facts.get("pairs_heldout_apart")) == (5, 2, 1)
    # Ten answers of more than three tokens; two of them begin alike.
    assert (facts.get("answers_cut"), facts.get("pairs_alike")) == (10, 1)


def test_a_pair_that_the_model_cannot_read_whole_is_left_out_and_counted(
    job: Callable, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Turns are cut one by one; the context of 512 holds no history of any number of them."""
    made = job(sampled_prompts=9, max_steps=1, max_source_length=56, max_target_length=56)
    said = {"content": rows[0]["chosen"][0]["content"] * 20}
    history = [said | {"role": role} for role in ("user", "assistant")]
    asked = [row | {"split": "train" if place < 4 else "heldout"} for place, row in enumerate(rows)]
    asked[1] = asked[1] | {"prompt": history * 6 + asked[1]["prompt"]}
    asked[5] = asked[5] | {"prompt": history * 6 + asked[5]["prompt"]}
    # This one fits, with its own short answers but with no longer one.
    asked[6] = asked[6] | {
        "prompt": [*history * 4, {"role": "user", "content": "痛"}],
        "chosen": [{"role": "assistant", "content": "是"}],
        "rejected": [{"role": "assistant", "content": "否"}],
    }
    files.write_jsonl(tmp_path / "dpo.jsonl", asked)
    dpo.work(made)
    dpo.score(made)
    facts, scores = (files.read_json(tmp_path / name) for name in ("facts.json", "heldout.json"))
    assert (facts["pairs"], facts.get("pairs_too_long")) == (3, 1)
    assert (facts["pairs_heldout"], facts.get("pairs_heldout_too_long")) == (2, 1)
    assert len(scores["policy_chosen"]) == 2
    assert files.read_json(tmp_path / "behaviour.json")["prompts"] == [asked[4]["prompt"]]
    files.write_jsonl(tmp_path / "dpo.jsonl", [asked[1]])
    with pytest.raises(QilinError, match=r"dpo.jsonl: no pair to train on .*'pairs_too_long': 1"):
        dpo.work(made)


def test_of_many_held_out_pairs_some_of_every_source_are_scored(
    job: Callable, rows: list[dict[str, Any]], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """dpo.jsonl is in order of sources."""
    held = sorted(({**row, "split": "heldout"} for row in rows), key=lambda row: row["source"])
    files.write_jsonl(tmp_path / "dpo.jsonl", held)
    lines, found, _ = dpo.heldout_pairs(job(max_heldout=3), tiny_tokenizer)
    assert [row["source"] for row in lines] == ["a", "a", "b"] and len(found) == 3


def test_without_heldout_pairs_everything_is_written_empty(
    job: Callable, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    files.write_jsonl(tmp_path / "dpo.jsonl", [row | {"split": "train"} for row in rows[:4]])
    made = job(sampled_prompts=2, max_steps=1, rpo_alpha=1.0)
    dpo.work(made)
    dpo.score(made)
    scores = files.read_json(tmp_path / "heldout.json")
    assert scores["policy_chosen"] == scores["tokens_rejected"] == []
    assert files.read_json(tmp_path / "behaviour.json")["policy"]["texts"] == []


# --- the reference, computed beforehand -------------------------------------------------------------------------------


def trained(job: SimpleNamespace, rows: list[dict[str, Any]], name: str) -> tuple[list[dict[str, float]], Path]:
    """(log rows, folder) of a training in a folder of its own; all share a cache."""
    job.paths.cache, job.out = job.out / "cache", job.out / name
    job.out.mkdir()
    files.write_jsonl(job.paths.data, [row | {"split": "train" if i < 5 else "heldout"} for i, row in enumerate(rows)])
    dpo.work(job)
    return read_log(job.out), job.out


@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
def test_cached_equals_live_step_by_step(kind: str, job: Callable, rows: list[dict[str, Any]]) -> None:
    """With dropout: computing the cache must not move the random numbers of the training."""
    settings = {"finetuning": kind, "max_steps": 4, "lora_dropout": 0.1, "sampled_prompts": 0}
    live, _ = trained(job(**settings), rows, "live")
    cached, folder = trained(job(**settings, precompute_ref_log_probs=True), rows, "cached")
    assert files.read_json(folder / "facts.json")["reference"] == "cached"
    assert len(live) == len(cached) == 4 and abs(live[-1]["rewards/margins"]) > 1e-3
    for name in ("loss", "grad_norm", "rewards/margins", "rewards/chosen", "logps/rejected"):
        assert [row[name] for row in cached] == pytest.approx([row[name] for row in live], rel=1e-5, abs=1e-5), name


def test_other_rates_reuse_the_cache_and_other_pairs_or_weights_do_not(
    job: Callable, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import DPOTrainer

    settings = {"precompute_ref_log_probs": True, "max_steps": 1, "sampled_prompts": 0}
    trained(job(**settings), rows, "first")
    with monkeypatch.context() as patch:
        patch.setattr(DPOTrainer, "compute_ref_log_probs", lambda *_: pytest.fail("computed again"))
        trained(job(**settings, learning_rate=1e-4, label_smoothing=0.1), rows, "again")
    stored = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.arrow")}
    turned = [{**rows[0], "rejected": rows[1]["chosen"]}, *rows[1:]]
    # The held-out pairs are as before, the training pairs are not.
    trained(job(**settings), turned, "pairs")
    assert len(stored) == 2 and len(list((tmp_path / "cache").rglob("*.arrow"))) == 3
    moved = load_model(job().paths.weights)
    moved.lm_head.weight.data[0, 0] += 1e-3
    moved.save_pretrained(tmp_path / "moved")
    prepare_model(job().parameters, job().paths.weights)[1].save_pretrained(tmp_path / "moved")
    made = job(**settings)
    made.paths.weights = tmp_path / "moved"
    trained(made, rows, "weights")
    after = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.arrow")}
    assert len(after) == 5 and stored.items() <= after.items()


# --- KTO and ORPO -----------------------------------------------------------------------------------------------------


BETA = 0.3


@pytest.fixture(scope="module")
def triples(sentences: Callable) -> list[dict[str, Any]]:
    """Twelve triplets, four held out; their rejected answers are longer and longer."""
    made = triplets(sentences(36, 18), 12, held=4)
    for i, row in enumerate(made):
        row["rejected"][0]["content"] = row["rejected"][0]["content"][: 6 + 3 * i]
    return made


@pytest.fixture
def method_job(
    tiny_model_dir: Path, training: Callable, tmp_path: Path, triples: list
) -> Callable[..., SimpleNamespace]:
    files.write_jsonl(tmp_path / "dpo.jsonl", triples)
    small = {"beta": BETA, "per_device_train_batch_size": 2, "max_steps": 2}

    def make(**overrides: Any) -> SimpleNamespace:
        return job_of(training("05_dpo", **small | overrides), tmp_path, tiny_model_dir, data=tmp_path / "dpo.jsonl")

    return make


def trainer_and_batch(
    method_job: SimpleNamespace, triples: list[dict[str, Any]], shift: float = 0.2, seed: int = 3
) -> tuple[Any, Any, list[dpo.Pair]]:
    """A trainer whose policy went away from the reference, its first batch, the pairs."""

    model, tokenizer = prepare_model(method_job.parameters, method_job.paths.weights)
    pairs = [dpo.pair(row, method_job.template, tokenizer, method_job.parameters) for row in triples[:8]]
    trainer = methods.of(method_job.parameters).load().make_trainer(method_job, model, tokenizer, pairs, pairs)
    shifted(trainer.model, shift, seed).train()
    (batch,), _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    return trainer, batch, pairs


def answer(model: Any, prompt: list[int], ids: list[int]) -> Any:
    return token_logprobs(model, prompt + ids)[-len(ids) :]


@pytest.mark.parametrize(("finetuning", "shift", "seed"), [("lora", 0.1, 3), ("full", 0.03, 5)])
def test_kto_loss_is_equation_7(
    finetuning: str, shift: float, seed: int, method_job: Callable, triples: list, tiny_model_dir: Path
) -> None:
    """Ethayarajh et al. 2024 (arXiv 2402.01306): z0 is the mean log-ratio of answers to other prompts of the batch."""
    import torch

    trainer, batch, pairs = trainer_and_batch(method_job(method="kto", finetuning=finetuning), triples, shift, seed)
    reference, policy = load_model(tiny_model_dir), trainer.model
    known = {
        tuple(one["prompt_ids"] + one[f"{side}_ids"]): (one["prompt_ids"], one[f"{side}_ids"], side == "chosen")
        for one in pairs
        for side in ("chosen", "rejected")
    }
    examples = [
        known[tuple(ids[mask.bool()].tolist())]
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert len(examples) == 4, "two pairs' worth of answers"
    with torch.no_grad():
        other = [examples[-1], *examples[:-1]]
        ratio = lambda prompt, ids: (answer(policy, prompt, ids) - answer(reference, prompt, ids)).sum()  # noqa: E731
        kl = sum(ratio(one[0], two[1]) for one, two in zip(examples, other, strict=True)) / len(examples)
        assert (kl > 0.1) == (finetuning == "full"), "below zero it counts as zero: both are seen"
        kl = kl.clamp(min=0)
        losses = [
            1 - torch.sigmoid(BETA * (ratio(prompt, ids) - kl) * (1 if good else -1)) for prompt, ids, good in examples
        ]
        loss = trainer.compute_loss(policy, batch)
    assert loss.item() == pytest.approx(sum(losses).item() / len(losses), rel=1e-5)
    assert max(losses) - min(losses) > 0.05, "the policy is not the reference"


def test_orpo_loss_is_equation_6(method_job: Callable, triples: list) -> None:
    """Hong et al. 2024 (arXiv 2403.07691): likelihood of the chosen conversation, minus β log σ of the log odds ratio,
    the odds of the mean log-probability of an answer's token."""
    import torch

    trainer, batch, pairs = trainer_and_batch(method_job(method="orpo"), triples)
    policy = trainer.model
    known = {tuple(one["prompt_ids"] + one["chosen_ids"]): one for one in pairs}
    chosen = [
        known[tuple(ids[mask.bool()].tolist())]
        for ids, mask in zip(batch["chosen_input_ids"], batch["chosen_attention_mask"], strict=True)
    ]
    assert len(chosen) == 2
    with torch.no_grad():
        tokens = torch.cat([token_logprobs(policy, one["prompt_ids"] + one["chosen_ids"]) for one in chosen])
        terms = []
        for one in chosen:
            good, bad = (
                answer(policy, one["prompt_ids"], one[f"{side}_ids"]).mean() for side in ("chosen", "rejected")
            )
            odds = (good - torch.log1p(-good.exp())) - (bad - torch.log1p(-bad.exp()))
            terms.append(torch.nn.functional.logsigmoid(odds))
        loss = trainer.compute_loss(policy, batch)
    assert loss.item() == pytest.approx((-tokens.mean() - BETA * sum(terms) / len(terms)).item(), rel=1e-5)


@pytest.mark.parametrize(("method", "start"), [("dpo", math.log(2)), ("kto", 0.5), ("orpo", None)])
@pytest.mark.parametrize("finetuning", ["lora", "qlora"])
def test_each_method_trains_and_is_scored(
    method: str, start: float | None, finetuning: str, method_job: Callable
) -> None:
    one = method_job(method=method, finetuning=finetuning, learning_rate=1e-3, allow_high_lr=True, sampled_prompts=2)
    module = methods.of(one.parameters).load()
    module.work(one)
    facts = files.read_json(one.out / "facts.json")
    assert facts["method"] == method and facts["reference"] == ("none" if method == "orpo" else "live")
    assert facts["steps_done"] == 2 and facts["pairs"] == 8 and facts["pairs_heldout"] == 4
    assert facts["step_zero_expected"] == start
    assert facts["step_zero_loss"] == (None if start is None else pytest.approx(start, abs=1e-4))
    module.score(one)
    scores = files.read_json(one.out / "heldout.json")
    assert len(scores["policy_chosen"]) == 4 and scores["policy_chosen"] != scores["reference_chosen"]
    assert json.loads((one.out / "behaviour.json").read_text())["policy"]["texts"]


@pytest.mark.parametrize(("method", "field"), [("kto", {"desirable_weight": 1.5}), ("dpo", {"use_weighting": True})])
def test_a_weight_on_the_loss_is_no_wrong_reference(method: str, field: dict[str, Any], method_job: Callable) -> None:
    """Its loss before step 1 is none of ln 2 and 0.5, so none is said."""
    one = method_job(method=method, trainer=field)
    methods.of(one.parameters).load().work(one)
    facts = files.read_json(one.out / "facts.json")
    assert facts["step_zero_loss"] is None and facts["step_zero_gap"] < 1e-4 and facts["steps_done"] == 2


def test_a_wrong_reference_stops_kto_before_step_1(method_job: Callable, triples: list) -> None:
    one = method_job(method="kto")
    trainer, _, pairs = trainer_and_batch(one, triples)
    with pytest.raises(RuntimeError, match="before step 1"):
        dpo.step_zero(trainer, pairs, 0.5)


def test_a_row_is_called_by_its_method() -> None:
    paper = {"name": "baichuan-inc/Baichuan-7B", "source": "hub", **names.PAPER_SIZE}
    told = names.describe(paper, {"dpo": {"method": "kto"}})
    assert told["names"]["dpo"].endswith("+ DCPT + SFT + KTO")
    assert "dpo" not in told["as_paper"] and "sft" in told["as_paper"]
    assert names.describe(paper)["names"]["dpo"].endswith("+ DPO") and "dpo" in names.describe(paper)["as_paper"]
