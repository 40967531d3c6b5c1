"""Base models of published families, scaled down: what makes each of them special is there, its size is not.

Soft caps, windows, partial rotary, tied embeddings, logit scales and fused matrices as in the configurations that their
publishers give; special tokens by their names. Widths are multiples of 64, so that NF4 works on a CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models import baichuan_oracle

from qilin_lib import files
from qilin_lib.models import baichuan

COMMON = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.1,
}  # fmt: skip
SYMPTOMS = ("咳嗽发热", "头痛恶心", "血压偏高", "胃痛", "糖尿病", "肺炎", "皮疹", "失眠", "胸闷气短")
# Shorter than the rows and the documents of the tests.
WINDOW = 8
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0}
LLAMA3 |= {"original_max_position_embeddings": 128, "rope_theta": 500000.0}
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": WINDOW, "tie_word_embeddings": True}
GLM = {"head_dim": 16, "partial_rotary_factor": 0.5, "attention_bias": True}
# Family: class of its configuration, what it sets.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3": ("LlamaConfig", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", {"sliding_window": WINDOW, "use_sliding_window": False, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "mistral": ("MistralConfig", {"sliding_window": WINDOW}),
    "gemma2": ("Gemma2Config", {**GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
    "gemma3": ("Gemma3TextConfig", {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]}),
    "glm": ("GlmConfig", GLM),
    "glm4": ("Glm4Config", GLM),
    "phi3": ("Phi3Config", {"sliding_window": WINDOW}),
    "cohere": ("CohereConfig", {"logit_scale": 0.0625}),
    "granite": (
        "GraniteConfig",
        {
            "logits_scaling": 8.0,
            "attention_multiplier": 0.0625,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
        },
    ),
    "gpt_oss": (
        "GptOssConfig",
        {"head_dim": 32, "sliding_window": WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "gpt2": ("GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "bloom": ("BloomConfig", {"n_layer": 2, "n_head": 4}),
    "mamba": ("MambaConfig", {"state_size": 8}),
}
# What each publisher calls the tokens that the tiny tokenizer has by other names; None: the family has none.
TOKENS: dict[str, dict[str, str | None]] = {
    "llama3": {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "unk": None, "pad": None},
    "qwen2": {"bos": None, "eos": "<|endoftext|>", "unk": None, "pad": "<|endoftext|>"},
    "mistral": {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": None},
    "gemma2": {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>"},
    "glm": {"bos": None, "eos": "<|endoftext|>", "unk": None, "pad": "<|endoftext|>"},
    "phi3": {"bos": "<s>", "eos": "<|endoftext|>", "unk": "<unk>", "pad": "<|endoftext|>"},
}
LIKE = {"qwen3": "qwen2", "gemma3": "gemma2", "glm4": "glm", "cohere": "gemma2", "granite": "qwen2"}
LIKE |= {"gpt_oss": "qwen2", "gpt2": "qwen2", "bloom": "mistral", "mamba": "qwen2"}
# They take no positions, or give their masks none (transformers 5.23): a row is one text to them.
ONE_TEXT = ("bloom", "mamba", "gpt_oss")
PUBLISHED = [
    "llama3", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "glm", "glm4", "phi3", "baichuan", "baichuan2",
]  # fmt: skip
FAMILIES = [*PUBLISHED, *(name for name in CONFIGS if name not in (*PUBLISHED, *ONE_TEXT))]
# Their own layout, which the kit's converter turns into LLaMA's; what sets them apart in config.json.
BAICHUAN: dict[str, dict[str, Any]] = {"baichuan": {}, "baichuan2": {"z_loss_weight": 0}}


def configuration(family: str, vocabulary: int, **changes: Any) -> Any:
    """transformers' configuration of `family` with that many words."""
    import transformers

    kind, own = CONFIGS[family]
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    return getattr(transformers, kind)(**COMMON | ids | own | {"vocab_size": vocabulary} | changes)


def renamed(family: str, tokenizer: Any) -> Any:
    """The tiny tokenizer with the special tokens of `family`."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    names = TOKENS[LIKE.get(family, family)]
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    ours = {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>"}
    for kind, old in ours.items():
        new = names[kind]
        if new and new != old and new not in state["model"]["vocab"]:
            state["model"]["vocab"][new] = state["model"]["vocab"].pop(old)
            for token in state["added_tokens"]:
                token["content"] = new if token["content"] == old else token["content"]
    if names["unk"] is None or names["unk"] != state["model"].get("unk_token"):
        state["model"]["unk_token"] = names["unk"]
    special = {f"{kind}_token": name for kind, name in names.items() if name}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **special)


def base(family: str, tokenizer: Any, folder: Path, seed: int = 5, **changes: Any) -> Path:
    """A folder with random weights, configuration and tokenizer of `family`, as its publisher would lay it out."""
    import torch
    from transformers import AutoModelForCausalLM

    if family in BAICHUAN:
        return converted(family, folder)
    config = configuration(family, len(tokenizer), **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (byte_level() if family == "qwen2" else renamed(family, tokenizer)).save_pretrained(folder)
    return folder


def converted(family: str, folder: Path) -> Path:
    """A random checkpoint in Baichuan's layout with a SentencePiece model, through the kit's converter."""
    source = folder.with_name(f"{folder.name}-source")
    source.mkdir()
    config = baichuan_oracle.configuration(**BAICHUAN[family])
    files.write_json(source / "config.json", config)
    baichuan_oracle.write_weights(source, baichuan_oracle.random_tensors(config), "safetensors", 1)
    texts = [f"患者{one}三天，{other}，建议多喝水休息。" for one in SYMPTOMS for other in SYMPTOMS]
    baichuan_oracle.trained(source, texts, 620, hard_vocab_limit=False)
    baichuan.convert(source, folder)
    return folder


def byte_level() -> Any:
    """Qwen2's tokenizer without merges: a token per byte. transformers takes its own class for this model type."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    names = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return Qwen2Tokenizer(vocab={name: place for place, name in enumerate(names)}, merges=[])


def wide_weights(shape: Any, tokenizer: Any) -> Any:
    """A LLaMA with large random weights: attention is far from uniform, so that a neighbour that is seen, or a token at
    a wrong place, changes every number."""
    import torch

    from qilin_lib.models.tiny import new_model

    model, draw = new_model(shape, tokenizer, 3).eval(), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.2, generator=draw)
    return model
