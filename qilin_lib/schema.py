"""Every parameter once: one class per notebook, one described line per parameter, impossible combinations refused.

A description says meaning, unit and the paper's value (§4.2); `describe` adds the choices, and "paper: not stated".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qilin_lib import chains, compatibility
from qilin_lib.errors import nearest
from qilin_lib.schema_data import Build, Tokenize
from qilin_lib.strict import Fields, LocalPath, Modules, Outside, Part, StageName, StepCount, Strict

Gpus = Annotated[int, Outside(ge=0, description="GPUs on each node; 0: the CPU. Paper: DCPT 8 A100, DPO 4 RTX 3090")]
Processes = Annotated[int | None, Outside(ge=1, description="null: one per GPU, or one per core")]
Dtype = Annotated[Literal["float32", "bfloat16"], Field(description="of arithmetic; bfloat16 on a GPU")]
Resamples = Annotated[int, Field(ge=100, description="bootstrap resamples behind each 95 % interval")]
VllmPython = Annotated[LocalPath | None, Field(default=None, description="a python that has vLLM, which answers then")]
AskedTogether = Annotated[int, Outside(ge=1, description="prompts answered or scored together")]
Rank = Annotated[int, Field(ge=1, description="rank of LoRA; paper: 8 in SFT and DPO")]
Alpha = Annotated[int, Field(ge=1, description="LoRA's scale times its rank; paper: SFT 32, DPO 16")]
Dropout = Annotated[float, Field(ge=0, lt=1, description="dropout before LoRA; paper: 0.05 in SFT and DPO")]
SourceLength = Annotated[int, Field(ge=8, description="most tokens of a user's turn; paper: 256")]
TargetLength = Annotated[int, Field(ge=8, description="most tokens of an assistant's turn; paper: 256")]
NewTokens = Annotated[int, Field(ge=1, description="most tokens of an answer; paper: 512 for T5, GPT2 on Huatuo-26M")]


class Steps(Part):
    """How long and how fast a training goes."""

    per_device_train_batch_size: int = Field(ge=1, description="examples per process; paper: DCPT 1, SFT 64, DPO 8")
    num_train_epochs: float = Field(gt=0, description="passes over the data; paper: DCPT 3, SFT and DPO not stated")
    max_steps: StepCount = Field(ge=-1, lt=2**31, description="optimizer steps; -1: as many as the epochs have")
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
    target_modules: Modules = Field(description="layers with LoRA: all-linear, or names")
    modules_to_save: list[str] = Field(description="layers trained whole beside LoRA, such as lm_head")
    peft: Fields = Field(default={}, description="further fields of peft's LoraConfig, such as use_dora")
    trainer: Fields = Field(default={}, description="further fields of TrainingArguments or TRL's, such as optim")
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
    """What DCPT, SFT and DPO share: one training of the chain."""

    stage: StageName | None = Outside(
        default=None, description="which training of the chain, such as sft2; null: the first"
    )
    dry_run: bool = Outside(description="show memory, time and launch command, then stop")

    @property
    def folder(self) -> str:
        return chains.folder(self.stage) if self.stage else self.notebook

    @model_validator(mode="after")
    def _in_chain(self) -> Training:
        own = [name for name in self.chain if chains.NOTEBOOKS[chains.method(name)] == self.notebook]
        if self.stage and self.stage not in own:
            raise ValueError(
                f"stage: {self.stage} is no training of notebook {self.notebook} in chain {self.chain}; "
                f"nearest valid: {', '.join(own) or 'a chain that has it'}"
            )
        return self


class Dcpt(Training):
    """03_dcpt: next-token prediction on ChiMed-CPT (paper §3.1.2, §4.2)."""

    instructions_as_text: float = Field(
        default=0.0, ge=0, le=1, description="share of ChiMed-SFT's conversations learned as running text too"
    )


class OneStage(Part):
    """DCPT text in instruction form, learned together with ChiMed-SFT (HuatuoGPT-II, arXiv 2311.09774)."""

    priority: float = Field(gt=0, description="how much likelier a passage is drawn next than a conversation")
    priorities: dict[str, Annotated[float, Field(gt=0)]] | None = Field(default=None, description="the same by source")
    sft_epochs: int = Field(default=1, ge=1, description="times that a conversation is drawn; HuatuoGPT-II: 3")
    unified: LocalPath | None = Field(
        default=None, description="questions and answers of evaluate.unification; null: rules write the questions"
    )


class Sft(Training):
    """04_sft: loss on the assistant's turns (paper §3.2.2, §4.2)."""

    max_source_length: SourceLength
    max_target_length: TargetLength
    max_length: int = Field(ge=16, description="most tokens of a whole conversation")
    packing: bool | Literal["naive"] = Field(
        description="conversations share rows unseen by each other: same loss, no padding; naive: they see each other"
    )
    source_weights: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        description="{source: weight}: 0.5 draws half of its conversations, 2 takes each twice; null: each once"
    )
    question_share: float | None = Field(
        default=None, ge=0, le=1, description="share of questions among the assistant's turns; null: as they come"
    )
    one_stage: OneStage | None = Field(description="start from the base and learn DCPT text as instructions here too")


Strategy = Literal["other_answer", "base_answer", "reward_ranked", "broken_order", "rule"]


class Constructed(Part):
    """Preference pairs made from ChiMed-SFT (train/construction.py)."""

    strategies: dict[Strategy, Annotated[int, Field(ge=1)]] = Field(description="{strategy: most pairs of it}")
    rules: list[LocalPath] = Field(default=[], description="rule files, for strategy rule")
    pool: str | None = Field(default=None, description="run whose 08 ranked the answers of reward_ranked")
    given: bool = Field(default=True, description="learn ChiMed-DPO's own pairs too")
    heldout_share: float = Field(default=0.2, ge=0, lt=1, description="share of conversations whose pairs are held out")

    @model_validator(mode="after")
    def _complete(self) -> Constructed:
        if "rule" in self.strategies and not self.rules:
            raise ValueError("strategy rule needs rules; nearest valid: [qilin_lib/sample/rules/headache.yaml]")
        if "reward_ranked" in self.strategies and not self.pool:
            raise ValueError("strategy reward_ranked needs pool, the name of a run with a finished 08")
        return self


class Dpo(Training):
    """05_dpo: direct preference optimisation (paper §3.3.2, §4.2; Rafailov et al. 2023, Eq. 7), or another method."""

    method: Literal["dpo", "kto", "orpo"] = Field(default="dpo", description="what learns from the pairs; paper: DPO")
    max_source_length: SourceLength
    max_target_length: TargetLength
    beta: float = Field(gt=0, description="strength of the reference; released code: 0.1")
    label_smoothing: float = Field(ge=0, lt=0.5, description="share of pairs taken for mislabelled")
    rpo_alpha: float | None = Field(gt=0, description="weight of an SFT loss on the chosen answer (RPO); null: none")
    constructed: Constructed | None = Field(default=None, description="pairs made from ChiMed-SFT; null: none")
    sampled_prompts: int = Outside(ge=0, description="held-out prompts answered before and after")
    precompute_ref_log_probs: bool = Field(description="ask the reference once, before training")
    allow_high_lr: bool = Outside(description="permits a learning rate above 1e-5")


PaperBenchmark = Literal["ceval", "cmexam", "huatuo"]
# What ChiMed-GPT is evaluated on beside C-Eval (arXiv 2311.06025), and public sets of the same kind.
FurtherBenchmark = Literal[
    "cmeee", "ccks2019", "chimst", "cmmlu", "medqa", "cmtmedqa", "meddialog", "mc", "cmb", "rubrics", "patients",
    "medalign",
]  # fmt: skip
Benchmark = Literal[PaperBenchmark, FurtherBenchmark]
JudgedBenchmark = Literal["huatuo", "cmtmedqa", "meddialog", "mc", "rubrics", "patients", "medalign"]


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
    chat_template_kwargs: Fields = Field(default={}, description="for the template: {enable_thinking: false}")
    max_new_tokens: int | None = Field(default=None, ge=1, description="of every reply; null: as the benchmark has it")
    temperature: float = Field(default=0.0, ge=0, description="0: the likeliest token; else a seeded draw")
    stop: list[str] = Field(default=[], description="texts that end a reply")
    shots: int | None = Field(default=None, ge=0, le=5, description="C-Eval examples; null: as eval.shots")
    benchmarks: list[Benchmark] | None = Field(
        default=None, description="what it answers; null: all; []: nothing (a judge)"
    )
    finetune: Finetune | None = Field(default=None, description="training before it answers")
    endpoint: PlainUrl | None = Field(default=None, description="base URL of a server, no user, password or key")
    api_key_env: Variable = Field(default="OPENAI_API_KEY", description="NAME_IN_CAPITALS of the variable with the key")
    concurrency: int | None = Field(default=None, ge=1, description="requests at a time; null: batch_size")
    request: Fields = Field(default={}, description="fields of each request; null leaves one out: {seed: null}")
    prefill: bool = Field(default=False, description="the server goes on from the reply's first words (vLLM, SGLang)")
    logprobs: bool = Field(default=False, description="letters by the server's log-probabilities, not by writing")
    requests_per_minute: float | None = Field(default=None, gt=0, description="most of them; null: no limit")
    timeout: float = Field(default=60.0, gt=0, description="seconds that a request may take")
    price_per_million_input: float | None = Field(default=None, ge=0, description="of a million tokens read")
    price_per_million_output: float | None = Field(default=None, ge=0, description="of a million tokens written")


class Asking(Strict):
    """What 06 and 09 share: further models that answer, where, and in which arithmetic."""

    gpus: Gpus
    processes: Processes
    baselines: dict[BaselineName, Baseline] = Field(description="further rows: {name: {model, template, …}}")
    dtype: Dtype
    vllm_python: VllmPython
    vllm: Fields = Field(default={}, description="further arguments of vllm.LLM: {tensor_parallel_size: 2}")
    batch_size: AskedTogether
    bootstrap_resamples: Resamples

    @model_validator(mode="after")
    def _trained(self) -> Asking:
        there = ["base", *self.chain, *(("rejection_sampling", "rl") if isinstance(self, Bias) else ())]
        for name in self.models:
            if name not in there:
                raise ValueError(f"models: '{name}' is no model of this run{nearest(name, there)}; there are {there}")
        return self


class Retrieval(Part):
    """Rows "+ retrieval": models asked once more, with passages of a corpus before the question."""

    corpus: LocalPath = Field(default="chimed", description="chimed: 01's texts | a folder of texts")
    k: int = Field(default=3, ge=1, description="passages beside a question")
    models: list[str] | None = Field(default=None, description="rows asked once more; null: the last stage asked")
    benchmarks: list[PaperBenchmark] = Field(default=["cmexam"], description="where; paper's second version: CMExam")
    controls: bool = Field(default=True, description="rows with passages by chance, and with the item's explanation")
    dense: str | None = Field(default=None, description="a sentence-transformers model beside BM25: folder | hub id")


class Judge(Part):
    """Answers to an open benchmark judged: every two of an item in both orders, or each by itself."""

    by: str = Field(description="a baseline | longer, first: the controls, which need no model and compare")
    models: list[str] | None = Field(default=None, description="rows judged; null: the stages asked")
    preset: str = Field(
        default="zhongjing",
        description="compares: zhongjing, huatuo2, pediatrics; scores: disc, medalign, cmcoqa; healthbench: criteria",
    )
    benchmark: JudgedBenchmark = Field(default="huatuo", description="whose answers are judged")
    max_items: int | None = Field(default=None, ge=1, description="the first so many items; null: all")
    max_new_tokens: NewTokens = 512


class Patient(Part):
    """Who answers the models in the conversations of the benchmark `patients`, and how long."""

    by: str | None = Field(default=None, description="a baseline at an endpoint; null: lines of the patient's record")
    exchanges: int = Field(default=4, ge=1, description="turns of the model; the last is its advice")


class Evaluate(Asking):
    """06_eval (paper §4.1, §4.3)."""

    models: list[str] = Field(description="what answers: base, and trainings of the chain")
    benchmarks: list[PaperBenchmark] = Field(description="which of the paper's three are asked")
    further_benchmarks: list[FurtherBenchmark] | None = Field(description="other sets; null: all that are there")
    protocols: list[Literal["fixed", "released"]] = Field(min_length=1, description="ours; the authors' with defects")
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
    ask_errors_again: bool = Field(default=False, description="prompts that a server refused are asked once more")
    medalign_endpoints: list[BaselineName] = Outside(
        default=[], description="baselines at an endpoint to which MedAlign's records may be sent"
    )
    perplexity: bool = Field(default=False, description="of open benchmarks' references, where transformers answers")
    patient: Patient = Field(default=Patient(), description="the simulated patient of `patients`")
    judge: Judge | None = Field(default=None, description="answers judged; null: none")
    retrieval: Retrieval | None = Field(default=None, description="passages beside the question; null: no such rows")
    tokenisation: Literal["char", "jieba"] = Field(description="of BLEU and ROUGE; moves them by about 20 points")


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
    vllm_python: VllmPython
    batch_size: AskedTogether
    max_items: int | None = Field(ge=1, description="held-out questions in the comparison of policies; null: all")
    bootstrap_resamples: Resamples


Label = Literal["letters", "digits", "lower_case", "heavenly_stems"]


class Bias(Asking):
    """09_bias: attitude scales (ChiMed-GPT, arXiv 2311.06025) with the controls that the original lacks."""

    models: list[str] = Field(description="what answers: base, trainings of the chain, rejection_sampling, rl")
    scales: list[LocalPath] = Field(min_length=1, description="scales of the kit, or paths of YAML files of that form")
    protocols: list[Literal["next_token", "generation"]] = Field(min_length=1, description="how an option is chosen")
    option_orders: int = Field(ge=1, description="orders of the options, the given one first")
    labels: list[Label] = Field(min_length=1, description="what the options are called")
    paraphrases: bool = Field(description="ask the scale's paraphrases too")
    max_new_tokens: NewTokens


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
