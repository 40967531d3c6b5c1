"""Every rule: one case that is refused, with its reason and what to write instead, and a neighbour that is accepted."""

from __future__ import annotations

from typing import Any

import pytest

from qilin_lib import compatibility, params
from qilin_lib.errors import QilinError

QLORA = {"finetuning": "qlora", "gpus": 2}
HEAD = {"finetuning": "lora", "target_modules": ["q_proj", "lm_head"]}
CASES = [
    (
        "04_sft",
        QLORA | {"deepspeed": "zero3"},
        "qlora with deepspeed: zero3: .*#3620.*nearest valid: deepspeed: zero2, or finetuning: lora",
        QLORA | {"deepspeed": "zero2"},
    ),
    (
        "04_sft",
        QLORA | {"deepspeed": "zero3_offload"},
        "qlora with deepspeed: zero3_offload.*nearest valid: deepspeed: zero2_offload",
        {"finetuning": "lora", "gpus": 2, "deepspeed": "zero3_offload"},
    ),
    (
        "03_dcpt",
        {"gpus": 4, "nproc_per_node": 8},
        "nproc_per_node: 8 with gpus: 4: one process drives one GPU; nearest valid: nproc_per_node: 4",
        {"gpus": 4, "nproc_per_node": 4},
    ),
    (
        "03_dcpt",
        {"gpus": 0, "deepspeed": "zero2"},
        "deepspeed: zero2 needs gpus >= 1, or nproc_per_node .*nearest valid: deepspeed: null",
        {"gpus": 0, "deepspeed": "zero2", "nproc_per_node": 2},
    ),
    (
        "03_dcpt",
        {"gpus": 0, "nodes": 2},
        "nodes: 2 needs gpus >= 1 on every node, got gpus: 0; nearest valid: nodes: 1",
        {"gpus": 0, "nodes": 2, "nproc_per_node": 1},
    ),
    (
        "05_dpo",
        HEAD,
        "lm_head with DPO would never be trained.*nearest valid: modules_to_save",
        HEAD | {"finetuning": "full"},
    ),
    ("05_dpo", HEAD | {"target_modules": "lm_head"}, "lm_head with DPO", HEAD | {"target_modules": "all-linear"}),
]


@pytest.mark.parametrize(("notebook", "refused", "sentence", "accepted"), CASES)
def test_a_rule_refuses_its_case_and_not_the_neighbour(
    notebook: str, refused: dict[str, Any], sentence: str, accepted: dict[str, Any]
) -> None:
    with pytest.raises(QilinError, match=sentence):
        params.load(notebook, refused)
    loaded = params.load(notebook, accepted)
    assert {name: getattr(loaded, name) for name in accepted} == accepted


def test_the_rule_about_the_head_is_dpo_s_alone() -> None:
    assert params.load("04_sft", HEAD).target_modules == ["q_proj", "lm_head"]


def test_every_rule_has_a_case() -> None:
    """Counted on what the rules say: a rule that no case breaks would have no test."""
    broken = set()
    for notebook, refused, _, _ in CASES:
        values = {**params.load(notebook).model_dump(), **refused}
        rules = compatibility._rules(type("P", (), values)())
        broken |= {number for number, (is_broken, _) in enumerate(rules) if is_broken}
    assert broken == set(range(len(rules)))
