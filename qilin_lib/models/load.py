"""Load models and tokenizers: safetensors only, no remote code, one place for precision and quantisation.

And write weights file by file, so that no more than one file of them is in memory.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models import attention as documents

# transformers' name for the head of a sequence classifier, of LLaMA's kind and its relatives.
REWARD_HEAD = "score"
INDEX = "model.safetensors.index.json"
# Of a file that is written.
FILE_BYTES = 2 * 2**30


def quiet_libraries() -> None:
    """No progress bars for loading, and none of the warnings that a user of this kit can do nothing about: DeepSpeed's
    that there is no GPU, bitsandbytes' that an optional kernel is missing, peft's use of a renamed attribute."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        # bitsandbytes' torch.compile would import the compiler; on a CPU nothing compiles.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer in a model folder; never runs code that comes with it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def padding(tokenizer: Any) -> Any:
    """The same tokenizer; one without a padding token pads with its end token. Padding is masked by length, never by
    id, so the end token is still learnt."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def weight_files(folder: str | Path, single: str = "model.safetensors") -> list[Path]:
    """The files that a model's weights are loaded from, by name: `single`, or the shards that its index names.

    QilinError for a folder without either, and for an index that names what is missing, of another kind, or elsewhere.
    """
    folder, suffix = Path(folder), Path(single).suffix
    index, config = folder / f"{single}.index.json", folder / "config.json"
    if config.is_file() and b'"transformers_weights"' in config.read_bytes():
        raise QilinError(f"{config}: transformers_weights names other files; nearest valid: a config.json without it")
    if (folder / single).is_file():
        return [folder / single]
    if not index.is_file():
        raise QilinError(
            f"{folder}: holds no {single} and no {index.name}; pickled weights are not loaded; nearest valid: the "
            "same model, converted to safetensors"
        )
    try:
        names = sorted(set(map(str, files.read_json(index)["weight_map"].values())))
    except (LookupError, TypeError, AttributeError):
        names = []
    if not names:
        raise QilinError(f"{index}: has no weight_map; nearest valid: the file as published")
    for name in names:
        if Path(name).name != name or not name.endswith(suffix):
            raise QilinError(f"{index}: names '{name}'; nearest valid: names of {suffix} files in its own folder")
        if not (folder / name).is_file():
            raise QilinError(f"{folder / name}: the index names it, but it is missing; nearest valid: download it too")
    return [folder / name for name in names]


def load_model(
    path: str | Path,
    dtype: str = "float32",
    quantised: bool = False,
    device: str = "cpu",
    attention: str | None = None,
    rewards: bool = False,
) -> Any:
    """A causal language model. `quantised` loads linear layers as NF4 with double quantisation (QLoRA, Dettmers 2023).

    With `rewards` the same weights under a head of one output, a sequence classifier: a head that the folder lacks is
    drawn from torch's generator, and is never quantised, since it is trained as a whole. `dtype` is that of weights,
    or of the arithmetic if quantised. `attention` is transformers' `attn_implementation`, or "documents"
    (`models.attention`). QilinError: weights missing or not safetensors, a family without classifier.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    quiet_libraries()
    if attention == documents.NAME:
        documents.register()
    weight_files(path)
    how = {"dtype": getattr(torch, dtype), "attn_implementation": attention, "device_map": {"": device}}
    if quantised:
        how["quantization_config"] = _nf4(how["dtype"], rewards)
    if rewards:
        _check_classifier(path)
        model = from_files(AutoModelForSequenceClassification, path, REWARD_HEAD, num_labels=1, **how)
    else:
        model = from_files(AutoModelForCausalLM, path, **how)
    # With it on, transformers ignores position ids that restart, and packed documents see each other.
    model.config.use_cache = False
    if quantised:
        _keep_scales(model)
    return model


def from_files(loader: Any, folder: str | Path, head: str = "", **how: Any) -> Any:
    """The model that transformers' `loader` makes of safetensors, without remote code.

    QilinError for a weight that the files lack, but those of `head`, or have in another size than config.json says:
    transformers would draw it at random, and only warn.
    """
    quiet_libraries()
    how |= {"use_safetensors": True, "trust_remote_code": False, "ignore_mismatched_sizes": True}
    model, found = loader.from_pretrained(folder, output_loading_info=True, **how)
    missing = sorted(name for name in found["missing_keys"] if not (head and name.startswith(head)))
    if missing:
        raise QilinError(
            f"{folder}: its weights lack {missing[0]} ({len(missing)} tensors are missing), which would be drawn at "
            "random; nearest valid: config.json and all weights of one and the same model, merged if it is an adapter's"
        )
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        raise QilinError(
            f"{folder}: {name} has shape {list(stored)} in its weights, but config.json says {list(wanted)}; nearest "
            "valid: configuration and weights of one and the same model"
        )
    return model


def _check_classifier(path: str | Path) -> None:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as classifiers

    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if type(config) not in classifiers:
        raise QilinError(
            f"{path}: transformers has no sequence classifier of model type '{config.model_type}', which a reward "
            "model is; nearest valid: a base of another family, such as llama or qwen2"
        )


def _nf4(arithmetic: Any, rewards: bool) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=arithmetic,
        llm_int8_skip_modules=[REWARD_HEAD] if rewards else None,
    )


def _keep_scales(model: Any) -> None:
    """On a CPU with AVX512-BF16, bitsandbytes 0.50.2 rounds the NF4 scales to bfloat16 in place at the first pass in
    evaluation mode: an evaluation would change the weights under the adapter."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def skeleton(config: Any) -> Any:
    """A causal language model of a transformers configuration without weights (meta device): nothing is allocated."""
    import torch
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """The folder `target`, which `make(folder)` fills if it is not there: whole or not at all. Whoever else makes the
    same now does so in a folder of its own, and the first one stays."""
    if target.exists():
        return target
    with files.naming(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
            made = Path(work) / "model"
            make(made)
            try:
                made.rename(target)
            except OSError:
                if not target.exists():
                    raise
    return target


def write_shards(folder: Path, tensors: Iterable[tuple[str, Any]]) -> tuple[int, int]:
    """Write (name, tensor) pairs in their order, with transformers' file names and index; (files, bytes) written.
    QilinError if the disk is full."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    written, names = 0, []
    for part in _parts(tensors):
        try:
            save_file(part, folder / f"{len(names)}.tmp", metadata={"format": "pt"})
        except SafetensorError as reason:
            raise QilinError(f"{folder} cannot be written: {reason}; make room there, and run it again") from None
        names.append(list(part))
        written += sum(tensor.nbytes for tensor in part.values())
    places, count = {}, len(names)
    for number, part in enumerate(names):
        file = "model.safetensors" if count == 1 else f"model-{number + 1:05}-of-{count:05}.safetensors"
        (folder / f"{number}.tmp").rename(folder / file)
        places |= dict.fromkeys(part, file)
    if count > 1:
        files.write_json(folder / INDEX, {"metadata": {"total_size": written}, "weight_map": places})
    return count, written


def _parts(tensors: Iterable[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    """Tensors by name, no more than FILE_BYTES at a time; each dictionary is emptied before the next is filled."""
    part: dict[str, Any] = {}
    for name, tensor in tensors:
        if part and sum(one.nbytes for one in part.values()) + tensor.nbytes > FILE_BYTES:
            yield part
            part.clear()
        # A view would take the whole tensor it is a part of along.
        part[name] = tensor.contiguous().clone() if tensor._is_view() else tensor.contiguous()
    yield part
