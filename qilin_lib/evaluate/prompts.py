"""The `fixed` protocol's prompts: messages in the training template, then the first words of the reply, forced.

The reply taught in training reads "答案：C。\\n解释：…", so a multiple-choice reply is begun for it with "答案："
and the next token is the letter itself, no space between (EleutherAI/lm-evaluation-harness#2346: what a space costs).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from os.path import commonprefix
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.items import Item
from qilin_lib.schema import Baseline
from qilin_lib.tokens.template import Template

REPLY_PREFIX = "答案："
CEVAL_HEADER = "以下是中国关于{name}考试的单项选择题，请选出其中的正确答案。\n\n"
CMMLU_HEADER = "以下是关于{name}的单项选择题，请直接给出正确答案的选项。\n\n"
MEDQA_HEADER = "以下是一道医学考试的单项选择题，请选出正确答案的选项。\n\n"

PASSAGES = "参考资料：\n{passages}\n\n请结合参考资料回答下面的问题，与问题无关的资料请忽略。\n"

Messages = list[dict[str, str]]
Shown = Sequence[dict[str, Any]]
"""Passages, each {origin, score, text}."""


@dataclass(frozen=True)
class Asking:
    """What a baseline's line says of how it is asked, whatever answers: a system turn, the most new tokens (None: as
    the benchmark has it), 0 or the temperature of a seeded draw, texts that end a reply."""

    system: str | None = None
    max_new_tokens: int | None = None
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    passages: Callable[[Item], Shown] | None = field(default=None, compare=False)
    """What an item is shown before its question, best first, each with its "text"; what does not fit is left out."""
    thinks: bool = False
    """Whether the reply begins with a thought, before which no words of it can be forced."""


AS_IT_COMES = Asking()


def asked_as(line: Baseline) -> Asking:
    """How a baseline's line wants its model to be asked."""
    return Asking(line.system, line.max_new_tokens, line.temperature, tuple(line.stop))


# Of every draw at a temperature, here and at a server.
SEED = 1


def asking(backend: Any) -> Asking:
    """How a backend wants to be asked; as it comes unless it says so."""
    return getattr(backend, "asking", AS_IT_COMES)


@dataclass(frozen=True)
class Prompt:
    """What a model is asked, and what it is shown."""

    messages: Messages
    reply_prefix: str
    """The forced beginning of the reply; "" forces nothing."""
    ids: list[int]
    """The model's input; [] where a server tokenises."""
    text: str
    """What a reader sees of it."""
    shots: int
    truncated: bool
    """Whether the question's beginning was cut."""
    shared: int = 0
    """So many leading ids hold nothing of the question: every item of a subject with these shots has them."""
    stop: tuple[str, ...] = ()
    """What begins a next turn in the model's own template: the reply ends before it."""
    passages: tuple[dict[str, Any], ...] = ()
    """What stands before the question (`Asking.passages`)."""


def ceval_messages(question: str, item: Item, shots: Sequence[Item], name: str, header: str = CEVAL_HEADER) -> Messages:
    """Each shot is a turn of the user and one of the assistant; the header comes first (`name`: Chinese subject).

    CMMLU_HEADER is that of CMMLU's own evaluation (lm-evaluation-harness has the same).
    """
    messages = []
    for one in [*shots, replace(item, question=question)]:
        lines = [one.question, *(f"{letter}. {text}" for letter, text in (one.options or {}).items())]
        messages += [_turn("user", "\n".join(lines)), _turn("assistant", f"{REPLY_PREFIX}{one.gold}")]
    messages[0]["content"] = header.format(name=name) + messages[0]["content"]
    return messages[:-1]


def cmexam_messages(question: str, item: Item, header: str = "") -> Messages:
    """Question, then the options as lines "A text": the layout of CMExam's own file and of the training data.

    MedQA comes after an instruction: the set has none, and no examples show what is wanted.
    """
    lines = [f"{letter} {text}" for letter, text in (item.options or {}).items()]
    return [_turn("user", header + "\n".join([question, *lines]))]


def fit(
    build: Callable[[str, Sequence[Item]], Messages],
    item: Item,
    shots: Sequence[Item],
    reply_prefix: str,
    backend: Any,
    new_tokens: int,
) -> Prompt:
    """The prompt that leaves room for `new_tokens` in the model's context.

    What is too long loses passages first, the worst ones, then whole shots, from the front, then the question's
    beginning (its end holds the query).
    `build(question, shots)` gives the messages; `backend` lends tokenizer, template and context. Where a server holds
    them (`backend.tokenizer` is None) nothing is cut. Raises QilinError when not even an empty question fits.
    """
    how, stop = asking(backend), next_turns(backend)
    # A model that thinks first would think after words that are already its answer.
    reply_prefix = "" if how.thinks else reply_prefix
    system = [_turn("system", how.system)] if how.system else []
    shown = tuple(how.passages(item)) if how.passages else ()

    def messages(question: str, left: Sequence[Item], beside: Shown) -> Messages:
        return [*system, *with_passages(build(question, left), beside)]

    if backend.tokenizer is None:
        made = messages(item.question, shots, shown)
        text = backend.render(made, reply_prefix)
        return Prompt(made, reply_prefix, [], text, len(shots), False, stop=stop, passages=shown)
    room = backend.context - (new_tokens and (how.max_new_tokens or new_tokens))

    def ids(question: str, left: Sequence[Item], beside: Shown = ()) -> list[int]:
        return _encode(messages(question, left, beside), reply_prefix, backend)

    question = item.question
    fewer_passages = [(shots, shown[:many]) for many in range(len(shown), 0, -1)]
    for left, beside in [*fewer_passages, *((shots[first:], ()) for first in range(len(shots) + 1))]:
        encoded = ids(question, left, beside)
        if len(encoded) <= room:
            break
    else:
        start = bisect_left(range(len(question)), True, key=lambda at: len(ids(question[at:], left)) <= room)
        # A cut can add a token.
        while start < len(question) and len(ids(question[start:], left)) > room:
            start += 1
        question = question[start:]
        encoded = ids(question, left)
    if len(encoded) > room:
        raise QilinError(
            f"{item.benchmark} item {item.id} needs {len(encoded)} tokens without its question, but a context of "
            f"{backend.context} leaves {room} beside {new_tokens} new ones; take a model with a longer context"
        )
    text = backend.tokenizer.decode(encoded, skip_special_tokens=False)
    shared = len(commonprefix([encoded[:-1], ids("", left)]))
    cut, made = question != item.question, messages(question, left, beside)
    return Prompt(made, reply_prefix, encoded, text, len(left), cut, shared, stop, beside)


def with_passages(messages: Messages, passages: Shown) -> Messages:
    """The last turn, a question, with numbered passages before it."""
    if not passages:
        return messages
    lines = "\n".join(f"[{number}] {passage['text']}" for number, passage in enumerate(passages, start=1))
    content = PASSAGES.replace("{passages}", lines) + messages[-1]["content"]
    return [*messages[:-1], _turn(messages[-1]["role"], content)]


def next_turns(backend: Any) -> tuple[str, ...]:
    """What the backend's template writes before a turn that follows a reply; () where a server keeps it to itself.

    Of a tokenizer's own template: what it renders between a reply and the next question, less the end token.
    """
    template, tokenizer = backend.template, backend.tokenizer
    if isinstance(template, Template):
        return tuple(tag for tag in (template.user_open.strip(), template.assistant_open.strip()) if tag)
    return _own_turns(tokenizer) if getattr(tokenizer, "chat_template", None) else ()


@lru_cache(maxsize=8)
def _own_turns(tokenizer: Any) -> tuple[str, ...]:
    reply, question = "甲乙丙丁", "戊己庚辛"
    messages = [_turn("user", "壬癸"), _turn("assistant", reply), _turn("user", question)]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    # As in `OwnTemplate.render`: a template of one turn knows no next one.
    except Exception:
        return ()
    between = text.rpartition(reply)[2].partition(question)
    tag = between[0].replace(tokenizer.eos_token or "", "", 1).strip() if between[1] else ""
    return (tag,) if tag else ()


def as_text(messages: Messages, reply_prefix: str) -> str:
    """A conversation for a reader, each turn under its role, where no template renders it."""
    turns = [f"{message['role']}: {message['content']}" for message in messages]
    return "\n\n".join([*turns, f"assistant: {reply_prefix}"])


def _encode(messages: Messages, reply_prefix: str, backend: Any) -> list[int]:
    template, tokenizer = backend.template, backend.tokenizer
    forced = tokenizer.encode(reply_prefix, add_special_tokens=False) if reply_prefix else []
    if not isinstance(template, Template):  # a tokenizer's own template may render a turn by what stands around it
        return [*template.encode(messages, tokenizer, add_generation_prompt=True), *forced]
    before = tuple((message["role"], message["content"]) for message in messages[:-1])
    follows = before[-1][0] if before else ""
    last = template.encode(messages[-1:], tokenizer, add_generation_prompt=True, follows=follows)
    return [*_turn_ids(template, tokenizer, before), *last, *forced]


# The shots of a subject are most of its prompts' text, and the kit's templates tokenise each turn on its own.
@lru_cache(maxsize=64)
def _turn_ids(template: Template, tokenizer: Any, turns: tuple[tuple[str, str], ...]) -> list[int]:
    return template.encode([{"role": role, "content": content} for role, content in turns], tokenizer)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
