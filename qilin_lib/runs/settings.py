"""Which parameters a stage's key holds: those that move its result."""

from __future__ import annotations

from typing import Any

# Fields of `trainer` that change no result: how batches are fetched, what is kept in memory.
OUTSIDE_TRAINER = (
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "dataloader_persistent_workers",
    "gradient_checkpointing_kwargs",
    "activation_offloading",
    "include_num_input_tokens_seen",
    "torch_empty_cache_steps",
)
# Parameters that came after others had finished stages: with these values a result is what it was before.
LATER: dict[str, Any] = {
    "peft": {},
    "trainer": {},
    "method": "dpo",
    "vllm_python": None,
    "vllm": {},
    "question": None,
    "retrieval": None,
    "judge": None,
    "patient": {"by": None, "exchanges": 4},
    "perplexity": False,
    "instructions_as_text": 0.0,
    "question_share": None,
    "constructed": None,
}


def result_settings(values: dict[str, Any], outside: frozenset[str]) -> dict[str, Any]:
    """The parameters that move a result. How many devices share a global batch, and in how many steps, does not."""
    settings = {name: value for name, value in values.items() if name not in outside}
    if settings.get("vllm_python"):
        # Where it lies moves no result.
        settings["vllm_python"] = "vLLM"
    if "trainer" in settings:
        settings["trainer"] = {name: v for name, v in settings["trainer"].items() if name not in OUTSIDE_TRAINER}
    settings = {name: value for name, value in settings.items() if name not in LATER or value != LATER[name]}
    if settings.get("one_stage"):
        later = {"sft_epochs": 1, "unified": None}
        settings["one_stage"] = {
            name: v for name, v in settings["one_stage"].items() if name not in later or v != later[name]
        }
    if "gradient_accumulation_steps" in settings:
        processes = (values["nproc_per_node"] or max(1, values["gpus"])) * values["nodes"]
        settings["global_batch_size"] = settings.pop("gradient_accumulation_steps") * processes
        settings["global_batch_size"] *= settings.pop("per_device_train_batch_size", 1)
    return settings
