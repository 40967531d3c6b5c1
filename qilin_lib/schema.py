"""What each notebook may be told: one class a notebook, one line a parameter, impossible combinations refused here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from qilin_lib import compatibility

# Keys that stand at the top of a profile and belong to every notebook that declares them.
SHARED = ("notebook", "profile", "run", "seed")


class Strict(BaseModel):
    """Base of all parameter classes: no unknown key, no silent conversion, no change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    notebook: str
    profile: str
    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    from_run: str | None = None
    seed: int = Field(ge=0)

    def _repr_html_(self) -> str:
        from qilin_lib.params import to_html

        return to_html(self)


class Build(Strict):
    """01_build_chimed (paper §3.1.1, §3.2.1, §3.3.1)."""

    raw_dir: str | None
    sources: list[str] | None
    exclude_licences: list[str]
    min_chars: int = Field(ge=1)
    max_records_per_source: int | None = Field(ge=1)
    workers: int | None = Field(ge=1)
    near_dup_ngram: int = Field(ge=1, le=20)
    near_dup_threshold: float = Field(gt=0, le=1)
    exact_substrings: Literal["remove", "drop"] | None
    exact_substring_length: int = Field(ge=10)
    decontaminate: bool | Literal["report"]
    contamination_share: float = Field(gt=0, le=1)
    general_share: float | None = Field(ge=0, le=1)
    heldout_share_cpt: float = Field(ge=0, lt=1)
    heldout_share_sft: float = Field(ge=0, lt=1)
    heldout_share_dpo: float = Field(ge=0, lt=1)
    heldout_share_general: float = Field(ge=0, lt=1)


class Tiny(BaseModel):
    """Shape and brief pre-training of the built-in base model (a small LLaMA)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    vocab_size: int = Field(ge=512)
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    max_steps: int
    learning_rate: float
    per_device_train_batch_size: int
    block_size: int


class Tokenize(Strict):
    """02_tokenize."""

    base: str
    tiny: Tiny
    template: Literal["auto", "baichuan", "plain"]
    block_size: int = Field(ge=16)
    packing: Literal["isolated", "naive"]
    max_cpt_tokens: int | None = Field(ge=1)
    replay_share: float = Field(ge=0, lt=1)


class Trained(Strict):
    """What every training shares, whatever it is trained on and for how long (paper §4.2)."""

    gpus: int = Field(ge=0)
    nodes: int = Field(ge=1)
    nproc_per_node: int | None = Field(ge=1)
    finetuning: Literal["full", "lora", "qlora"]
    dtype: Literal["float32", "bfloat16"]
    gradient_accumulation_steps: int = Field(ge=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    warmup_ratio: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0, lt=1)
    max_grad_norm: float = Field(gt=0)
    lora_r: int = Field(ge=1)
    lora_alpha: int = Field(ge=1)
    lora_dropout: float = Field(ge=0, lt=1)
    target_modules: str | list[str]
    modules_to_save: list[str]
    gradient_checkpointing: bool
    deepspeed: Literal["zero2", "zero2_offload", "zero3", "zero3_offload"] | None
    report_to: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]
    logging_steps: int = Field(ge=1)
    save_steps: int = Field(ge=1)
    max_heldout: int | None = Field(ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Trained:
        compatibility.check(self)
        return self


class Training(Trained):
    """What DCPT, SFT and DPO share: one training a notebook."""

    dry_run: bool
    per_device_train_batch_size: int = Field(ge=1)
    num_train_epochs: float = Field(gt=0)
    max_steps: int = Field(ge=-1)
    learning_rate: float = Field(gt=0, lt=1)


class Dcpt(Training):
    """03_dcpt: next-token prediction on ChiMed-CPT (paper §3.1.2, §4.2)."""


class OneStage(BaseModel):
    """DCPT text in instruction form, learned together with ChiMed-SFT (HuatuoGPT-II, arXiv 2311.09774).

    `priority`: how much likelier a passage is drawn next than an SFT conversation; `priorities`: {source: the same of
    its passages}, for sources of their own.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    priority: float = Field(gt=0, allow_inf_nan=False)
    priorities: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None


class Sft(Training):
    """04_sft: loss on the assistant's turns (paper §3.2.2, §4.2)."""

    max_source_length: int = Field(ge=8)
    max_target_length: int = Field(ge=8)
    max_length: int = Field(ge=16)
    packing: bool
    source_weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None
    one_stage: OneStage | None

    @model_validator(mode="after")
    def _one_turn_fits(self) -> Sft:
        # Role tags and the end token need a few tokens beside the two turns.
        least = self.max_source_length + self.max_target_length + 16
        if self.max_length < least:
            raise ValueError(
                f"max_length: {self.max_length} is too short for one turn of max_source_length + max_target_length; "
                f"nearest valid: {least}"
            )
        return self


class Dpo(Training):
    """05_dpo: direct preference optimisation (paper §3.3.2, §4.2; Rafailov et al. 2023, Eq. 7)."""

    max_source_length: int = Field(ge=8)
    max_target_length: int = Field(ge=8)
    beta: float = Field(gt=0)
    label_smoothing: float = Field(ge=0, lt=0.5)
    rpo_alpha: float | None = Field(gt=0)
    sampled_prompts: int = Field(ge=0)
    precompute_ref_log_probs: bool
    allow_high_lr: bool

    @model_validator(mode="after")
    def _rate(self) -> Dpo:
        if self.learning_rate > 1e-5 and not self.allow_high_lr:
            raise ValueError(
                f"learning_rate: {self.learning_rate} is high for DPO and ends in babble (hiyouga/LLaMA-Factory"
                "#797); nearest valid: 1e-5, or say allow_high_lr: true"
            )
        return self


FurtherBenchmark = Literal["cmeee", "ccks2019", "chimst", "cmmlu", "medqa", "cmtmedqa", "meddialog", "mc"]
"""What ChiMed-GPT is evaluated on beside C-Eval (arXiv 2311.06025), and public sets of the same kind."""
BaselineName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._()-]*$")]


class Finetune(BaseModel):
    """Training of a baseline on a benchmark's own train split before it answers (paper §4.2: LoRA r 8, alpha 16)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    on: Literal["cmexam", "huatuo"]
    finetuning: Literal["full", "lora"]
    num_train_epochs: float = Field(gt=0)
    max_steps: int = Field(ge=-1)
    per_device_train_batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0, lt=1)
    lora_r: int = Field(default=8, ge=1)
    lora_alpha: int = Field(default=16, ge=1)
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    max_source_length: int = Field(default=256, ge=8)
    max_target_length: int = Field(default=256, ge=8)


class Baseline(BaseModel):
    """A further model of Tables 4-6, one line of the profile.

    `model`: a stage of this run, a local folder, a hub id, or the model's name at `endpoint` (an OpenAI-compatible
    base URL). `template`: "chat" is the tokenizer's own or the server's. `shots`: null = as `eval.shots`; `benchmarks`:
    null = all of the run.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str = Field(min_length=1)
    template: Literal["plain", "baichuan", "chat"] = "plain"
    shots: int | None = Field(default=None, ge=0, le=5)
    benchmarks: list[Literal["ceval", "cmexam", "huatuo"] | FurtherBenchmark] | None = None
    finetune: Finetune | None = None
    endpoint: str | None = Field(default=None, pattern=r"^https?://")
    api_key_env: str = "OPENAI_API_KEY"
    requests_per_minute: float | None = Field(default=None, gt=0)
    timeout: float = Field(default=60.0, gt=0)
    price_per_million_input: float | None = Field(default=None, ge=0)
    price_per_million_output: float | None = Field(default=None, ge=0)


class Evaluate(Strict):
    """06_eval (paper §4.1, §4.3)."""

    gpus: int = Field(ge=0)
    processes: int | None = Field(ge=1)
    models: list[Literal["base", "dcpt", "sft", "dpo"]]
    baselines: dict[BaselineName, Baseline]
    benchmarks: list[Literal["ceval", "cmexam", "huatuo"]]
    further_benchmarks: list[FurtherBenchmark] | None
    protocols: list[Literal["fixed", "released"]] = Field(min_length=1)
    dtype: Literal["float32", "bfloat16"]
    shots: int = Field(ge=0, le=5)
    ceval_subjects: list[str] | None
    ceval_split: Literal["dev", "val", "test"]
    cmexam_split: Literal["val", "test"]
    max_items_ceval_per_subject: int | None = Field(ge=1)
    max_items_cmexam: int | None = Field(ge=1)
    max_items_huatuo: int | None = Field(ge=1)
    max_items_further: int | None = Field(ge=1)
    max_new_tokens_cmexam: int = Field(ge=1)
    max_new_tokens_huatuo: int = Field(ge=1)
    max_new_tokens_ner: int = Field(ge=1)
    max_new_tokens_dialogue: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    tokenisation: Literal["char", "jieba"]
    bootstrap_resamples: int = Field(ge=100)


class CaseStudy(Strict):
    """07_case_study (paper §4.4, Figures 2 and 3)."""

    cases: int = Field(ge=1, le=50)


class Steps(BaseModel):
    """How long and how fast one of the trainings of 08_rlhf goes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    per_device_train_batch_size: int = Field(ge=1)
    num_train_epochs: float = Field(gt=0)
    max_steps: int = Field(ge=-1)
    learning_rate: float = Field(gt=0, lt=1)


class Rlhf(Trained):
    """08_rlhf: reward model, rejection sampling, reinforcement learning (ChiMed-GPT, arXiv 2311.06025, abstract).

    `reward`, `rejection` and `rl` are the three trainings; everything else about training is common to them.
    """

    reward: Steps
    rejection: Steps
    rl: Steps
    max_source_length: int = Field(ge=8)
    max_target_length: int = Field(ge=8)
    rounds: int = Field(ge=1)
    prompts: int = Field(ge=1)
    num_samples: int = Field(ge=1)
    keep: int = Field(ge=1)
    temperature: float = Field(gt=0)
    top_p: float = Field(gt=0, le=1)
    method: Literal["rloo", "grpo", "none"]
    num_generations: int = Field(ge=2)
    kl_coef: float = Field(ge=0)
    batch_size: int = Field(ge=1)
    max_items: int | None = Field(ge=1)
    bootstrap_resamples: int = Field(ge=100)

    @model_validator(mode="after")
    def _countable(self) -> Rlhf:
        if self.keep > self.num_samples:
            raise ValueError(
                f"keep: {self.keep} is more than num_samples: {self.num_samples}; nearest valid: {self.num_samples}"
            )
        batch = self.rl.per_device_train_batch_size * self.gradient_accumulation_steps
        if self.method != "none" and batch % self.num_generations:
            raise ValueError(
                f"num_generations: {self.num_generations} does not divide the {batch} answers of a step (rl."
                "per_device_train_batch_size x gradient_accumulation_steps); nearest valid: a divisor of it from 2 on"
            )
        return self


class Bias(Strict):
    """09_bias: attitude scales (ChiMed-GPT, arXiv 2311.06025, abstract) with the controls that the original lacks."""

    gpus: int = Field(ge=0)
    processes: int | None = Field(ge=1)
    models: list[Literal["base", "dcpt", "sft", "dpo", "rejection_sampling", "rl"]]
    baselines: dict[BaselineName, Baseline]
    scales: list[str] = Field(min_length=1)
    protocols: list[Literal["next_token", "generation"]] = Field(min_length=1)
    option_orders: int = Field(ge=1)
    labels: list[Literal["letters", "digits", "lower_case", "heavenly_stems"]] = Field(min_length=1)
    paraphrases: bool
    max_new_tokens: int = Field(ge=1)
    dtype: Literal["float32", "bfloat16"]
    batch_size: int = Field(ge=1)
    bootstrap_resamples: int = Field(ge=100)


OUTSIDE = frozenset(
    "run profile from_run workers processes dry_run report_to logging_steps save_steps max_heldout sampled_prompts "
    "gpus nodes nproc_per_node deepspeed gradient_checkpointing batch_size".split()
)


def outside_key(model: type[Strict]) -> frozenset[str]:
    """Parameters that move no result."""
    return OUTSIDE & model.model_fields.keys()


SECTIONS: dict[str, tuple[str, type[Strict]]] = {
    "01_build_chimed": ("build", Build),
    "02_tokenize": ("tokenize", Tokenize),
    "03_dcpt": ("dcpt", Dcpt),
    "04_sft": ("sft", Sft),
    "05_dpo": ("dpo", Dpo),
    "06_eval": ("eval", Evaluate),
    "07_case_study": ("case_study", CaseStudy),
    "08_rlhf": ("rlhf", Rlhf),
    "09_bias": ("bias", Bias),
}
