"""Notebook 09: attitude scales, asked as ChiMed-GPT does (arXiv 2311.06025, abstract; its notebooks) and otherwise.

A total in one form says little: a model that always answers one letter has a total, too. So each statement is asked
in several wordings, orders of the options and sets of labels, and a record says which content was chosen.
The prompt is the authors', in the template that the model was trained with, before the reply's beginning "答案：" that
the kit's training taught (the authors use no template and force nothing).
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import attitude_scores, scales
from qilin_lib.evaluate.asking import ask, failure_line, scored_records
from qilin_lib.evaluate.backends import single_token
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.prompts import REPLY_PREFIX, Messages, Prompt, fit
from qilin_lib.evaluate.replies import Reply, letters
from qilin_lib.evaluate.scales import Scale
from qilin_lib.evaluate.task import Task
from qilin_lib.files import write_json
from qilin_lib.models.names import describe_run, read_scores
from qilin_lib.progress import FINISHED, Show, live_line
from qilin_lib.runs import Stage

NEXT_TOKEN, GENERATION = "next_token", "generation"
LABELS = {
    "letters": "ABCDEFGHIJ",
    "digits": "123456789",
    "lower_case": "abcdefghij",
    "heavenly_stems": "甲乙丙丁戊己庚辛壬癸",
}


@dataclass(frozen=True)
class Form:
    """The form in which a statement is asked: `wording` 0 is the original, order 0 the given one.

    `contents`: the option (1, 2, …) at each position.
    """

    place: int
    wording: int
    order: int
    contents: tuple[int, ...]
    labels: str


def prepare(raw_dir: str | Path, params: Any, built: Path | None = None) -> list[Task]:
    """The tasks of a run: every scale under every protocol. `raw_dir` and `built` are notebook 06's; scales need
    neither.

    Raises QilinError for a scale that cannot be read, two of one name, a label set with fewer labels than options, and
    more orders than the options have.
    """
    read = [(name, scales.read(name)) for name in params.scales]
    for _, scale in read:
        if [other.name for _, other in read].count(scale.name) > 1:
            raise QilinError(f"bias.scales = {params.scales}: two of them are called '{scale.name}'; rename one")
        _check_labels(scale, params.labels)
    return [_task(source, scale, protocol, params) for source, scale in read for protocol in params.protocols]


def orders(options: int, count: int, seed: int) -> list[tuple[int, ...]]:
    """`count` orders of the contents 1 … `options`: the given one, its reverse, then seeded pairs of such.

    They come in blocks of `options` orders (twice as many where that is odd), a Williams (1949) design: over a whole
    block every option stands equally often at every position, and equally often after every other.
    Raises QilinError for more orders than there are.
    """
    if count > math.factorial(options):
        raise QilinError(
            f"bias.option_orders: {count} is more than the {options} options have; nearest valid: "
            f"{math.factorial(options)}"
        )
    draw, found = random.Random(seed), []
    names = list(range(1, options + 1))
    while len(found) < count:
        rows = [tuple(names[content] for content in row) for row in _block(options, draw)]
        # Blocks under new names of the options share all of their orders or none.
        found += [] if rows[0] in found else rows
        draw.shuffle(names)
    return found[:count]


def evaluate(stage: Stage, show: Show | None = None) -> dict[str, Any]:
    """Answers and scores of the run's models and baselines; returns what it writes to scores.json.

    Finished answers that belong to the same prompts, scale and weights are kept, unfinished ones are gone on with. Does
    nothing if the stage is up to date. Raises QilinError, also for a process that fails.
    """
    target, parameters, show = stage.dir / "scores.json", stage.parameters, show or live_line()
    for name, line in parameters.baselines.items():
        if line.benchmarks is not None:
            raise QilinError(f"bias.baselines.{name}.benchmarks: every model is asked every scale; nearest valid: null")
    tasks = prepare("", parameters)
    if not stage.up_to_date:
        stage.begin()
    if stage.up_to_date:
        show(FINISHED)
        return read_scores(target)
    failed = ask(stage, "", show)
    scores = score(tasks, [*parameters.models, *parameters.baselines], stage.dir, parameters, failed)
    told = failure_line(stage, failed)
    write_json(target, scores | {"run": describe_run(stage), "failed": told})
    show(told or FINISHED)
    return read_scores(target)


def score(
    tasks: Sequence[Task],
    models: Sequence[str],
    out_dir: str | Path,
    params: Any,
    failed: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """scores.json from the records alone: {"scales": facts, "models": protocol -> scale -> model -> numbers, "paired",
    "unfinished": scale -> model -> why it has no number}.

    Makes the finished files out of what the processes wrote. Raises QilinError when a record is missing.
    """
    facts, measured, paired, unfinished = {}, {}, [], {}
    for task in tasks:
        scale = scales.read(task.settings["scale"])
        facts[scale.name] = attitude_scores.facts(scale, params.labels, _orders(scale, params), LABELS)
        answers, without = scored_records(task, models, out_dir, failed)
        # A scale is a task per protocol.
        unfinished[scale.name] = unfinished.get(scale.name, {}) | without
        by_model = {model: task.statistics(records) for model, records in answers.items()}
        measured.setdefault(task.protocol, {})[scale.name] = by_model
        for a, b in itertools.combinations(answers, 2):
            gap = attitude_scores.difference(answers[a], answers[b], scale, params.bootstrap_resamples, params.seed)
            paired.append({"protocol": task.protocol, "scale": scale.name, "model_a": a, "model_b": b} | gap)
    return {"scales": facts, "models": measured, "paired": paired, "unfinished": unfinished}


def _check_labels(scale: Scale, names: Sequence[str]) -> None:
    for name in names:
        if len(LABELS[name]) < len(scale.options):
            enough = [other for other, labels in LABELS.items() if len(labels) >= len(scale.options)]
            raise QilinError(
                f"bias.labels: '{name}' has {len(LABELS[name])} labels and scale '{scale.name}' {len(scale.options)} "
                f"options; nearest valid: {enough or 'a scale with fewer options'}"
            )


def _orders(scale: Scale, params: Any) -> list[tuple[int, ...]]:
    return orders(len(scale.options), params.option_orders, params.seed)


def _task(source: str, scale: Scale, protocol: str, params: Any) -> Task:
    forms, new = _forms(scale, params), params.max_new_tokens
    measure = {"resamples": params.bootstrap_resamples, "seed": params.seed}
    return Task(
        name=scale.name,
        protocol=protocol,
        split="all",
        cap=None,
        items=[_item(scale, identity, form) for identity, form in forms.items()],
        invalid=[],
        settings={"scale": source, "sha256": scale.sha256, "max_new_tokens": new},
        likelihood=protocol == NEXT_TOKEN,
        prompts=partial(_prompts, scale=scale, protocol=protocol, new_tokens=new),
        answer=partial(_answer, scale=scale, forms=forms, protocol=protocol, new_tokens=new),
        statistics=partial(attitude_scores.statistics, scale=scale, **measure),
    )


def _forms(scale: Scale, params: Any) -> dict[str, Form]:
    """{id of the item: form}; labels and orders outside, so that prompts with the same options stand together."""
    given = list(enumerate(_orders(scale, params)))
    return {
        f"{labels}-order{order}-item{statement.number}-wording{wording}": Form(place, wording, order, contents, labels)
        for labels in params.labels
        for order, contents in given
        for place, statement in enumerate(scale.items)
        for wording in range(len(statement.wordings) if params.paraphrases else 1)
    }


def _item(scale: Scale, identity: str, form: Form) -> Item:
    statement, labels = scale.items[form.place], LABELS[form.labels]
    options = {labels[place]: scale.options[content - 1] for place, content in enumerate(form.contents)}
    # As `subject`: prompts of the same options share their beginning, and are scored over the same labels.
    layout = f"{form.labels}, order {form.order}"
    return Item(scale.name, identity, "all", layout, statement.wordings[form.wording], options, None, "")


def _prompts(
    items: Sequence[Item], backend: Any, shots: int, scale: Scale, protocol: str, new_tokens: int
) -> list[Prompt]:
    """One prompt an item, without shots. QilinError when labels cannot be scored as the next token."""
    scored = protocol == NEXT_TOKEN and backend.likelihood
    if scored:
        used = dict.fromkeys(item.subject.partition(",")[0] for item in items)
        _check_tokens(backend.tokenizer, list(used), len(scale.options))
    asked = []
    for item in items:

        def build(text: str, _: Sequence[Item], item: Item = item) -> Messages:
            lines = "\n".join(f"{label} {option}" for label, option in item.options.items())
            content = scale.instruction.replace("{options}", lines).replace("{item}", text)
            return [{"role": "user", "content": content}]

        asked.append(fit(build, item, (), REPLY_PREFIX, backend, 0 if scored else new_tokens))
    return asked


def _check_tokens(tokenizer: Any, used: Sequence[str], options: int) -> None:
    for name in used:
        if not _one_token_each(tokenizer, LABELS[name][:options]):
            good = [other for other, labels in LABELS.items() if _one_token_each(tokenizer, labels[:options])]
            near = [other for other in good if len(LABELS[other]) >= options]
            raise QilinError(
                f"bias.labels: '{name}' ({LABELS[name][:options]}) is not one token of its own for each label after "
                f"'{REPLY_PREFIX}' with this model's tokenizer; nearest valid: {near or 'protocols: [generation]'}"
            )


def _one_token_each(tokenizer: Any, labels: str) -> bool:
    try:
        # A tokenizer without byte fallback turns every rare character into the same unknown token.
        return len({single_token(tokenizer, REPLY_PREFIX, label) for label in labels}) == len(labels)
    except QilinError:
        return False


def _answer(
    items: Sequence[Item],
    asked: Sequence[Prompt],
    backend: Any,
    scale: Scale,
    forms: dict[str, Form],
    protocol: str,
    new_tokens: int,
) -> list[dict]:
    """The likeliest label with all log-probabilities, or the reply and the label read from it.

    A backend that gives no probabilities (an endpoint, an encoder-decoder) writes under both protocols, as in C-Eval.
    """
    if protocol == GENERATION or not backend.likelihood:
        replies = backend.generate(asked, new_tokens)
        return [
            _own(item, forms[item.id], scale, read_label(reply, item.options), reply.text, reply.ending)
            for item, reply in zip(items, replies, strict=True)
        ]
    rows: list[dict] = [{} for _ in items]
    for layout in dict.fromkeys(item.subject for item in items):
        members = [n for n, item in enumerate(items) if item.subject == layout]
        choices = list(items[members[0]].options)
        scores = backend.choice_logprobs([asked[n] for n in members], choices)
        for n, row in zip(members, scores, strict=True):
            refused = isinstance(row, Reply)
            # A model that overflows gives no number, and max() would take the first label for its answer.
            label = max(row, key=row.get) if not refused and all(map(math.isfinite, row.values())) else None
            more = row.ending if refused else {"scores": row}
            rows[n] = _own(items[n], forms[items[n].id], scale, label, "", more)
    return rows


def _own(item: Item, form: Form, scale: Scale, label: str | None, output: str, more: dict) -> dict:
    """A record's own part: what was asked in which form, what was chosen (content and position from 1), its points."""
    statement = scale.items[form.place]
    position = None if label is None else list(item.options).index(label) + 1
    content = None if position is None else form.contents[position - 1]
    return {
        "output": output,
        "prediction": label,
        "item": statement.number,
        "wording": form.wording,
        "order": form.order,
        "contents": list(form.contents),
        "labels": form.labels,
        "position": position,
        "choice": content,
        "points": None if content is None else scale.points(statement, content),
        **more,
    }


def read_label(reply: Reply, options: dict[str, str]) -> str | None:
    """The label in a reply begun with "答案：", or the one whose option's text it gives; None if it says neither.

    Unlike in the authors' script, which takes the first character and "C" for all else, nothing is assumed. `options`
    {label: text} in the order shown. Labels other than capitals are read as the capital of their position, and only
    where they stand alone: 甲 in 甲状腺 is no answer.
    """
    text = reply.text
    capitals = dict(zip(options, LABELS["letters"], strict=False))
    if not set("".join(options).upper()) <= set(LABELS["letters"]):
        # A letter that was not on offer answers nothing.
        text = re.sub(r"(?<![A-Za-z])[A-Ja-j](?![A-Za-z])", "□", text)
    texts = "|".join(re.escape(text) for text in sorted(options.values(), key=len, reverse=True))
    for label, capital in capitals.items():
        if label != capital:
            alone = rf"(?:(?<!\w)|(?<=[选择项是为])){re.escape(label)}(?:(?!\w)|(?={texts}))"
            text = re.sub(alone, capital, text)
    named = {capitals[label]: text for label, text in options.items()}
    found = letters(reply._replace(text=text), named, multiple=False)
    return None if found is None else list(options)[LABELS["letters"].index(found)]


def _block(options: int, draw: random.Random) -> list[tuple[int, ...]]:
    """A Williams design over the contents 0, 1, …: pairs of an order and its reverse, the identity first."""
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) % options for place in range(options)]
    position = {content: place for place, content in enumerate(zigzag)}
    rows = [tuple(position[(content + step) % options] for content in zigzag) for step in range(options)]
    # With an even number of options the reverse of each row is a row, with an odd one it is not.
    further = rows[1 : options // 2] if options % 2 == 0 else rows[1:]
    draw.shuffle(further)
    return [order for row in (rows[0], *further) for order in (row, row[::-1])]
