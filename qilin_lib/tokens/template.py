"""The one chat template: SFT, DPO, evaluation and chat all render conversations here and nowhere else.

The released code has three (SFT `<reserved_102>`, DPO `Question: … Answer:`, evaluation `问：…答：`), and the same
model scores 26 % or 57 % by template alone (hiyouga/LLaMA-Factory#2509).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qilin_lib.errors import QilinError, nearest
from qilin_lib.files import sha256_text

# A content is text, or its token ids (`tokens.store`).
Message = dict[str, Any]
IGNORE = -100


@dataclass(frozen=True)
class Template:
    """What stands around a user's text and before an assistant's, which always ends in the tokenizer's end token."""

    name: str
    user_open: str
    user_close: str
    assistant_open: str

    @property
    def sha256(self) -> str:
        """Hash that manifests carry, so that a model is never asked in a form it was not trained in."""
        return sha256_text(repr(sorted(asdict(self).items())))

    def encode(self, messages: list[Message], tokenizer: Any, add_generation_prompt: bool = False) -> list[int]:
        """Token ids of a conversation, ending in the opening of the assistant's turn if `add_generation_prompt`."""
        return self.encode_with_labels(messages, tokenizer, add_generation_prompt=add_generation_prompt)[0]

    def encode_with_labels(
        self,
        messages: list[Message],
        tokenizer: Any,
        max_source_length: int | None = None,
        max_target_length: int | None = None,
        add_generation_prompt: bool = False,
    ) -> tuple[list[int], list[int]]:
        """(ids, labels), equally long; labels are IGNORE but on the assistant's text and its end token.

        Each turn is tokenised on its own, so a prompt's ids are always a prefix of the whole conversation's ids. The
        limits (tokens) cut the *content* of a user or assistant turn, never a role tag or the end token (the released
        `source_ids[:256]` cuts off the closing tag). Raises QilinError for a role other than user or assistant.
        """
        ids: list[int] = []
        labels: list[int] = []
        for message in messages:
            opened, content, closed = self._turn(message, tokenizer, max_source_length, max_target_length)
            learn = message["role"] == "assistant"
            ids += opened + content + closed
            labels += [IGNORE] * len(opened) + (content + closed if learn else [IGNORE] * len(content + closed))
        if add_generation_prompt:
            opened = _ids(tokenizer, self.assistant_open)
            ids, labels = ids + opened, labels + [IGNORE] * len(opened)
        return ids, labels

    def _turn(
        self, message: Message, tokenizer: Any, max_source: int | None, max_target: int | None
    ) -> tuple[list[int], list[int], list[int]]:
        if message["role"] == "user":
            content = text_ids(tokenizer, message["content"])[:max_source]
            return _ids(tokenizer, self.user_open), content, _ids(tokenizer, self.user_close)
        if message["role"] == "assistant":
            content = text_ids(tokenizer, message["content"])[:max_target]
            return _ids(tokenizer, self.assistant_open), content, [tokenizer.eos_token_id]
        raise QilinError(
            f"role '{message['role']}': a conversation has only 'user' and 'assistant'"
            f"{nearest(message['role'], ['user', 'assistant'])}"
        )

    def jinja(self, eos_token: str) -> str:
        """The same template for `tokenizer.chat_template`, with the generation markers TRL wants for its own masks."""
        user, assistant = repr(self.user_open), repr(self.assistant_open)
        return (
            "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}"
            f"{{{{- {assistant} -}}}}{{%- generation -%}}"
            f"{{{{- m['content'] + {eos_token!r} -}}}}{{%- endgeneration -%}}"
            f"{{%- else -%}}{{{{- {user} + m['content'] + {self.user_close!r} -}}}}{{%- endif -%}}{{%- endfor -%}}"
            f"{{%- if add_generation_prompt -%}}{{{{- {assistant} -}}}}{{%- endif -%}}"
        )


# Baichuan's chat tokens, without the spaces that the released code adds around them (ANCHORS A0 row 5).
BAICHUAN = Template("baichuan", "<reserved_102>", "", "<reserved_103>")
# For tokenizers without them, and for models that never saw a chat: base and DCPT are asked in plain text.
PLAIN = Template("plain", "问：", "\n", "答：")
TEMPLATES = {template.name: template for template in (BAICHUAN, PLAIN)}


def choose(name: str, tokenizer: Any) -> Template:
    """The template called `name`; "auto" takes Baichuan's chat tokens if the tokenizer has them, else plain roles."""
    if name != "auto":
        chosen = TEMPLATES.get(name)
        if chosen is None:
            raise QilinError(f"template '{name}': unknown{nearest(name, TEMPLATES)}; there are {sorted(TEMPLATES)}")
        if chosen is BAICHUAN and not _has_tokens(tokenizer, chosen):
            raise QilinError(
                "template 'baichuan': the tokenizer lacks <reserved_102>/<reserved_103>; nearest valid: 'plain'"
            )
        return chosen
    return BAICHUAN if _has_tokens(tokenizer, BAICHUAN) else PLAIN


def as_trained(facts: dict[str, Any], who: str, notebook: str) -> Template:
    """The template that a stage's `facts` name; QilinError, about `who`, if the code has another one by that name."""
    found = TEMPLATES.get(facts["template"])
    if found is None or found.sha256 != facts["template_sha256"]:
        raise QilinError(
            f"{who} was trained with template '{facts['template']}' ({facts['template_sha256'][:12]}), which is not "
            f"the one in qilin_lib/tokens/template.py now: run notebooks/{notebook}.ipynb again"
        )
    return found


def _has_tokens(tokenizer: Any, template: Template) -> bool:
    return all(len(_ids(tokenizer, tag)) == 1 for tag in (template.user_open, template.assistant_open))


def text_ids(tokenizer: Any, text: str | np.ndarray) -> list[int]:
    """Ids of data, or what 02 made of it. Special tokens written out in it stay ordinary text: no record can forge a
    role tag or an end."""
    if isinstance(text, np.ndarray):
        return text.tolist()
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False) if text else []
