"""Which template a run speaks: by name, or the tokenizer's own chat template, written as tags."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import date
from itertools import takewhile
from typing import Any

from qilin_lib.errors import QilinError, nearest
from qilin_lib.tokens.template import BAICHUAN, BAICHUAN2, PLAIN, TEMPLATES, Message, Template, tag_ids, text_begin

OWN = "own"


def choose(name: str, tokenizer: Any) -> Template:
    """The template called `name`; "auto": the tokenizer's own, else Baichuan2's or Baichuan's chat tokens, else plain.

    "plain" begins with the token that the tokenizer puts before a text, if it does. QilinError for an unknown name, a
    tokenizer that lacks a template's tokens, and a chat template of its own that cannot be written as tags.
    """
    if tokenizer.chat_template is not None and name in ("auto", OWN):
        found = own(tokenizer)
        # What the kit writes for a template without a system turn reads as one that has it (`Template.with_system`).
        same = (known for known in TEMPLATES.values() if found.tags in (known.tags, known.with_system.tags))
        return next(same, found)
    if name == "auto":
        second = tokenizer.convert_tokens_to_ids([BAICHUAN2.user_open, BAICHUAN2.assistant_open]) == [195, 196]
        name = "baichuan2" if second else "baichuan" if _has_tokens(tokenizer, BAICHUAN) else "plain"
    if name == OWN:
        raise QilinError("template 'own': the tokenizer has no chat template; nearest valid: 'auto' or 'plain'")
    chosen, names = TEMPLATES.get(name), ["auto", OWN, *TEMPLATES]
    if chosen is None:
        raise QilinError(f"template '{name}': unknown{nearest(name, names)}; there are {names}")
    if chosen is PLAIN:
        return replace(PLAIN, begin=tokenizer.bos_token) if text_begin(tokenizer) else PLAIN
    if not _has_tokens(tokenizer, chosen):
        tags = f"{chosen.user_open}/{chosen.assistant_open}"
        raise QilinError(f"template '{name}': the tokenizer lacks {tags}; nearest valid: 'plain'")
    return chosen


def _has_tokens(tokenizer: Any, template: Template) -> bool:
    return all(len(tag_ids(tokenizer, tag)) == 1 for tag in (template.user_open, template.assistant_open))


TURNS = [
    {"role": "user", "content": "咳嗽三天，要吃什么药？"},
    {"role": "assistant", "content": "多喝水。\n\n1. Rest for 2 days"},
    {"role": "user", "content": "Is it  the flu?"},
    {"role": "assistant", "content": "不是流感"},
    {"role": "user", "content": "谢谢"},
]
SYSTEM = {"role": "system", "content": "你是一名医生。Be brief"}
# For templates that write a day: Llama 3.1 writes this one where it cannot read a clock. Whoever renders a conversation
# later gives the same tokens.
DAY = date(2024, 7, 26)
CLOCK = re.compile(r"""strftime_now\((['"])(.*?)\1\)""")
THINKING = re.compile(r"<think>\s*(</think>\s*)?")


class _CannotBeWritten(Exception):
    """Why a chat template is not a `Template`."""


def own(tokenizer: Any) -> Template:
    """The tokenizer's chat template as tags, verified on conversations of up to five turns, text and tokens.

    A system prompt that it writes by itself becomes part of `begin`, and a day is always 26 July 2024. Where it writes
    no thoughts in earlier turns but an empty block before the last answer (Qwen3), the block stands before every
    answer: each answer is learned after what it will be generated after. A system turn that does not stay where it is
    put is none. QilinError says what cannot be written so.
    """
    try:
        found = _derived(tokenizer)
        padded = [{"role": "user", "content": f" {TURNS[0]['content']}\n"}]
        found = replace(found, trim=padded[0]["content"] not in _render_dated(tokenizer, padded))
        try:
            _check_all(found, tokenizer)
        except _CannotBeWritten:
            found = replace(found, blank=True)
            _check_all(found, tokenizer)
    except _CannotBeWritten as reason:
        raise QilinError(
            f"template '{OWN}': the tokenizer's chat template cannot be used, for {reason}; nearest valid: 'plain'"
        ) from None
    try:
        head, middle, *_ = _split(tokenizer, [SYSTEM, *TURNS[:4]])
        inside = not middle.endswith(found.user_open)
        closed = middle if inside else middle.removesuffix(found.user_open)
        full = replace(found, system_open=head, system_close=closed, system_in_user=inside)
        _check_all(full, tokenizer, SYSTEM)
    except _CannotBeWritten:
        return found
    return full


def keeps(template: Template, tokenizer: Any) -> bool:
    """Whether the tokenizer's own chat template gives, today and unasked, the tokens of `template`."""
    turns = [[SYSTEM, *TURNS], TURNS] if template.system_open is not None else [TURNS]
    try:
        theirs = [tag_ids(tokenizer, _render(tokenizer, each, True)) for each in turns]
    except _CannotBeWritten:
        return False
    return theirs == [template.encode(each, tokenizer, add_generation_prompt=True) for each in turns]


def written(template: Template, tokenizer: Any) -> str:
    """The chat template to save with a model that speaks `template`: the tokenizer's own, or the kit's.

    Only TRL and transformers read the markers of a training template; other readers fail at them.
    """
    if template.name == OWN and keeps(template, tokenizer):
        opened = re.sub(r"{%(-?) *generation *(-?)%}", r"{%\1 if true \2%}", tokenizer.get_chat_template())
        return re.sub(r"{%(-?) *endgeneration *(-?)%}", r"{%\1 endif \2%}", opened)
    return template.jinja(tokenizer.eos_token)


def _derived(tokenizer: Any) -> Template:
    first, _, between, before, last = _split(tokenizer, TURNS[:4])
    _, alone = _split(tokenizer, TURNS[:1])
    ended = _common(tokenizer, between, last)
    pieces, special = _pieces(tokenizer, ended or between), tokenizer.get_added_vocab()
    at = next((at for at, piece in enumerate(pieces) if piece in special), None)
    if at is None or (not ended and at):
        raise _CannotBeWritten(f"no token ends an assistant's turn: it is followed by {last!r} or {between!r}")
    close, user_open = "".join(pieces[: at + 1]), between.removeprefix(ended)
    if first.endswith(between) and not special.keys() & set(_pieces(tokenizer, between.removeprefix(close))):
        # The token that opens the user's turn is what ends the assistant's.
        user_open, ended = between, close
    if not first.endswith(user_open):
        raise _CannotBeWritten(f"it writes {first!r} before the first question and {user_open!r} before later ones")
    user_close = _common(tokenizer, alone, before)
    return Template(
        name=OWN,
        user_open=user_open,
        user_close=user_close,
        assistant_open=before.removeprefix(user_close),
        begin=first.removesuffix(user_open),
        assistant_close="" if close == tokenizer.eos_token else close,
        after=ended.removeprefix(close),
    )


def _check_all(template: Template, tokenizer: Any, *first: Message) -> None:
    """_CannotBeWritten unless template and tokenizer give one text and the same tokens."""
    for count in range(1, len(TURNS) + 1):
        messages, prompt = [*first, *TURNS[:count]], TURNS[count - 1]["role"] == "user"
        theirs = _render_dated(tokenizer, messages, prompt)
        ours = _render(tokenizer, messages, prompt, chat_template=template.jinja(tokenizer.eos_token))
        # After the last end token nothing is learned; Phi-3 writes one more there.
        if not prompt and not theirs.startswith(ours):
            theirs += template.assistant_close  # The next turn's opening, where it ends this one.
        if not (theirs == ours if prompt else theirs.startswith(ours)):
            plain, other = THINKING.sub("", theirs), THINKING.sub("", ours)
            if plain == other or (not prompt and plain.startswith(other)):
                continue
            at = len(os.path.commonprefix([theirs, ours]))
            raise _CannotBeWritten(
                f"in a conversation of {len(messages)} turn(s) it writes {theirs[at : at + 40]!r}, where its other "
                f"turns have {ours[at : at + 40]!r}"
            )
        ids, whole = template.encode(messages, tokenizer, add_generation_prompt=prompt), tag_ids(tokenizer, theirs)
        if whole[: len(ids)] != ids or (prompt and whole != ids):
            raise _CannotBeWritten(
                f"the {len(messages)} turn(s) of a conversation give other tokens than each on its own"
            )


def _split(tokenizer: Any, messages: list[Message]) -> list[str]:
    """What the tokenizer's template writes before, between and after the texts of a conversation."""
    rest, parts = _render_dated(tokenizer, messages), []
    for message in messages:
        before, found, rest = rest.partition(message["content"])
        if not found:
            raise _CannotBeWritten(f"it does not write the text of each {message['role']} turn in its place")
        parts.append(before)
    return [*parts, rest]


def _render(tokenizer: Any, messages: list[Message], prompt: bool = False, **settings: Any) -> str:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **settings)
    # jinja's errors, and whatever a template's expressions raise over values that they did not expect.
    except Exception as reason:
        why = " ".join(str(reason).split())[:160]
        roles = "/".join(message["role"] for message in messages)
        raise _CannotBeWritten(f"it refuses the turns {roles} ({why})") from None


def _render_dated(tokenizer: Any, messages: list[Message], prompt: bool = False) -> str:
    """As the tokenizer's template writes it on DAY for a model that does not think: none of the data thinks."""
    try:
        text = tokenizer.get_chat_template()
    except ValueError as reason:
        raise _CannotBeWritten(f"there are several and none is the default ({str(reason)[:160]})") from None
    text = CLOCK.sub(lambda clock: repr(DAY.strftime(clock[2])), text)
    return _render(tokenizer, messages, prompt, chat_template=text, enable_thinking=False)


def _pieces(tokenizer: Any, text: str) -> list[str]:
    """The tokenizer's added tokens whole, other text by character."""
    added = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    return re.findall("|".join([*map(re.escape, added), "."]), text, re.DOTALL)


def _common(tokenizer: Any, one: str, other: str) -> str:
    """The longest common beginning that cuts no added token."""
    pairs = zip(_pieces(tokenizer, one), _pieces(tokenizer, other), strict=False)
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
