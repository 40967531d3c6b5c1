"""08's reinforcement learning: our token ids, the papers' losses and gradients, the right reference, seeds, kills."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import trainings
from helpers.trainings import differences, output

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import load_trained
from qilin_lib.models.load import load_model
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import checkpoints, fit
from qilin_lib.train.methods import reward, rl

pytestmark = pytest.mark.slow

SMALL = {
    "gpus": 0,
    "finetuning": "lora",
    "dtype": "float32",
    "lora_dropout": 0.0,
    "logging_steps": 1,
    "save_steps": 2,
    "max_source_length": 60,
    "max_target_length": 8,
    "num_generations": 3,
    "batch_size": 4,
    "kl_coef": 0.1,
    "rl": {"per_device_train_batch_size": 6, "num_train_epochs": 1.0, "max_steps": 6, "learning_rate": 0.01},
}


def parameters(**overrides: Any) -> SimpleNamespace:
    """What a child of 08 gets: the common parameters and the four of `rl`."""
    made = params.load("08_rlhf", SMALL | overrides).model_dump(mode="json")
    return SimpleNamespace(**made, **made["rl"], dry_run=False)


@pytest.fixture(scope="module")
def rows(sentences: Callable) -> list[dict[str, Any]]:
    """Fourteen questions, every third one with a turn before it; two are held out."""
    made = trainings.triplets(sentences(42, 21), 14, held=2)
    for row in made[::3]:
        row["prompt"] = row["messages"] + row["prompt"]
    return made


@pytest.fixture(scope="module")
def judge_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with a random head."""
    return trainings.left(
        parameters(finetuning="full"), tiny_model_dir, tmp_path_factory.mktemp("reward"), rewards=True
    )


@pytest.fixture
def job(tiny_model_dir: Path, judge_dir: Path, rows: list[dict], tmp_path: Path) -> Callable[..., SimpleNamespace]:
    def make(**overrides: Any) -> SimpleNamespace:
        data = tmp_path / "dpo.jsonl"
        files.write_jsonl(data, rows)
        return trainings.job(parameters(**overrides), tmp_path, tiny_model_dir, reward=judge_dir, data=data)

    return make


def set_up(job: SimpleNamespace, rows: list[dict[str, Any]]) -> tuple[Any, list[list[int]]]:
    """A trainer at its start, and its questions."""
    model, tokenizer = fit.prepare_model(job.parameters, job.paths.weights)
    asked, _ = rl.questions(rows, job.template, tokenizer, job.parameters, 512)
    judge = reward.load(job.paths.reward, "float32", "cpu")
    trainer = rl.make_trainer(job, model, tokenizer, asked, judge)
    return trainer, asked


def prepared(trainer: Any, asked: list[list[int]]) -> dict[str, Any]:
    """The batch that TRL makes of two questions, three answers each."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer._prepare_inputs([{"prompt": asked[i]} for i in (0, 0, 0, 1, 1, 1)])


def sequences(batch: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids) of each row, without padding."""
    parts = [(batch[f"{part}_ids"], batch[f"{part}_mask"].bool()) for part in ("prompt", "completion")]
    rows = [[ids[i][mask[i]].tolist() for ids, mask in parts] for i in range(len(parts[0][0]))]
    return [(prompt, answer) for prompt, answer in rows]


def token_logprobs(model: Any, prompt: list[int], answer: list[int], temperature: float) -> Any:
    """log p of each answer token."""
    return trainings.token_logprobs(model, prompt + answer, temperature)[-len(answer) :]


# --- the questions ----------------------------------------------------------------------------------------------------


def test_long_turns_are_cut_inside_and_what_fits_no_context_is_counted(rows: list[dict], tiny_tokenizer: Any) -> None:
    narrow = SimpleNamespace(max_source_length=3, max_target_length=4)
    # The reward is read at an end token behind the longest answer.
    assert rl.questions(rows, BAICHUAN, tiny_tokenizer, narrow, 5 + 4)[0] == []
    found, too_long = rl.questions(rows, BAICHUAN, tiny_tokenizer, narrow, 5 + 4 + 1)
    # One turn: two role tokens and three of text. With a turn before it: fifteen tokens.
    single = [row for row in rows if len(row["prompt"]) == 1]
    assert {len(ids) for ids in found} == {5} and len(found) == len(single) and too_long == len(rows) - len(single)


# --- rewards ----------------------------------------------------------------------------------------------------------


def test_a_reward_that_is_no_number_stops_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward, "rewards", lambda *_: [1.0, math.nan, math.inf])
    with pytest.raises(RuntimeError, match="gives 2 of 3 answers no finite reward"):
        rl.reward_function(None, 4)(prompts=[[1], [2], [3]], completion_ids=[[4], [5], [6]], trainer_state=None)


# --- the losses -------------------------------------------------------------------------------------------------------


def by_the_book(policy: Any, reference: Any, batch: dict[str, Any], values: list[float], p: SimpleNamespace) -> Any:
    """RLOO (arXiv 2402.14740) or GRPO (arXiv 2402.03300) on sampled answers, one update a batch; a float64 tensor."""
    import torch

    rows = sequences(batch)
    ours = [token_logprobs(policy, *row, p.temperature) for row in rows]
    with torch.no_grad():
        theirs = [token_logprobs(reference, *row, p.temperature) for row in rows]
    size, losses = p.num_generations, []
    if p.method == "rloo":
        scored = [v - p.kl_coef * (a.detach() - b).sum() for v, a, b in zip(values, ours, theirs, strict=True)]
    else:
        scored = [torch.tensor(v, dtype=torch.float64) for v in values]
    groups = [[j for j in range(len(rows)) if rows[j][0] == rows[i][0]] for i in range(len(rows))]
    for i, group in enumerate(groups):
        assert len(group) == size
        if p.method == "rloo":
            advantage = scored[i] - sum(scored[j] for j in group if j != i) / (size - 1)
            losses.append(-advantage * ours[i].sum())
        else:
            together = torch.stack([scored[j] for j in group])
            advantage = (scored[i] - together.mean()) / (together.std() + 1e-4)
            gap = theirs[i] - ours[i]
            kl = gap.exp() - gap - 1
            losses.append((-advantage * ours[i] + p.kl_coef * kl).mean())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("method", ["rloo", "grpo"])
@pytest.mark.parametrize("kind, overrides", [("qlora", {}), ("lora", {"temperature": 0.7, "top_p": 0.8}), ("full", {})])
def test_gradients_are_the_papers_with_sft_s_own_model_as_the_reference(
    method: str, kind: str, overrides: dict, job: Callable, rows: list[dict], tiny_model_dir: Path
) -> None:
    """A policy away from the reference, so that the KL term counts; at the start that is 0 to the last bit."""
    made = job(method=method, finetuning=kind, **overrides)
    trainer, asked = set_up(made, rows)
    prepared(trainer, asked)
    # GRPO measures it with its loss.
    assert trainer._metrics["train"]["kl"] == [0.0] * (method == "rloo")
    assert (trainer.ref_model is None) == (kind != "full")
    trainings.shifted(trainer.model, 0.03 if kind == "full" else 0.1, 5)
    batch = prepared(trainer, asked)
    judge = reward.load(made.paths.reward, "float32", "cpu")
    values = reward.rewards(judge, [prompt + answer for prompt, answer in sequences(batch)], 4)
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, batch).backward()
    ours = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.model.zero_grad()
    reference = load_model(tiny_model_dir, quantised=kind == "qlora").eval()
    by_the_book(trainer.model.eval(), reference, batch, values, made.parameters).backward()
    book = {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}
    largest = max(grad.abs().max().item() for grad in book.values())
    assert largest > 1e-3 and ours.keys() == book.keys()
    for name, grad in book.items():
        assert (ours[name] - grad).abs().max().item() < 2e-4 * largest, name


def test_no_dropout_and_no_leftover_adapter(job: Callable, rows: list[dict]) -> None:
    import torch

    trainer, _ = set_up(job(lora_dropout=0.3), rows)
    assert {m.p for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout)} == {0}
    assert list(trainer.model.peft_config) == ["default"]


# --- the child --------------------------------------------------------------------------------------------------------


def test_too_few_questions_are_refused_in_one_sentence(job: Callable, rows: list[dict]) -> None:
    made = job()
    files.write_jsonl(made.paths.data, [row for row in rows if row["split"] == "train"][:1])
    with pytest.raises(QilinError, match=r"1 questions of the training split fit .* takes 2; nearest valid: a smaller"):
        rl.work(made)


def test_a_policy_learns_what_is_rewarded(job: Callable, rows: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    """Short answers are rewarded: after thirty steps they are shorter, and the reward that is logged rose."""

    def brevity(_: Any, whole: list[list[int]], __: int) -> list[float]:
        return [-float(len(ids)) for ids in whole]

    monkeypatch.setattr(reward, "rewards", brevity)
    steps = SMALL["rl"] | {"max_steps": 30, "per_device_train_batch_size": 12, "num_train_epochs": 30.0}
    made = job(rl=steps | {"learning_rate": 0.02}, num_generations=6, kl_coef=0.0, save_steps=100, warmup_ratio=0.0)
    rl.work(made)
    lengths = [row["completions/mean_length"] for row in fit.read_log(made.out) if "loss" in row]
    assert len(lengths) == 30 and sum(lengths[-5:]) / 5 < 0.7 * sum(lengths[:5]) / 5
    facts = files.read_json(made.out / "facts.json")
    assert (facts["questions"], facts["questions_a_step"], facts["answers_a_step"]) == (12, 2, 12)
    # Sixty questions, two a step, are each of the twelve five times.
    _, tokenizer = fit.prepare_model(made.parameters, made.paths.weights)
    asked, _ = rl.questions([row for row in rows if row["split"] == "train"], BAICHUAN, tokenizer, made.parameters, 512)
    prompts = 5 * 6 * sum(map(len, asked))
    assert facts["tokens_input"] == pytest.approx(prompts + 12 * sum(lengths), abs=1) and facts["steps_done"] == 30
    assert load_trained(made.out / "adapter", "float32")[0].config.model_type == "llama"


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, kind, kills",
    [
        ("rloo", "qlora", [("on_step_begin", 1), ("on_pre_optimizer_step", 3)]),
        pytest.param("grpo", "lora", [("on_log", 5)], marks=pytest.mark.extended),
    ],
)
def test_killed_and_continued_equals_uninterrupted(
    method: str, kind: str, kills: list[tuple[str, int]], job: Callable, tmp_path: Path
) -> None:
    """Two micro-batches a step, two epochs: answers, order and weights are those of the training nobody disturbed."""
    shape = {"rl": SMALL["rl"] | {"per_device_train_batch_size": 3}, "gradient_accumulation_steps": 2}
    made = job(method=method, finetuning=kind, **shape)
    straight, broken = (
        trainings.write_job(tmp_path / name, made.parameters, vars(made.paths)) for name in ("straight", "broken")
    )
    assert trainings.train(straight, rl) == 0, output(straight)
    for fault in kills:
        assert trainings.train(broken, rl, *fault) == -signal.SIGKILL, output(broken)
        assert not (broken.parent / "facts.json").exists()
    before = checkpoints.last(broken.parent / "checkpoints")
    assert trainings.train(broken, rl) == 0, output(broken)
    assert files.read_json(broken.parent / "facts.json")["resumed_from"] == before.name
    assert differences(straight.parent, broken.parent) == []
    logs = [[row["reward"] for row in fit.read_log(j.parent) if "reward" in row] for j in (straight, broken)]
    assert logs[0] == pytest.approx(logs[1], abs=1e-5) and len(set(logs[0])) > 1
