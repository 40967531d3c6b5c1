"""08: reinforcement learning against the reward model, the last step of Zhongjing's regime.

Zhongjing used PPO, which TRL 1.16 has neither among its stable nor its experimental trainers. In its place stand two
methods that need no value model: RLOO (Ahmadian et al. 2024, arXiv 2402.14740: the baseline of an answer is the mean
reward of the other answers to the same question, the KL divergence from SFT is part of the reward) and GRPO (Shao et
al. 2024, arXiv 2402.03300: rewards are normalised within the group, the KL divergence is part of the loss).

The policy starts from what SFT left, merged; the reference is the same model with the adapter off. Answers are drawn by
`sampling.sample`, seeded by step and row: a training that was killed draws the same answers again. With top_p below 1
they come from the nucleus while the loss reads the whole distribution, as everywhere in TRL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import trained
from qilin_lib.runs import Stage
from qilin_lib.tokens import store
from qilin_lib.tokens.template import Template
from qilin_lib.train import fit as shared
from qilin_lib.train import job as jobs
from qilin_lib.train import launch, pairs, sampling
from qilin_lib.train.methods import METHODS, reward

# Where the papers differ from TRL's defaults: its GRPO would divide by the tokens of the batch (DAPO) and weigh the KL
# term by the ratio; both would add what balances the experts of a mixture.
PLAIN: dict[str, Any] = {"router_aux_loss_coef": 0.0}
SETTINGS = {"rloo": PLAIN, "grpo": PLAIN | {"loss_type": "grpo", "use_bias_correction_kl": False}}


def train(stage: Stage) -> dict[str, Any] | None:
    """Train SFT's model with `method` on the questions of ChiMed-DPO in a child process, into rl/ of 08's folder; its
    facts, None for "none"."""
    if stage.parameters.method == "none":
        return None
    paths = pairs.inputs(stage) | {"reward": trained(stage.dir / "reward")}
    return jobs.train_step(stage, METHODS["rl"], stage.dir / "rl", stage.parameters.rl, paths)


def questions(
    rows: Iterable[dict[str, Any]], template: Template, tokenizer: Any, parameters: Any, context: float
) -> tuple[list[list[int]], int]:
    """(token ids of each prompt up to the opening of the answer, how many leave no room for an answer and its end in
    `context`)."""
    made = [pairs.encoded(row["prompt"], template, tokenizer, parameters, opened=True) for row in rows]
    asked = [ids for ids in made if len(ids) + parameters.max_target_length < context]
    return asked, len(made) - len(asked)


def reward_function(judge: Any, batch_size: int) -> Callable[..., list[float]]:
    """A reward function for TRL, of prompt and completion ids. RuntimeError for a reward that is no number: TRL would
    leave such an answer out without a word."""

    def reward_model(prompts: list[list[int]], completion_ids: list[list[int]], **_: Any) -> list[float]:
        sequences = [prompt + answer for prompt, answer in zip(prompts, completion_ids, strict=True)]
        values = reward.rewards(judge, sequences, batch_size)
        if broken := sum(not math.isfinite(value) for value in values):
            raise RuntimeError(f"the reward model gives {broken} of {len(values)} answers no finite reward")
        return values

    return reward_model


def make_trainer(job: SimpleNamespace, model: Any, tokenizer: Any, asked: list[list[int]], judge: Any) -> Any:
    """TRL's RLOOTrainer or GRPOTrainer on the token ids of prompts. Dropout is off, whatever `lora_dropout` says: the
    probability of an answer must be that of the model that wrote it."""
    import trl
    from datasets import Dataset
    from trl.models import unwrap_model_for_generation

    p, name = job.parameters, job.parameters.method.upper()
    drawn = {"temperature": p.temperature, "top_p": p.top_p}

    class TokenisedTrainer(getattr(trl, f"{name}Trainer")):
        """A trainer whose prompts are token ids of our template, and whose answers our sampler draws."""

        def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return prompts, None, {}

        def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> Any:
            place = f"rl:{self.state.global_step}:{self.accelerator.process_index}"
            with (
                unwrap_model_for_generation(
                    self.model_wrapped,
                    self.accelerator,
                    gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                    gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
                ) as policy,
                self.accelerator.autocast(),
            ):
                written = sampling.sample(
                    # A peft wrapper hides that the model takes positions; its adapter acts inside.
                    policy.get_base_model() if hasattr(policy, "get_base_model") else policy,
                    self.processing_class,
                    prompt_ids,
                    [f"{place}:{row}" for row in range(len(prompt_ids))],
                    **drawn,
                    max_new_tokens=p.max_target_length,
                    seed=p.seed,
                    batch_size=p.batch_size,
                )
            self.model.train()
            end = self.processing_class.eos_token_id
            ids = [answer + [end] * (len(answer) < p.max_target_length) for answer in written]
            return (ids, None) if p.method == "grpo" else ids

    settings = getattr(trl, f"{name}Config")(
        **shared.arguments(p, job.out),
        **SETTINGS[p.method],
        **drawn,
        disable_dropout=True,
        beta=p.kl_coef,
        num_generations=p.num_generations,
        max_completion_length=p.max_target_length,
    )
    trainer = TokenisedTrainer(
        model=model,
        reward_funcs=reward_function(judge, p.batch_size),
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": ids} for ids in asked]),
        processing_class=job.template.ending(tokenizer),
    )
    shared.without_copy(model, p)
    return trainer


def work(job: SimpleNamespace) -> None:
    """The child's part: train on the questions, and write facts.json last. QilinError when they are too few for one
    step."""
    p = job.parameters
    model, tokenizer = shared.prepare_model(p, job.paths.weights)
    # Before TRL's configuration: once a ZeRO-3 configuration exists, transformers would split the reward model too.
    # It stands beside the policy: on NF4 where the policy is.
    judge = reward.load(job.paths.reward, p.dtype, str(model.device), p.finetuning == "qlora" or None)
    rows = store.rows(job.paths, tokenizer, split="train")
    asked, too_long = questions(rows, job.template, tokenizer, p, shared.reads(job.paths.weights))
    answers = p.per_device_train_batch_size * p.gradient_accumulation_steps * launch.processes(p)
    if len(asked) < (each := answers // p.num_generations):
        raise QilinError(
            f"{job.paths.data}: {len(asked)} questions of the training split fit the context ({too_long} are too "
            f"long), and a step of {answers} answers in groups of num_generations = {p.num_generations} takes {each}; "
            "nearest valid: a smaller rl.per_device_train_batch_size, or more ChiMed-DPO triplets"
        )
    facts = {
        "method": p.method,
        "kl_coef": p.kl_coef,
        "num_generations": p.num_generations,
        "questions": len(asked),
        "questions_too_long": too_long,
        "questions_a_step": each,
        "answers_a_step": answers,
    }
    shared.fit(make_trainer(job, model, tokenizer, asked, judge), job, facts)
