"""How a model that others trained is asked: its tokenizer's own chat template, or a prompt that is written down.

Text of the data is tokenised as text under any of them: no question forges a role, an end or a thought.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.replies import CLOSES, OPENS
from qilin_lib.tokens.own_template import choose
from qilin_lib.tokens.template import PLAIN, Message, Template, tag_ids, text_ids

AUTO, CHAT = "auto", "chat"
INSTRUCTION = "{instruction}"
# Private use characters around a turn's number mark where its text goes; blanks show whether the template trims it.
_MARK = re.compile(" ?\ue000(\\d+)\ue001 ?")
_QUESTION = [{"role": "user", "content": "问"}]
_OPEN_THOUGHT, _CLOSED_THOUGHT = (re.compile(rf"(?:{marks})\s*\Z") for marks in (OPENS, CLOSES))
_KNOWS_THOUGHTS = re.compile(f"{OPENS}|enable_thinking")


@dataclass(frozen=True)
class OwnTemplate:
    """The chat template that comes with a tokenizer, with `settings` (chat_template_kwargs: enable_thinking, …)."""

    name: str = CHAT
    settings: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, messages: list[Message], tokenizer: Any, add_generation_prompt: bool = False) -> list[int]:
        """Token ids of a conversation, ending in the opening of the assistant's turn if `add_generation_prompt`.

        They are those of the rendered text. Where a text holds one of the tokenizer's own tags, each text is tokenised
        apart from what the template writes around it. QilinError for turns that the template does not take.
        """
        tags = tokenizer.get_added_vocab()
        if not any(tag in message["content"] for message in messages for tag in tags):
            return tag_ids(tokenizer, self.render(messages, tokenizer, add_generation_prompt))
        marked = [{**one, "content": f" \ue000{at}\ue001 "} for at, one in enumerate(messages)]
        text, ids, last = self.render(marked, tokenizer, add_generation_prompt), [], 0
        for mark in _MARK.finditer(text):
            content = messages[int(mark[1])]["content"]
            ids += tag_ids(tokenizer, text[last : mark.start()])
            ids += text_ids(tokenizer, content if mark[0][0] == " " else content.strip())
            last = mark.end()
        return ids + tag_ids(tokenizer, text[last:])

    def render(self, messages: list[Message], tokenizer: Any, prompt: bool) -> str:
        """The text of a conversation. QilinError for turns that the template does not take."""
        try:
            return tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompt, **self.settings
            )
        # jinja's errors, and whatever a template's expressions raise over values that they did not expect.
        except Exception as reason:
            roles = "/".join(message["role"] for message in messages)
            why = " ".join(str(reason).split())[:160] + self._choice(messages, tokenizer)
            raise QilinError(f"the tokenizer's chat template does not take the turns {roles}: {why}") from None

    def _choice(self, messages: list[Message], tokenizer: Any) -> str:
        """What of a baseline's line asks in turns that the template does take."""
        without = [message for message in messages if message["role"] != "system"]
        choices = {"system: null": without, "shots: 0, and no benchmark of several turns": messages[-1:]}
        for choice, fewer in choices.items():
            if len(fewer) < len(messages):
                with contextlib.suppress(Exception):
                    tokenizer.apply_chat_template(fewer, tokenize=False, **self.settings)
                    return f"; nearest valid: {choice}"
        return ""


@cache
def presets() -> dict[str, str]:
    """{name: prompt} of systems whose prompt is written down in data/prompts.yaml, with its source."""
    text = files("qilin_lib.evaluate").joinpath("data/prompts.yaml").read_text(encoding="utf-8")
    return {name: entry["prompt"] for name, entry in yaml.safe_load(text).items()}


def thinks(template: Any, tokenizer: Any) -> bool:
    """Whether a model answers with a thought first: its own template opens one, or knows thoughts and closes none."""
    if not isinstance(template, OwnTemplate):
        return False
    text = template.render(_QUESTION, tokenizer, True)
    knows = _KNOWS_THOUGHTS.search(str(tokenizer.chat_template))
    return bool(_OPEN_THOUGHT.search(text) or knows and not _CLOSED_THOUGHT.search(text))


def written(name: str, prompt: str, tokenizer: Any = None) -> Template:
    """A prompt with {instruction} as a template: without end tokens between turns, after the tokenizer's first token.

    QilinError for a prompt that does not hold {instruction} once.
    """
    if prompt.count(INSTRUCTION) != 1:
        raise QilinError(f"prompt {prompt!r}: must hold {INSTRUCTION} once, where the question goes")
    before, after = prompt.split(INSTRUCTION)
    begin = choose("plain", tokenizer).begin if tokenizer is not None else ""
    return Template(name, before, after, "", begin=begin, assistant_close="\n")


def unspoken(template: Template) -> Template:
    """The template for a model that never saw a chat: a blank line parts examples, as in C-Eval, no end token."""
    return replace(template, assistant_close="\n\n") if template.name == PLAIN.name else template


def of_others(name: str, prompt: str | None, settings: Mapping[str, Any], tokenizer: Any) -> Template | OwnTemplate:
    """The template of a model that this kit did not train. `name`: "auto" takes the tokenizer's own where there is
    one, else plain; `prompt` goes before both. QilinError for a template that the tokenizer lacks."""
    if prompt is not None:
        return written("prompt", prompt, tokenizer)
    if name in presets():
        return written(name, presets()[name], tokenizer)
    if name == AUTO:
        name = CHAT if tokenizer.chat_template else PLAIN.name
    if name == CHAT and not tokenizer.chat_template:
        raise QilinError("template 'chat': the tokenizer brings none; nearest valid: template: plain")
    if name != CHAT:
        return unspoken(choose(name, tokenizer))
    own = OwnTemplate(settings=settings)
    # Templates of models that see iterate over parts of a turn, and write nothing of a text.
    if _QUESTION[0]["content"] not in own.render(_QUESTION, tokenizer, True):
        raise QilinError("the tokenizer's chat template leaves out the question; nearest valid: template: plain")
    return own
