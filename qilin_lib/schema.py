"""Every parameter once: one class per notebook, one described line per parameter, impossible combinations refused.

A description says meaning, unit and the paper's value (§4.2); `describe` adds the choices, and "paper: not stated".
"""

from __future__ import annotations

import json
from functools import partial
from os.path import expanduser
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from qilin_lib import compatibility, strict_yaml
from qilin_lib.annotations import describe

SHARED = ("notebook", "profile", "run", "from_run", "seed")  # these stand in no section of a profile
# A parameter that changes no result, and so no stage's key; nothing else is marked.
Outside = partial(Field, json_schema_extra={"outside_key": True})
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
LocalPath = Annotated[str, Field(min_length=1), AfterValidator(expanduser)]


class Part(BaseModel):
    """Base of all parameter classes: no unknown key, silent conversion or infinity, no change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, regex_engine="python-re")


class Strict(Part):
    """What every notebook has. A notebook shows it as a folded table: value, origin and meaning of each parameter."""

    notebook: str = Field(description="which stage of the paper this is")
    profile: str = Outside(description="the file of params/ that says all other values")
    run: RunName = Outside(description="folder of runs/ to work in; null: named as the profile")
    from_run: RunName | None = Outside(default=None, description="a run whose finished stages this run may stand on")
    seed: int = Field(ge=0, lt=2**32, description="of every random draw; released code: 42")

    # {parameter: "override", or the profile that says it}
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def frame(self) -> Any:
        """DataFrame of all parameters: parameter, value (JSON), origin, meaning."""
        import pandas as pd

        fields = type(self).model_fields
        values = {name: json.dumps(value, ensure_ascii=False) for name, value in self.model_dump(mode="json").items()}
        rows = [(name, text, self._origins.get(name, ""), describe(fields[name])) for name, text in values.items()]
        return pd.DataFrame(rows, columns=["parameter", "value", "origin", "meaning"])

    def _repr_html_(self) -> str:
        import pandas as pd

        with pd.option_context("display.max_colwidth", None, "display.max_rows", None):
            table = self.frame.to_html(index=False, escape=True)
        return f"<details><summary>Parameters of {self.notebook} (value, origin, meaning)</summary>{table}</details>"


Gpus = Annotated[int, Outside(ge=0, description="GPUs on each node; 0: the CPU. Paper: DCPT 8 A100, DPO 4 RTX 3090")]
Processes = Annotated[int | None, Outside(ge=1, description="null: one per GPU, or one per core")]
Dtype = Annotated[Literal["float32", "bfloat16"], Field(description="of arithmetic; bfloat16 on a GPU")]
Resamples = Annotated[int, Field(ge=100, description="bootstrap resamples behind each 95 % interval")]
AskedTogether = Annotated[int, Outside(ge=1, description="prompts answered or scored together")]
Rank = Annotated[int, Field(ge=1, description="rank of LoRA; paper: 8 in SFT and DPO")]
Alpha = Annotated[int, Field(ge=1, description="LoRA's scale times its rank; paper: SFT 32, DPO 16")]
Dropout = Annotated[float, Field(ge=0, lt=1, description="dropout before LoRA; paper: 0.05 in SFT and DPO")]
SourceLength = Annotated[int, Field(ge=8, description="most tokens of a user's turn; paper: 256")]
TargetLength = Annotated[int, Field(ge=8, description="most tokens of an assistant's turn; paper: 256")]
NewTokens = Annotated[int, Field(ge=1, description="most tokens of an answer; paper: 512 for T5, GPT2 on Huatuo-26M")]
Share = Annotated[float, Field(ge=0, lt=1, description="share held out, by hash; released code: CPT 0.05, SFT 0.01")]


# The registry's file, not its module: no package may be imported from here.
_SOURCES = strict_yaml.read(Path(__file__).parent / "chimed" / "sources.yaml")["sources"]
SourceName = Literal[tuple(source["name"] for source in _SOURCES)]


class Build(Strict):
    """01_build_chimed (paper §3.1.1, §3.2.1, §3.3.1)."""

    raw_dir: LocalPath | None = Field(description="folder with one sub-folder per source; null: the embedded sample")
    sources: list[SourceName] | None = Field(description="sub-folders to read; null: every one that is there")
    exclude_licences: list[str] = Field(description="licences not to train on, or parts of their names: CC BY-NC, GPL")
    min_chars: int = Field(ge=1, description="shorter records are rejected")
    ranked_answers: Literal["best_two", "all_pairs"] = Field(description="pairs of a ranked list: best two, or all")
    max_records_per_source: int | None = Field(ge=1, description="null: all; the ledger counts what is left out")
    workers: int | None = Outside(ge=1, description="processes; null: one per core")
    near_dup_ngram: int = Field(ge=1, le=20, description="characters of a shingle")
    near_dup_threshold: float = Field(gt=0, le=1, description="Jaccard similarity from which two records are one")
    exact_substrings: Literal["remove"] | None = Field(description="cut later copies out of running text in CPT")
    exact_substring_length: int = Field(ge=10, description="characters of a copy; Lee et al. 2022: 50 tokens")
    decontaminate: bool | Literal["report"] = Field(description="drop what holds a test item; report: only count it")
    contamination_share: float = Field(gt=0, le=1, description="share of a test question's 13-grams that is a hit")
    general_share: float | None = Field(ge=0, le=1, description="share of general dialogues in SFT; null: as they come")
    heldout_share_cpt: Share
    heldout_share_sft: Share
    heldout_share_dpo: Share
    heldout_share_general: Share


class Tiny(Part):
    """Shape and brief pre-training of the built-in base model (a small LLaMA)."""

    vocab_size: int = Field(ge=512, description="pieces of its tokenizer")
    hidden_size: int = Field(description="width of a layer")
    intermediate_size: int = Field(description="width of the MLP; NF4 on a CPU wants multiples of 64")
    num_hidden_layers: int = Field(description="layers")
    num_attention_heads: int = Field(description="query heads")
    num_key_value_heads: int = Field(description="key and value heads")
    max_position_embeddings: int = Field(description="longest context, tokens")
    max_steps: int = Field(description="optimizer steps of its pre-training")
    learning_rate: float = Field(description="peak rate of its pre-training")
    per_device_train_batch_size: int = Field(description="blocks per step of its pre-training")
    block_size: int = Field(description="tokens per block of its pre-training")


class Tokenize(Strict):
    """02_tokenize."""

    base: LocalPath = Field(description="tiny | smollm2 | a local folder | a hub id owner/name; paper: Baichuan-7B")
    tiny: Tiny = Field(description="the built-in base model; read only if base is tiny")
    template: Literal["auto", "own", "baichuan", "baichuan2", "plain"] = Field(
        description="auto: the tokenizer's own chat template, else Baichuan's role tokens if it has them, else plain"
    )
    block_size: int = Field(ge=16, description="tokens per DCPT block; paper: 1024")
    packing: Literal["isolated", "naive"] = Field(description="naive: documents of a block see each other")
    max_cpt_tokens: int | None = Field(ge=1, description="DCPT tokens of one epoch; null: all")
    replay_share: float = Field(ge=0, lt=1, description="share of general text among the DCPT tokens")


class Steps(Part):
    """How long and how fast a training goes."""

    per_device_train_batch_size: int = Field(ge=1, description="examples per process; paper: DCPT 1, SFT 64, DPO 8")
    num_train_epochs: float = Field(gt=0, description="passes over the data; paper: DCPT 3, SFT and DPO not stated")
    max_steps: int = Field(ge=-1, lt=2**31, description="optimizer steps; -1: as many as the epochs have")
    learning_rate: float = Field(gt=0, lt=1, description="peak rate; paper: DCPT 2e-4, SFT and DPO 2e-5")


Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]
Attention = Literal["auto", "documents", "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]
DeepSpeed = Literal["zero2", "zero2_offload", "zero3", "zero3_offload"]
Tracker = Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]


class Trained(Strict):
    """What every training shares, whatever it is trained on and for how long (paper §4.2)."""

    gpus: Gpus
    nodes: int = Outside(ge=1, description="machines; more than one wants MASTER_ADDR or Slurm")
    nproc_per_node: int | None = Outside(ge=1, description="processes per node; null: one per GPU, or one on the CPU")
    finetuning: Literal["full", "lora", "qlora"] = Field(description="what learns; paper: LoRA in SFT and DPO")
    dtype: Dtype
    gradient_accumulation_steps: int = Field(ge=1, description="batches per optimizer step")
    lr_scheduler_type: Scheduler = Field(description="course of the learning rate")
    warmup_ratio: float = Field(ge=0, lt=1, description="share of the steps in which the rate rises; paper: 0.05")
    weight_decay: float = Field(ge=0, lt=1, description="of AdamW; paper: DCPT 0.01, SFT and DPO 0.05")
    max_grad_norm: float = Field(gt=0, description="gradients are clipped to this norm")
    bootstrap_resamples: int = Outside(default=1000, ge=100, description="resamples behind an interval in 03-05")
    lora_r: Rank
    lora_alpha: Alpha
    lora_dropout: Dropout
    target_modules: str | list[str] = Field(description="layers with LoRA: all-linear, or names")
    modules_to_save: list[str] = Field(description="layers trained whole beside LoRA, such as lm_head")
    peft: dict[str, Any] = Field(default={}, description="further fields of peft's LoraConfig, such as use_dora")
    trainer: dict[str, Any] = Field(
        default={}, description="further fields of TrainingArguments or TRL's, such as optim"
    )
    gradient_checkpointing: bool = Outside(description="computes activations twice to save memory")
    attn_implementation: Attention = Outside(
        default="auto", description="kernel; auto: the fastest that gives the right numbers"
    )
    deepspeed: DeepSpeed | None = Outside(description="a file of params/deepspeed; paper: ZeRO-2 in SFT")
    report_to: Tracker = Outside(description="where losses go as well; log.jsonl is always written")
    logging_steps: int = Outside(ge=1, description="steps between two lines of log.jsonl")
    save_steps: int = Outside(ge=1, description="steps between two checkpoints")
    save_minutes: float | None = Outside(default=None, gt=0, description="minutes between two; null: by steps alone")
    save_total_limit: int = Outside(default=1, ge=1, description="checkpoints kept; from 2 on one before a loss spike")
    max_heldout: int | None = Outside(ge=0, description="held-out records scored; null: all; 0: none")

    @model_validator(mode="after")
    def _possible(self) -> Trained:
        compatibility.check(self)
        return self


class Training(Trained, Steps):
    """What DCPT, SFT and DPO share: one training per notebook."""

    dry_run: bool = Outside(description="show memory, time and launch command, then stop")


class Dcpt(Training):
    """03_dcpt: next-token prediction on ChiMed-CPT (paper §3.1.2, §4.2)."""


class OneStage(Part):
    """DCPT text in instruction form, learned together with ChiMed-SFT (HuatuoGPT-II, arXiv 2311.09774)."""

    priority: float = Field(gt=0, description="how much likelier a passage is drawn next than a conversation")
    priorities: dict[str, Annotated[float, Field(gt=0)]] | None = Field(default=None, description="the same by source")


class Sft(Training):
    """04_sft: loss on the assistant's turns (paper §3.2.2, §4.2)."""

    max_source_length: SourceLength
    max_target_length: TargetLength
    max_length: int = Field(ge=16, description="most tokens of a whole conversation")
    packing: bool = Field(description="conversations share rows unseen by each other: same loss, no padding")
    source_weights: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        description="{source: weight}: 0.5 draws half of its conversations, 2 takes each twice; null: each once"
    )
    one_stage: OneStage | None = Field(description="start from the base and learn DCPT text as instructions here too")


class Dpo(Training):
    """05_dpo: direct preference optimisation (paper §3.3.2, §4.2; Rafailov et al. 2023, Eq. 7), or another method."""

    method: Literal["dpo", "kto", "orpo"] = Field(default="dpo", description="what learns from the pairs; paper: DPO")
    max_source_length: SourceLength
    max_target_length: TargetLength
    beta: float = Field(gt=0, description="strength of the reference; released code: 0.1")
    label_smoothing: float = Field(ge=0, lt=0.5, description="share of pairs taken for mislabelled")
    rpo_alpha: float | None = Field(gt=0, description="weight of an SFT loss on the chosen answer (RPO); null: none")
    sampled_prompts: int = Outside(ge=0, description="held-out prompts answered before and after")
    precompute_ref_log_probs: bool = Field(description="ask the reference once, before training")
    allow_high_lr: bool = Outside(description="permits a learning rate above 1e-5")


PaperBenchmark = Literal["ceval", "cmexam", "huatuo"]
# What ChiMed-GPT is evaluated on beside C-Eval (arXiv 2311.06025), and public sets of the same kind.
FurtherBenchmark = Literal["cmeee", "ccks2019", "chimst", "cmmlu", "medqa", "cmtmedqa", "meddialog", "mc", "cmb"]
Benchmark = Literal[PaperBenchmark, FurtherBenchmark]


class Finetune(Steps):
    """Training of a baseline on a benchmark's own train split before it answers (paper §4.2: LoRA r 8, alpha 16)."""

    on: Literal["cmexam", "huatuo"] = Field(description="the benchmark whose train split is learned")
    finetuning: Literal["full", "lora", "prefix"] = Field(description="what learns; paper: LoRA, ChatGLM P-Tuning v2")
    prefix_tokens: int = Field(default=128, ge=1, description="positions of a prefix; paper: CMExam's 128")
    lora_r: Rank = 8
    lora_alpha: Alpha = 16
    lora_dropout: Dropout = 0.05
    gradient_accumulation_steps: int = Field(default=1, ge=1, description="batches per optimizer step")
    gradient_checkpointing: bool = Field(default=False, description="computes activations twice to save memory")
    max_source_length: SourceLength = 256
    max_target_length: TargetLength = 256

    @model_validator(mode="after")
    def _possible(self) -> Finetune:
        if self.finetuning == "prefix" and self.gradient_checkpointing:
            raise ValueError("gradient_checkpointing drops the keys and values of a prefix; nearest valid: false")
        return self


# Predictions that are still being made are called <name>.part<n>.
BaselineName = Annotated[str, Field(pattern=r"^(?!.*\.part\d*$)[A-Za-z0-9][A-Za-z0-9 ._()-]*$", max_length=100)]
# Keys of the known services have small letters; an environment variable, by custom, has none.
Variable = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,60}$")]
# A user, a password or a query in a URL would be stored in the run.
PlainUrl = Annotated[str, Field(pattern=r"^https?://[^@?#\s]+$")]


# What a baseline can be asked in: "auto" and the tokenizer's own, the kit's, those of evaluate/data/prompts.yaml.
Template = Literal[
    "auto", "chat", "own", "plain", "baichuan", "baichuan2",
    "bentsao", "bianque", "huatuogpt2", "zhongjing", "chimed_gpt", "doctorglm", "chatmed",
]  # fmt: skip


class Baseline(Part):
    """A further model of Tables 4-6, one line of the profile."""

    model: LocalPath = Field(description="a stage of this run | a local folder | a hub id | a name at endpoint")
    template: Template = Field(
        default="auto",
        description="chat: the tokenizer's own; own: the same, trained in this kit; auto: chat, plain without one",
    )
    prompt: str | None = Field(default=None, description="a text with {instruction}, in place of a template")
    system: str | None = Field(default=None, description="the system turn before every conversation")
    chat_template_kwargs: dict[str, Any] = Field(default={}, description="for the template: {enable_thinking: false}")
    max_new_tokens: int | None = Field(default=None, ge=1, description="of every reply; null: as the benchmark has it")
    temperature: float = Field(default=0.0, ge=0, description="0: the likeliest token; else a seeded draw")
    stop: list[str] = Field(default=[], description="texts that end a reply")
    shots: int | None = Field(default=None, ge=0, le=5, description="C-Eval examples; null: as eval.shots")
    benchmarks: list[Benchmark] | None = Field(default=None, description="what it answers; null: all of the run")
    finetune: Finetune | None = Field(default=None, description="training before it answers")
    endpoint: PlainUrl | None = Field(default=None, description="base URL of a server, no user, password or key")
    api_key_env: Variable = Field(default="OPENAI_API_KEY", description="NAME_IN_CAPITALS of the variable with the key")
    concurrency: int | None = Field(default=None, ge=1, description="requests at a time; null: batch_size")
    request: dict[str, Any] = Field(default={}, description="fields of each request; null leaves one out: {seed: null}")
    prefill: bool = Field(default=False, description="the server goes on from the reply's first words (vLLM, SGLang)")
    logprobs: bool = Field(default=False, description="letters by the server's log-probabilities, not by writing")
    requests_per_minute: float | None = Field(default=None, gt=0, description="most of them; null: no limit")
    timeout: float = Field(default=60.0, gt=0, description="seconds that a request may take")
    price_per_million_input: float | None = Field(default=None, ge=0, description="of a million tokens read")
    price_per_million_output: float | None = Field(default=None, ge=0, description="of a million tokens written")


Baselines = Annotated[dict[BaselineName, Baseline], Field(description="further rows: {name: {model, template, …}}")]


class Evaluate(Strict):
    """06_eval (paper §4.1, §4.3)."""

    gpus: Gpus
    processes: Processes
    models: list[Literal["base", "dcpt", "sft", "dpo"]] = Field(description="stages of this run that answer")
    baselines: Baselines
    benchmarks: list[PaperBenchmark] = Field(description="which of the paper's three are asked")
    further_benchmarks: list[FurtherBenchmark] | None = Field(description="other sets; null: all that are there")
    protocols: list[Literal["fixed", "released"]] = Field(min_length=1, description="ours; the authors' with defects")
    dtype: Dtype
    shots: int = Field(ge=0, le=5, description="C-Eval dev examples in the prompt; paper: 5")
    ceval_subjects: list[str] | None = Field(description="handles such as basic_medicine; null: all that are there")
    ceval_split: Literal["dev", "val", "test"] = Field(description="test has no labels; paper: test, online")
    cmexam_split: Literal["val", "test"] = Field(description="split of CMExam that is asked")
    max_items_ceval_per_subject: int | None = Field(ge=1, description="a seeded sample of each subject; null: all")
    max_items_cmexam: int | None = Field(ge=1, description="a seeded sample; null: all")
    max_items_huatuo: int | None = Field(ge=1, description="a seeded sample of the 6,000; null: all")
    max_items_further: int | None = Field(ge=1, description="of each further benchmark or CMMLU subject; null: all")
    max_new_tokens_cmexam: NewTokens = 256
    max_new_tokens_huatuo: NewTokens = 512
    max_new_tokens_ner: NewTokens = 256
    max_new_tokens_dialogue: NewTokens = 512
    batch_size: AskedTogether
    ask_errors_again: bool = Field(default=False, description="prompts that a server refused are asked once more")
    tokenisation: Literal["char", "jieba"] = Field(description="of BLEU and ROUGE; moves them by about 20 points")
    bootstrap_resamples: Resamples


class CaseStudy(Strict):
    """07_case_study (paper §4.4, Figures 2 and 3)."""

    cases: int = Field(ge=1, le=50, description="of the seeded sample, biggest gain and biggest loss: this many each")
    question: str | None = Field(description="asked of all stages, side by side; null: none is loaded")


class Rlhf(Trained):
    """08_rlhf: reward model, rejection sampling, reinforcement learning (ChiMed-GPT, arXiv 2311.06025)."""

    reward: Steps = Field(description="training of the reward model")
    rejection: Steps = Field(description="fine-tuning on the best answers, each round")
    rl: Steps = Field(description="reinforcement learning")
    max_source_length: SourceLength
    max_target_length: TargetLength
    rounds: int = Field(ge=1, description="of rejection sampling: sample, rank, fine-tune on the best")
    prompts: int = Field(ge=1, description="questions of ChiMed-SFT that a round samples answers to")
    num_samples: int = Field(ge=1, description="answers sampled per question (K)")
    keep: int = Field(ge=1, description="the best so many of the K return to fine-tuning")
    temperature: float = Field(gt=0, description="of sampling")
    top_p: float = Field(gt=0, le=1, description="of sampling; ChiMed-GPT's model card: 0.9")
    method: Literal["rloo", "grpo", "none"] = Field(description="of reinforcement learning; Zhongjing used PPO")
    num_generations: int = Field(ge=2, description="answers per group in rloo and grpo")
    kl_coef: float = Field(ge=0, description="weight of the KL divergence from SFT (TRL's beta)")
    vllm_python: LocalPath | None = Field(default=None, description="python of an environment with vLLM, which samples")
    batch_size: AskedTogether
    max_items: int | None = Field(ge=1, description="held-out questions in the comparison of policies; null: all")
    bootstrap_resamples: Resamples


Policy = Literal["base", "dcpt", "sft", "dpo", "rejection_sampling", "rl"]
Label = Literal["letters", "digits", "lower_case", "heavenly_stems"]


class Bias(Strict):
    """09_bias: attitude scales (ChiMed-GPT, arXiv 2311.06025) with the controls that the original lacks."""

    gpus: Gpus
    processes: Processes
    models: list[Policy] = Field(description="stages of this run that answer")
    baselines: Baselines
    scales: list[LocalPath] = Field(min_length=1, description="scales of the kit, or paths of YAML files of that form")
    protocols: list[Literal["next_token", "generation"]] = Field(min_length=1, description="how an option is chosen")
    option_orders: int = Field(ge=1, description="orders of the options, the given one first")
    labels: list[Label] = Field(min_length=1, description="what the options are called")
    paraphrases: bool = Field(description="ask the scale's paraphrases too")
    max_new_tokens: NewTokens
    dtype: Dtype
    batch_size: AskedTogether
    bootstrap_resamples: Resamples


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
