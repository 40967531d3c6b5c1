"""Can the model in a folder be loaded, trained and asked? Found out from configuration, tokenizer and file headers.

No weight is read: a 7B is looked at in seconds, before anything is built on it.
"""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.errors import QilinError, sentence
from qilin_lib.models.load import from_files, load_tokenizer, weight_files

POINTER = b"version https://git-lfs"
# Chinese, English and digits: some tokenizer knows only one of them.
SAMPLE = "咳嗽 cough 12"
# Of what a configuration counts by these names no published model has more.
MOST = 4096
COUNTS = ("layer", "layers", "experts", "labels")


def why_unusable(folder: Path, sequence: bool = True) -> str:
    """Why nothing can be done with the model in `folder`, and what could be done; "" if it is fit for use.

    An encoder-decoder, a model that also reads images, and quantised weights are fit only with `sequence`, for being
    asked. Looks at everything that loading would look at, except weights.
    """
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix not in (".json", ".model", ".safetensors") or not path.is_file():
                continue
            with open(path, "rb") as file:
                begun = file.read(len(POINTER))
            if begun == POINTER:
                raise QilinError(f"{path.name} is a git-lfs pointer, not the file itself; run git lfs pull in there")
        config = configuration(folder)
        _check_kind(config, sequence)
        _check_tensors(folder, config)
        _check_tokenizer(folder, config)
    except QilinError as reason:
        return str(reason)
    return ""


def context(config: Any) -> int | None:
    """Tokens that a model of this configuration can read; None if it names no limit (ALiBi)."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def configuration(folder: Path) -> Any:
    """transformers' configuration of the model in `folder`; QilinError if there is none that it knows by itself."""
    from transformers import AutoConfig

    kind = read_config(folder).get("model_type")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    # Whatever a configuration from elsewhere makes transformers raise.
    except Exception as reason:
        cure = "a folder with config.json of a model type that transformers has"
        if kind == "baichuan":
            cure = f"what `python -m qilin_lib.models.baichuan {folder} TARGET` writes"
        raise QilinError(
            f"{folder}: transformers cannot read config.json of model_type {kind!r} without code from the folder, "
            f"which the kit never runs ({sentence(reason)}); nearest valid: {cure}"
        ) from None


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of the model in `folder`; QilinError if there is none, if a file of the folder is a pipe or a device,
    and for more layers, experts or labels than a model has, which would fill the memory before a weight is read."""
    for path in sorted(folder.iterdir()):
        files.regular(path)
    path = folder / "config.json"
    if not path.exists():
        if (folder / "adapter_config.json").exists():
            raise QilinError(f"{folder}: holds a LoRA adapter alone; nearest valid: the folder of the merged model")
        # The folder of a hub's cache has snapshots.
        found = [*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json")]
        below = sorted(str(path.parent.relative_to(folder)) for path in found)
        raise QilinError(
            f"{folder}: has no config.json; nearest valid: {below or 'a folder that save_pretrained wrote'}"
        )
    config = files.read_json(path)
    if not isinstance(config, dict):
        raise QilinError(f"{path} is no JSON object; nearest valid: the file as published")
    _check_counts(config, path)
    return config


def _check_counts(config: dict[str, Any], path: Path) -> None:
    for name, value in config.items():
        if isinstance(value, dict):
            _check_counts(value, path)
        elif isinstance(value, int) and value > MOST and name.endswith(COUNTS):
            raise QilinError(f"{path}: {name} is {value:,}; nearest valid: a model of at most {MOST:,}")


def _check_kind(config: Any, sequence: bool) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as causal
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as names

    if not sequence and (quantised := getattr(config, "quantization_config", None)):
        raise QilinError(
            f"its weights are quantised ({quantised.get('quant_method')}), and no adapter can be merged into those; "
            "nearest valid: the same model unquantised, with finetuning: qlora, which quantises as it loads"
        )
    named = config.architectures or ["none named"]
    text = config.get_text_config()
    if config.is_encoder_decoder:
        if not sequence:
            raise QilinError("it is an encoder-decoder; nearest valid: a causal model (…ForCausalLM)")
    elif not set(named) & set(names.values()):
        raise QilinError(
            f"its architecture ({', '.join(named)}) writes no text; nearest valid: a causal (…ForCausalLM) or an "
            "encoder-decoder model (…ForConditionalGeneration)"
        )
    elif text is not config:
        if not sequence:
            kind = text.model_type.removesuffix("_text").capitalize()
            raise QilinError(
                f"a {config.model_type} also has a vision or audio part, which LoRA and merging would reach; nearest "
                f"valid: its text part alone, {kind}ForCausalLM.from_pretrained(folder).save_pretrained(target)"
            )
    elif "past_key_values" not in signature(causal[type(config)].forward).parameters:
        raise QilinError(
            f"a {config.model_type} keeps no keys and values of what it has read, so the kit's decoding cannot ask it; "
            "nearest valid: a model with attention layers"
        )


def _check_tensors(folder: Path, config: Any) -> None:
    """Every weight of the model is in its files, in the size that config.json says (`load.from_files`)."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    for path in weight_files(folder):
        tensors_of(path)
    # Packed, which says nothing of their sizes.
    if hasattr(config, "quantization_config"):
        return
    try:
        # Headers alone are read.
        from_files(
            AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM, folder, device_map="meta"
        )
    except QilinError:
        raise
    # Whatever a model from elsewhere makes transformers raise.
    except Exception as reason:
        raise QilinError(
            f"transformers cannot load it ({sentence(reason)}); nearest valid: the folder as published"
        ) from None


def tensors_of(path: Path) -> dict[str, list[int]]:
    """Shapes by name of the tensors in a safetensors file; QilinError unless it is as long as its header says."""
    from safetensors import SafetensorError, safe_open

    try:
        # "np" imports no torch; of a tensor only its shape is asked.
        with safe_open(path, "np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as reason:
        raise QilinError(
            f"{path.name} ({path.stat().st_size:,} bytes) is cut or no safetensors file ({reason}); nearest valid: "
            "download it again"
        ) from None


def _check_tokenizer(folder: Path, config: Any) -> None:
    from tokenizers import Tokenizer

    try:
        tokenizer = load_tokenizer(folder)
    # tokenizers raises bare Exceptions for a file that it cannot parse.
    except Exception as reason:
        raise QilinError(
            f"no tokenizer can be read from the folder ({sentence(reason)}); nearest valid: the model's tokenizer as "
            "published, copied into it"
        ) from None
    if tokenizer.eos_token_id is None:
        raise QilinError(
            "its tokenizer names no end token, so no answer would end; nearest valid: a copy of the folder with "
            "eos_token in tokenizer_config.json ([SEP] for a BERT vocabulary)"
        )
    # For some model types transformers takes a class of its own, whatever kind of tokenizer tokenizer.json holds.
    if (folder / "tokenizer.json").exists():
        plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
        kept = set(plain.decode(plain.encode(SAMPLE, add_special_tokens=False).ids)) & set(SAMPLE)
        if lost := kept - set(tokenizer.decode(tokenizer.encode(SAMPLE, add_special_tokens=False))):
            raise QilinError(
                f"its tokenizer, which transformers reads as a {type(tokenizer).__name__} because of model_type "
                f"'{config.model_type}', loses {sorted(lost)} of {SAMPLE!r}, which tokenizer.json knows; nearest "
                "valid: the tokenizer that was published with this model type"
            )
    largest, rows = max(tokenizer.get_vocab().values()), config.get_text_config().vocab_size
    if largest >= rows:
        raise QilinError(
            f"its tokenizer has ids up to {largest} ({largest + 1} tokens), but the model's embeddings have {rows} "
            f"rows; nearest valid: model.resize_token_embeddings({largest + 1}), saved, or the tokenizer as published"
        )
