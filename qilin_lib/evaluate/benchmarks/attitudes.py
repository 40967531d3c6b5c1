"""Attitude scales as a benchmark, asked as ChiMed-GPT does (arXiv 2311.06025, abstract; its notebooks) and otherwise.

A total in one form says little: a model that always answers one letter has a total, too. So each statement is asked
in several wordings, orders of the options and sets of labels, and a record says which content was chosen.
The prompt is the authors', in the template that the model was trained with, before the reply's beginning "答案：" that
the kit's training taught (the authors use no template and force nothing).
"""

from __future__ import annotations

import contextlib
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import attitude_scores, scales
from qilin_lib.evaluate.backends import single_token
from qilin_lib.evaluate.benchmarks.answers import best, likeliest
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.plan import Task
from qilin_lib.evaluate.prompts import REPLY_PREFIX, Messages, Prompt, fit
from qilin_lib.evaluate.replies import Reply, letters
from qilin_lib.evaluate.scales import Scale

NEXT_TOKEN, GENERATION = "next_token", "generation"
LABELS = {
    "letters": "ABCDEFGHIJ",
    "digits": "123456789",
    "lower_case": "abcdefghij",
    "heavenly_stems": "甲乙丙丁戊己庚辛壬癸",
}


class Form(NamedTuple):
    """The form in which the statement at a place is asked: `wording` 0 is the original, order 0 the given one.

    `contents`: the option (1, 2, …) at each position.
    """

    place: int
    wording: int
    order: int
    contents: tuple[int, ...]
    labels: str


@dataclass(frozen=True)
class Attitudes(Task):
    """A scale under one protocol; its items are the `forms`."""

    scale: Scale
    orders: list[tuple[int, ...]]
    labels: list[str]
    paraphrases: bool
    resamples: int
    seed: int

    @property
    def likelihood(self) -> bool:
        return self.protocol == NEXT_TOKEN

    @cached_property
    def forms(self) -> dict[str, Form]:
        """{id of the item: form}."""
        return _forms(self.scale, self.orders, self.labels, self.paraphrases)

    def prompts(self, items: Sequence[Item], backend: Any, shots: int) -> list[Prompt]:
        """One prompt an item, without shots. QilinError when labels cannot be scored as the next token."""
        new_tokens, options = self.settings["max_new_tokens"], len(self.scale.options)
        if self.likelihood and backend.likelihood:
            new_tokens, good = 0, []
            for name, labels in LABELS.items():
                with contextlib.suppress(QilinError):
                    tokens = {single_token(backend.tokenizer, REPLY_PREFIX, label) for label in labels[:options]}
                    # A tokenizer without byte fallback turns every rare character into the same unknown token.
                    good += [name] if len(tokens) == options else []
            for name in self.labels:
                if name not in good:
                    raise QilinError(
                        f"bias.labels: '{name}' ({LABELS[name][:options]}) is not one token of its own for each label "
                        f"after '{REPLY_PREFIX}' with this model's tokenizer; nearest valid: "
                        f"{good or 'protocols: [generation]'}"
                    )
        return [fit(partial(self._messages, item), item, (), REPLY_PREFIX, backend, new_tokens) for item in items]

    def _messages(self, item: Item, text: str, shots: Sequence[Item]) -> Messages:
        lines = "\n".join(f"{label} {option}" for label, option in item.options.items())
        content = self.scale.instruction.replace("{options}", lines).replace("{item}", text)
        return [{"role": "user", "content": content}]

    def answer(self, items: Sequence[Item], asked: Sequence[Prompt], backend: Any) -> list[dict]:
        """The likeliest label with all log-probabilities, or the reply and the label read from it.

        A backend that gives no probabilities (an endpoint, an encoder-decoder) writes under both protocols, as in
        C-Eval.
        """
        if self.likelihood and backend.likelihood:
            found = likeliest(items, asked, backend)
        else:
            found = backend.generate(asked, self.settings["max_new_tokens"])
        return [self._record(item, own) for item, own in zip(items, found, strict=True)]

    def _record(self, item: Item, found: dict[str, float] | Reply) -> dict[str, Any]:
        """What was asked in which form, what was chosen (content and position from 1), points."""
        written = isinstance(found, Reply)
        label = read_label(found, item.options) if written else best(found)
        form = self.forms[item.id]
        statement = self.scale.items[form.place]
        position = None if label is None else list(item.options).index(label) + 1
        content = None if position is None else form.contents[position - 1]
        return {
            "output": found.text if written else "",
            "prediction": label,
            "item": statement.number,
            "wording": form.wording,
            "order": form.order,
            "contents": list(form.contents),
            "labels": form.labels,
            "position": position,
            "choice": content,
            "points": None if content is None else self.scale.points(statement, content),
            **(found.ending if written else {"scores": found}),
        }

    def statistics(self, records: Sequence[dict]) -> dict[str, Any]:
        return attitude_scores.statistics(records, self.scale, self.resamples, self.seed)


def prepare(params: Any) -> list[Attitudes]:
    """The tasks of notebook 09: every scale under every protocol.

    Raises QilinError for a scale that cannot be read, two of one name, a label set with fewer labels than options, and
    more orders than the options have.
    """
    tasks: list[Attitudes] = []
    for source in params.scales:
        scale = scales.read(source)
        if scale.name in {task.name for task in tasks}:
            raise QilinError(f"bias.scales = {params.scales}: two of them are called '{scale.name}'; rename one")
        tasks += _tasks(source, scale, params)
    return tasks


def _tasks(source: str, scale: Scale, params: Any) -> list[Attitudes]:
    for name in params.labels:
        if len(LABELS[name]) < len(scale.options):
            enough = [other for other, labels in LABELS.items() if len(labels) >= len(scale.options)]
            raise QilinError(
                f"bias.labels: '{name}' has {len(LABELS[name])} labels and scale '{scale.name}' {len(scale.options)} "
                f"options; nearest valid: {enough or 'a scale with fewer options'}"
            )
    asked = orders(len(scale.options), params.option_orders, params.seed)
    items = []
    for identity, form in _forms(scale, asked, params.labels, params.paraphrases).items():
        labels, words = LABELS[form.labels], scale.items[form.place].wordings[form.wording]
        options = {labels[place]: scale.options[content - 1] for place, content in enumerate(form.contents)}
        # As `subject`: prompts of the same options share their beginning, and are scored over the same labels.
        layout = f"{form.labels}, order {form.order}"
        items.append(Item(scale.name, identity, "all", layout, words, options, None, ""))
    settings = {"scale": source, "sha256": scale.sha256, "max_new_tokens": params.max_new_tokens}
    own = (scale, asked, params.labels, params.paraphrases, params.bootstrap_resamples, params.seed)
    return [Attitudes(scale.name, protocol, "all", None, items, [], settings, *own) for protocol in params.protocols]


def _forms(scale: Scale, asked: Sequence[tuple[int, ...]], labels: Sequence[str], paraphrases: bool) -> dict[str, Form]:
    """{id of the item: form}; labels and orders outside, so that prompts with the same options stand together."""
    return {
        f"{name}-order{order}-item{statement.number}-wording{wording}": Form(place, wording, order, contents, name)
        for name in labels
        for order, contents in enumerate(asked)
        for place, statement in enumerate(scale.items)
        for wording in range(len(statement.wordings) if paraphrases else 1)
    }


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


def _block(options: int, draw: random.Random) -> list[tuple[int, ...]]:
    """A Williams design over the contents 0, 1, …: pairs of an order and its reverse, the identity first."""
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) % options for place in range(options)]
    position = {content: place for place, content in enumerate(zigzag)}
    rows = [tuple(position[(content + step) % options] for content in zigzag) for step in range(options)]
    # With an even number of options the reverse of each row is a row, with an odd one it is not.
    further = rows[1 : options // 2] if options % 2 == 0 else rows[1:]
    draw.shuffle(further)
    return [order for row in (rows[0], *further) for order in (row, row[::-1])]


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
