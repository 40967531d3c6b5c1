"""The profile of named systems: each line validates and its prompt is rendered as its repository writes it."""

from __future__ import annotations

from typing import Any

import pytest

from qilin_lib import params
from qilin_lib.evaluate.templates import of_others, presets
from qilin_lib.schema import Baseline

LINES = params.load("06_eval", {"profile": "named_systems"}).baselines
QUESTION = "感冒了要看哪个科？"


@pytest.mark.parametrize(("name", "line"), LINES.items())
def test_a_system_s_prompt_is_rendered(name: str, line: Baseline, tiny_tokenizer: Any) -> None:
    asked = of_others(line.template, line.prompt, line.chat_template_kwargs, tiny_tokenizer)
    written = tiny_tokenizer.decode(asked.encode([{"role": "user", "content": QUESTION}], tiny_tokenizer, True))
    own = line.prompt or presets().get(line.template)
    assert QUESTION in written
    if own:
        assert written.removeprefix(tiny_tokenizer.bos_token or "").strip() == own.format(instruction=QUESTION).strip()


def test_every_line_has_a_comment_that_says_where_it_is_from() -> None:
    text = (params.ROOT / "params" / "named_systems.yaml").read_text(encoding="utf-8")
    for name in LINES:
        before, _, _ = text.partition(f"    {name}:")
        block = before.rstrip().splitlines()
        comment = []
        while block and block[-1].strip().startswith("#"):
            comment.insert(0, block.pop())
        told = " ".join(comment)
        assert "licence" in told or "Apache" in told, name
        assert "@" in told or "n/a" in told, name


def test_what_needs_code_from_the_hub_stands_behind_an_endpoint() -> None:
    behind = {name for name, line in LINES.items() if line.endpoint}
    assert behind == {"BianQue-2", "DoctorGLM", "ChatGLM-Med"}
