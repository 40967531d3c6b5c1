"""The one chat template: SFT, DPO, evaluation and chat all render conversations here and nowhere else.

The released code has three (SFT `<reserved_102>`, DPO `Question: … Answer:`, evaluation `问：…答：`), and the same
model scores 26 % or 57 % by template alone (hiyouga/LLaMA-Factory#2509).
"""

from __future__ import annotations

import functools
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

import numpy as np

from qilin_lib.errors import QilinError, nearest
from qilin_lib.files import sha256_text

# A content is text, or its token ids (`tokens.store`).
Message = dict[str, Any]
IGNORE = -100


@dataclass(frozen=True)
class Template:
    """What stands around the texts of a conversation; every text between two tags is tokenised on its own.

    An assistant's turn ends in `assistant_close`, by default the tokenizer's end token, and the model learns to write
    it. `after` comes before whatever follows such a turn and is never learned; where `user_open` begins with the end
    token of the assistant's turn (GLM's `<|user|>`), the token stands there once. A system turn is a conversation's
    first; `system_open` opens the conversation in place of `begin`, None means that the model has no such turn, and
    with `system_in_user` its text stands inside the first user turn (`with_system`: so it does where there is no such
    turn). `trim`: texts lose their outer white space.
    `blank`: SentencePiece writes the blanks at the ends of the tags by itself, before whatever text it begins.
    """

    name: str
    user_open: str
    user_close: str
    assistant_open: str
    begin: str = ""
    assistant_close: str = ""
    after: str = ""
    system_open: str | None = None
    system_close: str = ""
    system_in_user: bool = False
    trim: bool = False
    blank: bool = False

    @functools.cached_property
    def with_system(self) -> Template:
        """The template itself, or for a model without a system turn one whose system text opens the first user turn."""
        if self.system_open is not None:
            return self
        return replace(self, system_open=self.begin + self.user_open, system_close="\n", system_in_user=True)

    @property
    def tags(self) -> dict[str, Any]:
        """The fields but the name that a template must have or that are not at their default."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)[1:]
            if field.default is MISSING or getattr(self, field.name) != field.default
        }

    @property
    def sha256(self) -> str:
        """Hash that manifests carry, so that a model is never asked in a form it was not trained in."""
        return sha256_text(repr(sorted({"name": self.name, **self.tags}.items())))

    @property
    def described(self) -> dict[str, Any]:
        """What base.json, facts.json and qilin.json say of it; `template_of` reads it."""
        known = TEMPLATES.get(self.name) == self
        return {"template": self.name, "template_sha256": self.sha256} | ({} if known else {"template_tags": self.tags})

    def end(self, tokenizer: Any) -> int:
        """The token that ends an assistant's turn; a trained tokenizer has it as end token, where generation stops."""
        return self._close(tokenizer)[-1]

    def ending(self, tokenizer: Any) -> Any:
        """The same tokenizer, its end token the one that ends an answer; a base may name the one of documents."""
        if self.end(tokenizer) != tokenizer.eos_token_id:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(self.end(tokenizer))
        return tokenizer

    def encode(
        self, messages: list[Message], tokenizer: Any, add_generation_prompt: bool = False, follows: str = ""
    ) -> list[int]:
        """Token ids of a conversation, ending in the opening of the assistant's turn if `add_generation_prompt`."""
        return self.encode_with_labels(messages, tokenizer, None, None, add_generation_prompt, follows)[0]

    def encode_with_labels(
        self,
        messages: list[Message],
        tokenizer: Any,
        max_source_length: int | None = None,
        max_target_length: int | None = None,
        add_generation_prompt: bool = False,
        follows: str = "",
    ) -> tuple[list[int], list[int]]:
        """(ids, labels), equally long; labels are IGNORE but on the assistant's text and its end token.

        Each turn is tokenised on its own, so a prompt's ids are always a prefix of the whole conversation's ids. The
        limits (tokens) cut the *content* of a turn (source: user and system, target: assistant), never a tag or the end
        token (the released `source_ids[:256]` cuts off the closing tag). `follows`: the role of the turn that
        `messages` go on from; "" begins a conversation. Raises QilinError for an unknown role, and for a system turn
        that is not the first.
        """
        parts: list[tuple[list[int], bool]] = []
        for message in messages:
            role, text = message["role"], message["content"]
            learned = role == "assistant"
            parts.append((self._opened(tokenizer, role, follows), False))
            # Token ids come from texts that 01 has cleaned, which have no outer space.
            text = text.strip() if self.trim and isinstance(text, str) else text
            parts.append((text_ids(tokenizer, text)[: max_target_length if learned else max_source_length], learned))
            tag = "" if learned else getattr(self.with_system, f"{role}_close")
            parts.append((self._close(tokenizer) if learned else self._tag(tokenizer, tag), learned))
            follows = role
        if add_generation_prompt:
            parts.append((self._opened(tokenizer, "assistant", follows), False))
        ids = [token for part, _ in parts for token in part]
        return ids, [token if learned else IGNORE for part, learned in parts for token in part]

    def _opened(self, tokenizer: Any, role: str, follows: str) -> list[int]:
        """Ids of what stands before the text of a turn of `role` that follows one of `follows` ("": none)."""
        roles = ["system", "user", "assistant"]
        if role not in roles:
            near = nearest(role, roles)
            raise QilinError(f"role '{role}': a conversation has only 'system', 'user' and 'assistant'{near}")
        if role == "system":
            if follows:
                raise QilinError("role 'system': only the first turn of a conversation can be the system's")
            return self._tag(tokenizer, self.with_system.system_open)
        if follows == "system" and role == "user" and self.with_system.system_in_user:
            return []
        opened = self.user_open if role == "user" else self.assistant_open
        if follows != "assistant":
            return self._tag(tokenizer, opened if follows else self.begin + opened)
        text = self.after + opened.removeprefix(self.assistant_close)
        if not self.after:
            return self._tag(tokenizer, text)
        # A special token can swallow the line end behind it (Phi-3's do), so both are read together.
        whole = self._tag(tokenizer, (self.assistant_close or tokenizer.eos_token) + text)
        return whole[len(self._close(tokenizer)) :]

    def _close(self, tokenizer: Any) -> list[int]:
        return self._tag(tokenizer, self.assistant_close) or [tokenizer.eos_token_id]

    def _tag(self, tokenizer: Any, text: str) -> list[int]:
        return tag_ids(tokenizer, text.strip(" ") if self.blank else text)

    def jinja(self, eos_token: str) -> str:
        """The same template for `tokenizer.chat_template`, in what llama.cpp's and Ollama's readers know of jinja."""
        text = "{{- m['content'] | trim -}}" if self.trim else "{{- m['content'] -}}"
        system, begun = self.with_system, self.assistant_open.rstrip(" ") if self.blank else self.assistant_open
        user_open, cases = _write(self.user_open), {}
        if system.system_in_user:
            cases["system"] = ""
        if self.assistant_close and self.user_open.startswith(self.assistant_close):
            cases["assistant"] = _write(self.user_open.removeprefix(self.assistant_close))
        if cases:
            before = "not loop.first and messages[loop.index0 - 1]['role'] == "
            shorter = "{%- el".join(f"if {before}{role!r} -%}}{written}" for role, written in cases.items())
            user_open = f"{{%- {shorter}{{%- else -%}}{user_open}{{%- endif -%}}"
        return (
            "{%- for m in messages -%}{%- if m['role'] == 'system' -%}"
            + f"{_write(system.system_open)}{text}{_write(system.system_close)}{{%- else -%}}"
            + (f"{{%- if loop.first -%}}{_write(self.begin)}{{%- endif -%}}" if self.begin else "")
            + f"{{%- if m['role'] == 'assistant' -%}}{_write(self.assistant_open)}{text}"
            + f"{_write(self.assistant_close or eos_token)}{_write(self.after)}"
            + f"{{%- else -%}}{user_open}{text}{_write(self.user_close)}{{%- endif -%}}"
            + "{%- endif -%}{%- endfor -%}"
            + f"{{%- if add_generation_prompt -%}}{_write(begun)}{{%- endif -%}}"
        )


def _write(text: str) -> str:
    return f"{{{{- {text!r} -}}}}" if text else ""


# Baichuan's chat tokens, without the spaces that the released code adds around them (ANCHORS A0 row 5).
BAICHUAN = Template("baichuan", "<reserved_102>", "", "<reserved_103>")
# Baichuan2's: tokens 195 and 196 of its vocabulary too, under other names. A system text stands before them as it is.
BAICHUAN2 = Template("baichuan2", "<reserved_106>", "", "<reserved_107>", system_open="")
# For tokenizers without them, and for models that never saw a chat: base and DCPT are asked in plain text.
PLAIN = Template("plain", "问：", "\n", "答：")
TEMPLATES = {template.name: template for template in (BAICHUAN, BAICHUAN2, PLAIN)}


def template_of(described: dict[str, Any]) -> Template:
    """The template that `Template.described` says; KeyError for a name that the code does not know."""
    name, tags = described["template"], described.get("template_tags")
    return Template(name, **tags) if tags else TEMPLATES[name]


def as_trained(facts: dict[str, Any], who: str, notebook: str) -> Template:
    """The template that a stage's `facts` name; QilinError, about `who`, if the code has another one by that name."""
    found = template_of(facts) if facts["template"] in TEMPLATES or "template_tags" in facts else None
    if found is None or found.sha256 != facts["template_sha256"]:
        raise QilinError(
            f"{who} was trained with template '{facts['template']}' ({facts['template_sha256'][:12]}), which is not "
            f"the one in qilin_lib/tokens/template.py now: run notebooks/{notebook}.ipynb again"
        )
    return found


def text_ids(tokenizer: Any, text: str | np.ndarray) -> list[int]:
    """Ids of data, or what 02 made of it. Special tokens written out in it stay ordinary text: no record can forge a
    role tag or an end."""
    if isinstance(text, np.ndarray):
        return text.tolist()
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []


def text_begin(tokenizer: Any) -> list[int]:
    """[bos] where the tokenizer puts it before a text by itself (Llama 3, Mistral, Gemma), which such models never saw
    a text without; else nothing."""
    first = tokenizer.encode("a")[:1]
    return first if first == [tokenizer.bos_token_id] else []


def tag_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a tag, in which special tokens are what they say."""
    return list(_tag_ids(tokenizer, text, len(tokenizer))) if text else []


@functools.lru_cache(maxsize=256)
def _tag_ids(tokenizer: Any, text: str, _: int) -> tuple[int, ...]:
    # A template has few tags, and a training wants them for every conversation. The size changes as tokens are added.
    return tuple(tokenizer.encode(text, add_special_tokens=False))
