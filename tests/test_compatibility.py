"""Every rule: one case that is refused, with its reason and what to write instead, and a neighbour that is accepted."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from qilin_lib import compatibility, params
from qilin_lib.errors import QilinError

QLORA = {"finetuning": "qlora", "gpus": 2}
HEAD = {"finetuning": "lora", "target_modules": ["q_proj", "lm_head"]}
LENGTHS = {"max_source_length": 100, "max_target_length": 100}
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
        "05_dpo",
        {"finetuning": "lora", "gpus": 2, "deepspeed": "zero3", "precompute_ref_log_probs": False},
        "deepspeed: zero3 with a live reference.*nearest valid: precompute_ref_log_probs: true, or deepspeed: zero2",
        {"finetuning": "lora", "gpus": 2, "deepspeed": "zero3", "precompute_ref_log_probs": True},
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
    (
        "05_dpo",
        {"learning_rate": 2e-5, "allow_high_lr": False},
        "learning_rate: 2e-05 is high for DPO.*1e-5.*allow_high_lr",
        {"learning_rate": 1e-5, "allow_high_lr": False},
    ),
    (
        "04_sft",
        LENGTHS | {"max_length": 200},
        "max_length: 200 is too short for one turn.*nearest valid: 216",
        LENGTHS | {"max_length": 216},
    ),
    (
        "08_rlhf",
        {"keep": 5, "num_samples": 4},
        "keep: 5 is more than num_samples: 4; nearest valid: 4",
        {"keep": 4, "num_samples": 4},
    ),
    (
        "08_rlhf",
        {"num_generations": 3},
        "num_generations: 3 does not divide the 8 answers of a step",
        {"num_generations": 3, "method": "none"},
    ),
    ("05_dpo", {"method": "kto", "rpo_alpha": 1.0}, "rpo_alpha: 1.0 with method: kto", {"rpo_alpha": 1.0}),
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


def test_the_rule_about_the_head_is_for_trl_s_fused_head() -> None:
    for notebook, method in (("04_sft", {}), ("05_dpo", {"method": "orpo"})):
        assert params.load(notebook, HEAD | method).target_modules == ["q_proj", "lm_head"]


def test_every_rule_has_a_case() -> None:
    """A rule that no case breaks would have no test: as many different sentences as there are `yield`s."""
    sentences = set()
    for notebook, refused, _, _ in CASES:
        with pytest.raises(QilinError) as failure:
            params.load(notebook, refused)
        sentences.add(re.sub(r"zero\w+", "zero", str(failure.value)))
    assert len(sentences) == inspect.getsource(compatibility).count("yield ")
