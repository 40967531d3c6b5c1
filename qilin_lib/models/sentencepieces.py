"""A SentencePiece BPE model as a fast tokenizer (`tokenizers`) that gives SentencePiece's own ids.

transformers' LlamaConverter is not used: it assumes piece types, spaces and merges of LLaMA. It makes merges into
control and byte pieces, ignores the model's normaliser, and lets added tokens swallow the dummy prefix.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from qilin_lib.errors import QilinError

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
