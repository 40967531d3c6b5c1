"""Preference pairs made from ChiMed-SFT's training conversations: a doctor's answer against one that a strategy makes.

Strategies: `other_answer` (another conversation's), `base_answer` (the base model's own, greedy), `reward_ranked` (of
sampled answers that the reward model of another run ranked, the best against the worst), `broken_order` (a later
question of the same doctor, asked too early), `rule` (a reply that a rule file forbids at this point: RuleAlign's idea,
arXiv 2408.12579, whose own way to make its pairs is not public).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import Field, ValidationError

from qilin_lib import files, strict_yaml
from qilin_lib.errors import QilinError
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.params import ROOT, failure_sentence
from qilin_lib.progress import live_line
from qilin_lib.runs import Stage, runs_dir
from qilin_lib.strict import Part
from qilin_lib.tokens.template import Message
from qilin_lib.train import behaviour, launch, pairs
from qilin_lib.train import fit as shared
from qilin_lib.train import job as jobs
from qilin_lib.train.methods import METHODS
from qilin_lib.train.questions import is_question

# prompt, chosen, rejected, and the id of the conversation that they are from.
Pair = tuple[list[Message], str, str, str]
GIVEN = "given"


class Step(Part):
    """One question of a doctor."""

    name: str = Field(description="what it is called")
    words: list[str] = Field(min_length=1, description="a question with one of them asks it, a patient's word tells it")
    question: str = Field(description="the question in full")


class Rule(Part):
    """A rule file: what is asked, in this order, before any advice."""

    disease: str = Field(description="what it is about")
    keywords: list[str] = Field(min_length=1, description="a patient's word that makes it apply")
    steps: list[Step] = Field(min_length=1, description="in their order")
    advice: list[str] = Field(min_length=1, description="words of advice, too early before the last step")

    def applies(self, messages: Sequence[Message]) -> bool:
        """Whether the patient's first turn is about this disease."""
        first = next((turn["content"] for turn in messages if turn["role"] == "user"), "")
        return any(word in first for word in self.keywords)

    def open_steps(self, prompt: Sequence[Message]) -> list[Step]:
        """The steps that nobody has asked or answered yet."""
        said = [turn["content"] for turn in prompt if turn["role"] == "user" or is_question(turn["content"])]
        return [step for step in self.steps if not any(word in text for text in said for word in step.words)]

    def violation(self, prompt: Sequence[Message], reply: str) -> str:
        """What a reply to `prompt` does against the rule, "" if nothing."""
        left = self.open_steps(prompt)
        asked = [step for step in left if is_question(reply) and any(word in reply for word in step.words)]
        if asked and asked[0] is not left[0]:
            return f"asks {asked[0].name} before {left[0].name}"
        early = [word for word in self.advice if word in reply]
        return f"advises ({early[0]}) before {left[0].name}" if left and not asked and early else ""


def read_rule(path: Path) -> Rule:
    """A rule file; QilinError naming file, field and reason."""
    if not path.is_file():
        raise QilinError(f"constructed.rules: {path}: no file; nearest valid: qilin_lib/sample/rules/headache.yaml")
    try:
        return Rule.model_validate(strict_yaml.read(path))
    except ValidationError as failure:
        raise QilinError(f"{path}: {failure_sentence(Rule, failure)}") from None


# --- strategies that need no model ------------------------------------------------------------------------------------


def replies(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[Message], str]]:
    """(row, prompt, answer) of every assistant turn."""
    for row in rows:
        for at, turn in enumerate(row["messages"]):
            if turn["role"] == "assistant" and at:
                yield row, row["messages"][:at], turn["content"]


def other_answer(rows: Sequence[dict[str, Any]], draw: random.Random, **_: Any) -> Iterator[Pair]:
    """The answer of another conversation."""
    own = list(replies(rows))
    for row, prompt, answer in own:
        other, _, text = draw.choice(own)
        if other["id"] != row["id"] and text != answer:
            yield prompt, answer, text, row["id"]


def broken_order(rows: Sequence[dict[str, Any]], draw: random.Random, **_: Any) -> Iterator[Pair]:
    """The next question against one that this doctor asks only later."""
    for row in rows:
        asked = [(prompt, text) for _, prompt, text in replies([row]) if is_question(text)]
        later = [text for _, text in asked[1:] if asked and text != asked[0][1]]
        if later:
            yield *asked[0], draw.choice(later), row["id"]


def rule(rows: Sequence[dict[str, Any]], draw: random.Random, rules: Sequence[Rule] = (), **_: Any) -> Iterator[Pair]:
    """The doctor's own reply, where it asks the next step, against the same doctor's last; or the rule's question
    against the doctor's own, where that violates the rule."""
    for row, prompt, answer in replies(rows):
        for one in (one for one in rules if one.applies(prompt)):
            left, last = one.open_steps(prompt), row["messages"][-1]["content"]
            if one.violation(prompt, answer):
                yield prompt, left[0].question, answer, row["id"]
            elif left and is_question(answer) and one.violation(prompt, last):
                yield prompt, answer, last, row["id"]


def reward_ranked(
    rows: Sequence[dict[str, Any]], draw: random.Random, pool: Sequence[dict[str, Any]] = (), **_: Any
) -> Iterator[Pair]:
    """The best against the worst of a question's sampled answers, as a reward model ranked them."""
    known, answered = {row["id"] for row in rows}, {}
    for one in pool:
        if one["id"] in known and one["answer"].strip():
            answered.setdefault(one["id"], []).append(one)
    for name, own in answered.items():
        worst, best = (pick(own, key=lambda one: one["reward"]) for pick in (min, max))
        if best["reward"] > worst["reward"] and best["answer"] != worst["answer"]:
            yield best["prompt"], best["answer"], worst["answer"], name


def base_answer(
    rows: Sequence[dict[str, Any]], draw: random.Random, answer: Callable[[list[list[Message]]], list[str]], most: int,
    **_: Any,
) -> Iterator[Pair]:  # fmt: skip
    """What the base model answers itself; no more of them are asked than wanted."""
    own = [(row, prompt, text) for row, prompt, text in replies(rows) if len(prompt) == 1]
    some = draw.sample(own, min(most, len(own)))
    for (row, prompt, text), written in zip(some, answer([prompt for _, prompt, _ in some]), strict=True):
        if written.strip() and written != text:
            yield prompt, text, written, row["id"]


STRATEGIES: dict[str, Callable[..., Iterator[Pair]]] = {
    one.__name__: one for one in (other_answer, base_answer, reward_ranked, broken_order, rule)
}


def construct(
    rows: Sequence[dict[str, Any]], wanted: dict[str, int], seed: int, heldout_share: float, **more: Any
) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
    """(rows of dpo.jsonl with their `strategy`, {strategy: {wanted, possible, used, heldout}}): at most `wanted` pairs
    of each, in a seeded draw that no other strategy moves; a conversation is held out with all its pairs or with none.
    """
    training = [row for row in rows if row["split"] == "train" and row["part"] == "medical"]
    made: list[dict[str, Any]] = []
    counts: dict[str, dict[str, int]] = {}
    for name, most in wanted.items():
        draw = random.Random(f"{seed} {name}")
        found = list(STRATEGIES[name](training, draw, most=most, **more))
        some = draw.sample(found, min(most, len(found)))
        counts[name] = {"wanted": most, "possible": len(found), "used": len(some), "heldout": 0}
        for number, (prompt, chosen, rejected, origin) in enumerate(some):
            held = random.Random(f"{seed} heldout {origin}").random() < heldout_share
            counts[name]["heldout"] += held
            made.append(
                {
                    "id": f"{name}-{number}-{origin}",
                    "source": name,
                    "part": "medical",
                    "strategy": name,
                    "split": "heldout" if held else "train",
                    "prompt": prompt,
                    "chosen": [{"role": "assistant", "content": chosen}],
                    "rejected": [{"role": "assistant", "content": rejected}],
                }
            )
    return made, counts


# --- in a stage -------------------------------------------------------------------------------------------------------


def outside(settings: Any) -> dict[str, dict[str, Path]]:
    """{kind: {name: path}} of the files that a construction reads from outside its run."""
    found = {"rules": {name: (ROOT / name) for name in settings.rules}}
    if "reward_ranked" in settings.strategies:
        pools = sorted((runs_dir() / str(settings.pool) / "08_rlhf" / "rejection").glob("round*/pool.jsonl"))
        if not pools:
            raise QilinError(
                f"constructed.pool = {settings.pool!r}: no pool of 08 there; nearest valid: a run that has one"
            )
        found["pool"] = {path.parent.name: path for path in pools}
    return found


def prepare(stage: Stage) -> Path:
    """pairs.jsonl of the stage, made by a process of its own unless it is there; facts.json beside it says what was
    made."""
    folder, show = stage.dir / "constructed", live_line()
    stage.begin(show)
    if not stage.up_to_date:
        chimed = stage.parent("01_build_chimed")
        paths = {"sft": chimed / "sft.jsonl", "dpo": chimed / "dpo.jsonl"}
        paths["base"] = shared.weights_of(stage, "02_tokenize")
        parameters = stage.parameters.model_dump(mode="json")
        alone = {"gpus": min(1, stage.parameters.gpus), "nproc_per_node": None, "nodes": 1, "deepspeed": None}
        jobs.run(stage, METHODS["construction"], folder, parameters | alone, paths, show)
    return folder / "pairs.jsonl"


def work(job: SimpleNamespace) -> None:
    """The child's part: pairs.jsonl, then facts.json."""
    p, settings, too_long = job.parameters, SimpleNamespace(**job.parameters.constructed), []

    def answer(prompts: list[list[Message]]) -> list[str]:
        tokenizer = job.template.ending(load_tokenizer(job.paths.base))
        model = load_model(job.paths.base, p.dtype, device=launch.device(p)).eval()
        asked = [pairs.encoded(prompt, job.template, tokenizer, p, opened=True) for prompt in prompts]
        room = shared.reads(job.paths.base) - p.max_target_length
        fits = [len(ids) <= room for ids in asked]
        too_long.append(fits.count(False))
        some = [ids for ids, fit in zip(asked, fits, strict=True) if fit]
        texts = iter(behaviour.answers(model, tokenizer, some, p.max_target_length)["texts"])
        # What says nothing makes no pair.
        return [next(texts) if fit else "" for fit in fits]

    read = outside(settings)
    rules = [read_rule(path) for path in read["rules"].values()]
    pool = [row for path in read.get("pool", {}).values() for row in files.read_jsonl(path)]
    more = {"rules": rules, "pool": pool, "answer": answer}
    rows = list(files.read_jsonl(job.paths.sft))
    made, counts = construct(rows, settings.strategies, p.seed, settings.heldout_share, **more)
    if too_long:
        counts["base_answer"]["too_long"] = sum(too_long)
    if settings.given:
        own = [row | {"strategy": GIVEN} for row in files.read_jsonl(job.paths.dpo)]
        counts[GIVEN] = {"used": len(own), "heldout": sum(row["split"] == "heldout" for row in own)}
        made = [*own, *made]
    if not any(row["split"] == "train" for row in made):
        raise QilinError(f"constructed: no pair to train on; {counts}; nearest valid: given: true, or another strategy")
    files.write_jsonl(job.out / "pairs.jsonl", made)
    files.write_json(job.out / "facts.json", counts)
