"""Baichuan-7B without its remote code: `python -m qilin_lib.models.baichuan SRC DST` writes a LLaMA-layout folder.

Baichuan-7B is LLaMA but for one fused projection: `W_pack` holds the query's, key's and value's rows in that order
(baichuan-inc/Baichuan-7B, modeling_baichuan.py). Baichuan2-7B also normalises the rows of its head (arXiv 2309.10305).

Its SentencePiece BPE model becomes a fast tokenizer (`tokenizers`) that gives SentencePiece's own ids. transformers'
LlamaConverter is not used: it assumes piece types, spaces and merges of LLaMA. It makes merges into control and byte
pieces, ignores the model's normaliser, and lets added tokens swallow the dummy prefix.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from huggingface_hub import snapshot_download
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from qilin_lib import files
from qilin_lib.errors import QilinError, nearest
from qilin_lib.models import examine
from qilin_lib.models.load import made_once, skeleton, weight_files, write_shards
from qilin_lib.models.shapes import is_hub_id

SINGLES = ("model.safetensors", "pytorch_model.bin")
NEEDED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "rms_norm_eps",
    "vocab_size",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
# First line of the README.md of a converted folder.
TITLES = {kind: f"# {kind}'s layout, converted to LLaMA's" for kind in ("Baichuan-7B", "Baichuan2-7B")}
FOLDED = (
    "Baichuan2: NormHead folded, the rows of lm_head are L2-normalised once; generation is the same, but training the "
    "head is not: Baichuan2 normalises anew at every step"
)
TYPES = ModelProto.SentencePiece
SPACE = "\u2581"
BREAK = "\U0010fffe"
# The first of the private characters that stand for a symbol while the map works.
PRIVATE = 0x100000
_RESERVED = re.compile(r"<reserved_\d+>")
# Texts that tell tokenizers apart: spaces, line ends, digits, forged tokens, bytes written out, wide and split letters.
PROBES = (
    "你好，世界！123 45.6 mg/kg",
    " a  b   c ",
    "甲\n\n乙\t丙\r\n丁　戊",
    "</s><s><unk><0x0A>",
    "1+1=2；３＋４＝７（①②㎡℃…％）～",
    "<br><table>---> ```py\n",
    "é e\u0301 \uac00 \u1100\u1161 \u304b\u3099 👨‍👩‍👧 ❤️ 𠮷 \u200b\u00a0.",
    "\u2581a\u2581\u2581b",
)


def convert(source: Path, target: Path) -> list[str]:
    """Convert the checkpoint in `source` to a LLaMA-layout folder `target` with a fast tokenizer; lines on what was
    done, which also stand in the folder's README.md.

    Memory stays near one file that is written (2 GB), and `target` appears only when whole. Raises QilinError for
    anything that is not Baichuan-7B's or Baichuan2-7B's layout, for a tensor that is unknown, missing, twice there or
    of another shape, and for a `target` that is not empty.
    """
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if target.exists():
        raise QilinError(f"{target} exists and is not empty: choose a new folder")
    report: list[str] = []
    made_once(target, lambda folder: report.extend(_convert(source, folder)))
    return report


def _convert(source: Path, folder: Path) -> list[str]:
    config, pieces = read_config(source), source / "tokenizer.model"
    special = (config[f"{name}_token_id"] for name in ("bos", "eos", "pad"))
    tokenizer = fast_tokenizer(pieces, *special, config["max_position_embeddings"])
    if len(tokenizer) > config["vocab_size"]:
        raise QilinError(f"{pieces}: {len(tokenizer)} pieces, but vocab_size is {config['vocab_size']}")
    tokenizer.save_pretrained(folder)
    # llama.cpp's converter reads the vocabulary from it.
    shutil.copyfile(pieces, folder / pieces.name)
    # Safetensors before .bin. Which file an index says a tensor is in does not matter: all are read.
    there = [one for one in SINGLES for name in (one, f"{one}.index.json") if (source / name).exists()]
    if not there:
        raise QilinError(f"{source}: neither {' nor '.join(SINGLES)} nor an index of one")
    paths = weight_files(source, there[0])
    found = {tensor.dtype for path in paths for tensor in _tensors(path).values()}
    dtypes = sorted(str(dtype).removeprefix("torch.") for dtype in found)
    if len(dtypes) != 1:
        raise QilinError(f"{source}: weights in {dtypes}; nearest valid: all in one of them")
    shards, written = write_shards(folder, llama_tensors(paths, config))
    llama = _llama(config, dtypes[0])
    llama.save_pretrained(folder)
    size = f"{config['num_hidden_layers']} layers, {skeleton(llama).num_parameters():,} parameters in {dtypes[0]}"
    report = [
        f"{size}; every W_pack split into q, k, v",
        "rotary_emb.inv_freq buffers dropped (rotary base 10000, computed by LLaMA itself)",
        f"{written:,} bytes of weights in {shards} file{'s' if shards > 1 else ''}",
        f"tokenizer: {len(tokenizer)} pieces with SentencePiece's own ids; neither bos nor eos is added, "
        f"pad is {tokenizer.pad_token}",
        *[FOLDED] * is_second(config),
    ]
    title = TITLES["Baichuan2-7B" if is_second(config) else "Baichuan-7B"]
    files.write_text(folder / "README.md", "\n- ".join([f"{title}\n", *report]) + "\n")
    return report


def read_config(source: Path) -> dict[str, Any]:
    """config.json of a Baichuan-7B or Baichuan2-7B folder; QilinError says why another one is refused."""
    path = source / "config.json"
    config = examine.read_config(source)
    if config.get("model_type") != "baichuan":
        raise QilinError(f"{path}: model_type {config.get('model_type')!r} is not Baichuan's")
    if "max_position_embeddings" not in config:
        raise QilinError(f"{path}: LLaMA's layout has no ALiBi, so Baichuan-13B is not converted, only the 7B models")
    if missing := [name for name in NEEDED if config.get(name) is None]:
        raise QilinError(f"{path}: {missing[0]} is missing{nearest(missing[0], config)}")
    return config


def is_second(config: dict[str, Any]) -> bool:
    """Whether a configuration is Baichuan2's, whose head normalises its rows."""
    return "z_loss_weight" in config or config["vocab_size"] == 125696


def _llama(config: dict[str, Any], dtype: str) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        **{name: config[name] for name in (*NEEDED, "max_position_embeddings")},
        num_key_value_heads=config["num_attention_heads"],
        hidden_act="silu",
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=config.get("initializer_range", 0.02),
        dtype=dtype,
        architectures=["LlamaForCausalLM"],
    )


def converted_from(folder: Path) -> str:
    """The model whose layout `convert` read to write a folder, by the title of its README.md; "" for any other."""
    readme = folder / "README.md"
    first = readme.read_text(encoding="utf-8", errors="replace").partition("\n")[0] if readme.is_file() else ""
    return next((kind for kind, title in TITLES.items() if title == first), "")


def _tensors(path: Path) -> dict[str, Any]:
    """The tensors of a file but its rotary buffers, mapped into memory: what is not touched is not read."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError) as reason:
        raise QilinError(f"{path} is damaged or holds more than tensors: {str(reason).splitlines()[0]}") from None
    for name in [name for name in tensors if name.endswith(".rotary_emb.inv_freq")]:
        buffer = tensors.pop(name)
        # Dropping a buffer is right only if it is what LLaMA computes; the tolerance is bfloat16's rounding.
        right = 10000.0 ** -(torch.arange(len(buffer), dtype=torch.float32) / len(buffer))
        if not torch.allclose(buffer.float(), right, rtol=0.01, atol=0.0):
            raise QilinError(f"{path}: {name} is not that of rotary base 10000, a rescaled model is not converted")
    return tensors


def llama_tensors(paths: list[Path], config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of a checkpoint under LLaMA's names; QilinError unless it holds each expected tensor once, in its
    shape.

    W_pack's rows are q, k, v. Of Baichuan2 each row of lm_head is divided by its L2 norm, in fp32.
    """
    import torch

    missing = {name: tuple(tensor.shape) for name, tensor in skeleton(_llama(config, "float32")).state_dict().items()}
    for name in [name for name in missing if "q_proj" in name]:
        rows, *columns = missing[name]
        missing[name.replace("q_proj", "W_pack")] = (3 * rows, *columns)
    missing = {name: shape for name, shape in missing.items() if not re.search("[qkv]_proj", name)}
    for path in paths:
        for name, tensor in _tensors(path).items():
            if name not in missing:
                raise QilinError(f"{path}: {name} is no tensor of Baichuan-7B, or twice there{nearest(name, missing)}")
            shape = missing.pop(name)
            if tuple(tensor.shape) != shape:
                raise QilinError(f"{path}: {name} has shape {tuple(tensor.shape)}, config.json asks for {shape}")
            if "W_pack" in name:
                names = [name.replace("W_pack", f"{part}_proj") for part in "qkv"]
                yield from zip(names, tensor.chunk(3), strict=True)
            elif name == "lm_head.weight" and is_second(config):
                yield name, torch.nn.functional.normalize(tensor.float(), dim=-1).to(tensor.dtype)
            else:
                yield name, tensor
    if missing:
        raise QilinError(f"{paths[0].parent}: {next(iter(missing))} is missing ({len(missing)} tensors are)")


def read_pieces(path: Path) -> ModelProto:
    """A `tokenizer.model`; QilinError if it is none, or no BPE with byte fallback."""
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (FileNotFoundError, DecodeError) as reason:
        raise QilinError(f"{path} is no SentencePiece model ({reason}); it is converted with the weights") from None
    trainer = model.trainer_spec
    if trainer.model_type != trainer.BPE or not trainer.byte_fallback:
        raise QilinError(f"{path}: a SentencePiece model without BPE or byte fallback; only Baichuan's is converted")
    return model


def of_type(model: ModelProto, *types: int) -> list[str]:
    """Pieces of the given types, in the order of ids."""
    return [piece.piece for piece in model.pieces if piece.type in types]


def special_pieces(model: ModelProto) -> list[str]:
    """Control pieces, <unk> and Baichuan's <reserved_n>: one id as a token, ordinary text in data."""
    reserved = filter(_RESERVED.fullmatch, of_type(model, TYPES.NORMAL, TYPES.USER_DEFINED))
    return [*of_type(model, TYPES.UNKNOWN, TYPES.CONTROL), *reserved]


def _normalizer(model: ModelProto, symbols: list[str]) -> Any:
    """SentencePiece's steps in its order: the map, extra spaces, the dummy prefix, spaces as U+2581.

    `Precompiled` replaces a whole grapheme (\\r\\n, a letter and its accents) by what its first character maps to, so
    graphemes are taken apart with a noncharacter; the pairs that the map would compose, NFC composes. SentencePiece
    leaves `symbols` as they are: private characters stand for them.
    """
    from tokenizers import Regex, normalizers

    rule, steps = model.normalizer_spec, []
    if rule.precompiled_charsmap:
        compiled = normalizers.Precompiled(rule.precompiled_charsmap)
        changed = [symbol for symbol in symbols if compiled.normalize_str(symbol) != symbol]
        private = {
            symbol: chr(PRIVATE + number) for number, symbol in enumerate(sorted(changed, key=len, reverse=True))
        }
        steps = [
            *(normalizers.Replace(symbol, stand_in) for symbol, stand_in in private.items()),
            normalizers.NFC(),
            normalizers.Replace(Regex(r"(?<=[\s\S])(?=[\p{M}\u200c\u200d\n])"), BREAK),
            compiled,
            normalizers.Replace(BREAK, ""),
            *(normalizers.Replace(stand_in, symbol) for symbol, stand_in in private.items()),
        ]
    if rule.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if rule.add_dummy_prefix:
        # An added token's own text passes through here too and must stay what it is.
        longer = "|".join(re.escape(symbol) for symbol in symbols if len(symbol) > 1)
        start = r"\A(?=[\s\S])" + (rf"(?!(?:{longer})\z)" if longer else "")
        steps.append(normalizers.Replace(Regex(start), SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def fast_core(model: ModelProto) -> Any:
    """A `tokenizers.Tokenizer` with SentencePiece's normalisation, symbols, merges and byte fallback."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import generate_merges

    special = special_pieces(model)
    symbols = [piece for piece in of_type(model, TYPES.USER_DEFINED) if piece not in special]
    vocabulary = {piece.piece: number for number, piece in enumerate(model.pieces)}
    # Only NORMAL pieces merge: with merges into control and byte pieces, a written-out `</s>` would end a record.
    scores = {p.piece: p.score for p in model.pieces if p.type == TYPES.NORMAL and p.piece not in special}
    unknown, merges = of_type(model, TYPES.UNKNOWN)[0], generate_merges(scores, scores)
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, byte_fallback=True, fuse_unk=False))
    core.normalizer = _normalizer(model, symbols)
    if single := "".join(re.escape(symbol) for symbol in symbols if len(symbol) == 1):
        core.pre_tokenizer = pre_tokenizers.Split(Regex(f"[{single}]"), "isolated")
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    core.decoder = decoders.Sequence(steps)
    longer = [symbol for symbol in symbols if len(symbol) > 1]
    core.add_tokens([AddedToken(symbol, normalized=True, special=False) for symbol in longer])
    core.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
    return core


def fast_tokenizer(path: Path, bos: int, eos: int, pad: int, max_length: int) -> Any:
    """The `tokenizer.model` at `path` as a PreTrainedTokenizerFast; adds neither bos nor eos, as Baichuan does not.

    Text gives SentencePiece's ids when encoded with split_special_tokens=True. Without it, control pieces and
    <reserved_n> become their one id, and what stands between two of them is encoded as a text of its own, as
    Baichuan's generation code does. Differences known: a text that is nothing but one user-defined symbol of several
    characters, as `---`, has no dummy prefix before it; where the model normalises, accents that pile up on one letter
    may change places, the noncharacter U+10FFFE is lost, and private characters from U+100000 on may become symbols.
    Raises QilinError if bos or eos is no control piece, or if any piece or probe gets other ids than SentencePiece's.
    """
    from sentencepiece import SentencePieceProcessor
    from transformers import PreTrainedTokenizerFast

    model = read_pieces(path)
    control = {number for number, piece in enumerate(model.pieces) if piece.type == TYPES.CONTROL}
    if wrong := {bos, eos} - control:
        raise QilinError(f"{path}: bos or eos of config.json, {wrong}, is no control piece; those are {control}")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast_core(model),
        bos_token=model.pieces[bos].piece,
        eos_token=model.pieces[eos].piece,
        unk_token=of_type(model, TYPES.UNKNOWN)[0],
        pad_token=model.pieces[pad].piece,
        additional_special_tokens=list(filter(_RESERVED.fullmatch, special_pieces(model))),
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    # Every NORMAL piece as a text, and the probes.
    texts = [*PROBES, *(piece for piece in of_type(model, TYPES.NORMAL) if not _RESERVED.fullmatch(piece))]
    fast = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    own = SentencePieceProcessor(model_file=str(path)).encode(texts)
    for text, left, right in zip(texts, fast, own, strict=True):
        if left != right:
            raise QilinError(f"{path}: the converted tokenizer encodes {text!r} as {left}, SentencePiece as {right}")
    return tokenizer


def main(arguments: list[str]) -> int:
    """Convert SRC to DST and say what was done; 2 with one sentence when it is refused."""
    if len(arguments) != 2:
        print("usage: python -m qilin_lib.models.baichuan SRC DST")
        print("SRC: Baichuan-7B's or Baichuan2-7B's own files, a folder or a hub id; DST: a new folder, LLaMA's layout")
        return 2
    source, target = map(Path, arguments)
    try:
        if not source.exists() and is_hub_id(arguments[0]):
            wanted = ["*.json", "*.bin", "*.safetensors", "*.model"]
            source = Path(snapshot_download(arguments[0], allow_patterns=wanted))
        started = time.monotonic()
        report = convert(source, target)
    except (QilinError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{target}: written in {time.monotonic() - started:.1f} s", *report, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
