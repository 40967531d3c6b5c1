"""A SentencePiece BPE model as a fast tokenizer (`tokenizers`) that gives SentencePiece's own ids.

transformers' LlamaConverter is not used: it assumes piece types, spaces and merges of LLaMA. It makes merges into
control and byte pieces, ignores the model's normaliser, and lets added tokens swallow the dummy prefix.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError

# sentencepiece_model.proto, ModelProto.SentencePiece.Type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"
BREAK = "\U0010fffe"
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


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a `tokenizer.model` holds: [(piece, score, type)] in the order of ids, and how it treats text."""

    pieces: list[tuple[str, float, int]]
    charsmap: bytes
    dummy_prefix: bool
    remove_extra_spaces: bool

    def of(self, *kinds: int) -> list[str]:
        """Pieces of the given types."""
        return [piece for piece, _, kind in self.pieces if kind in kinds]

    @property
    def special(self) -> list[str]:
        """Control pieces, <unk> and Baichuan's <reserved_n>: one id as a token, ordinary text in data."""
        reserved = [piece for piece in self.of(NORMAL, USER_DEFINED) if _RESERVED.fullmatch(piece)]
        return self.of(UNKNOWN, CONTROL) + reserved


def read_pieces(path: Path) -> Pieces:
    """Read a SentencePiece model; QilinError if it is none, no BPE with byte fallback, or of a kind not handled.

    The file is read by its wire format (two levels, five fields), so that no protobuf runtime is needed.
    """
    try:
        parts = list(_fields(path.read_bytes()))
        pieces = [_piece(value) for number, value in parts if number == 1]
        trainer, normalizer = (dict(_fields(b"".join(v for n, v in parts if n == number))) for number in (2, 3))
    except FileNotFoundError:
        raise QilinError(f"{path} does not exist: the tokenizer is converted with the weights") from None
    except (ValueError, TypeError, IndexError, struct.error, UnicodeDecodeError) as reason:
        raise QilinError(f"{path} is no SentencePiece model: {reason}") from None
    needed = {"BPE": trainer.get(3) == 2, "byte fallback": trainer.get(35) == 1, "pieces": bool(pieces)}
    needed |= {"escaped spaces": normalizer.get(5, 1) == 1, "spaces before words": not trainer.get(24)}
    if missing := [name for name, there in needed.items() if not there]:
        raise QilinError(f"{path}: a SentencePiece model without {missing[0]}; only Baichuan's kind is converted")
    found = Pieces(pieces, normalizer.get(2, b""), bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1)))
    if unused := found.of(UNUSED):
        raise QilinError(f"{path}: piece {unused[0]!r} is of type UNUSED, which a fast tokenizer cannot express")
    return found


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protobuf message: an int, four bytes, or bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
        elif tag & 7 in (2, 5):
            size, at = _varint(data, at) if tag & 7 == 2 else (4, at)
            value, at = data[at : at + size], at + size
            if at > len(data):
                raise ValueError("it ends in the middle of a field")
        else:
            raise ValueError(f"byte {at} is no field")
        yield tag >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value, shift, at = value | (data[at] & 127) << shift, shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def _piece(data: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(data))
    return fields[1].decode("utf-8"), struct.unpack("<f", fields.get(2, bytes(4)))[0], fields.get(3, NORMAL)


def merges(model: Pieces) -> list[tuple[str, str]]:
    """Pairs of pieces in SentencePiece's order: by the score of what they make, then by the left one's length.

    Only NORMAL pieces merge. SentencePiece cuts user-defined symbols out first, and control and byte pieces are never
    made from text: with merges into them, a written-out `</s>` would end a record.
    """
    special = set(model.special)
    scores = {piece: score for piece, score, kind in model.pieces if kind == NORMAL and piece not in special}
    found = [
        (-score, rank, cut, piece[:cut], piece[cut:])
        for rank, (piece, score) in enumerate(scores.items())
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return [(left, right) for *_, left, right in sorted(found)]


def protected(charsmap: bytes, symbols: list[str]) -> bytes:
    """A precompiled map that leaves `symbols` alone, as SentencePiece does with its user-defined ones.

    The map is a Darts-clone double array and a blob of NUL-ended results; a symbol's node loses its leaf.
    Raises QilinError for a longer symbol that the map would change inside.
    """
    units, results = _parts(charsmap)
    units += [0] * (-len(units) % 256)
    for symbol in symbols:
        changed = [character for character in symbol if _leaf(units, character.encode("utf-8")) is not None]
        if changed and len(symbol) > 1:
            raise QilinError(f"tokenizer.model: its normaliser changes {changed[0]!r} in the symbol {symbol!r}")
        if changed:
            units[_unshared(units, symbol.encode("utf-8"))] &= ~(1 << 8)
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + results


def _parts(charsmap: bytes) -> tuple[list[int], bytes]:
    size = struct.unpack_from("<I", charsmap)[0]
    return list(struct.unpack_from(f"<{size // 4}I", charsmap, 4)), charsmap[4 + size :]


def _unshared(units: list[int], key: bytes) -> int:
    """Index of the node of `key`, after its path got blocks of its own: the array shares the ends of its keys."""
    at = 0
    for byte in key:
        old, new = at ^ _offset(units[at]), len(units)
        units += [0] * 256
        if units[at] >> 8 & 1:
            units[new] = units[old]
        for label in range(1, 256):
            if (unit := units[old ^ label]) & (1 << 31 | 255) == label:
                children = old ^ label ^ _offset(unit)
                units[new + label] = unit & 511 | (new + label ^ children) << 10
        units[at] = units[at] & 511 | (at ^ new) << 10
        at = new + byte
    return at


def _leaf(units: list[int], key: bytes) -> int | None:
    """Index of the unit that holds the value of `key`."""
    at = _offset(units[0])
    for index, byte in enumerate(key):
        at ^= byte
        unit = units[at]
        if unit & (1 << 31 | 255) != byte:
            return None
        at ^= _offset(unit)
        if index == len(key) - 1:
            return at if unit >> 8 & 1 else None
    return None


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 1 << 9) >> 6)


def _normalizer(model: Pieces, symbols: list[str]) -> Any:
    """SentencePiece's steps in its order: the map, extra spaces, the dummy prefix, spaces as U+2581."""
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if model.charsmap:
        # `Precompiled` replaces a whole grapheme (\r\n, a letter and its accents) by what its first character maps to,
        # so graphemes are taken apart with a noncharacter; the pairs that the map would compose, NFC composes.
        mark = normalizers.Replace(Regex(r"(?<=[\s\S])(?=[\p{M}\u200c\u200d\n])"), BREAK)
        unmark = normalizers.Replace(BREAK, "")
        steps += [normalizers.NFC(), mark, normalizers.Precompiled(protected(model.charsmap, symbols)), unmark]
    if model.remove_extra_spaces:
        steps += [normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.dummy_prefix:
        # An added token's own text passes through here too and must stay what it is.
        longer = "|".join(re.escape(symbol) for symbol in symbols if len(symbol) > 1)
        start = r"\A(?=[\s\S])" + (rf"(?!(?:{longer})\z)" if longer else "")
        steps.append(normalizers.Replace(Regex(start), SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def fast_core(model: Pieces) -> Any:
    """A `tokenizers.Tokenizer` with SentencePiece's normalisation, symbols, merges and byte fallback."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    special = set(model.special)
    symbols = [piece for piece in model.of(USER_DEFINED) if piece not in special]
    vocabulary = {piece: number for number, (piece, _, _) in enumerate(model.pieces)}
    unknown = model.of(UNKNOWN)[0]
    core = Tokenizer(models.BPE(vocabulary, merges(model), unk_token=unknown, byte_fallback=True, fuse_unk=False))
    core.normalizer = _normalizer(model, symbols)
    if single := "".join(re.escape(symbol) for symbol in symbols if len(symbol) == 1):
        core.pre_tokenizer = pre_tokenizers.Split(Regex(f"[{single}]"), "isolated")
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if model.dummy_prefix else steps)
    longer = [symbol for symbol in symbols if len(symbol) > 1]
    core.add_tokens([AddedToken(symbol, normalized=True, special=False) for symbol in longer])
    core.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in model.special])
    return core


def fast_tokenizer(path: Path, bos: int, eos: int, pad: int, max_length: int) -> Any:
    """The `tokenizer.model` at `path` as a PreTrainedTokenizerFast; adds neither bos nor eos, as Baichuan does not.

    Text gives SentencePiece's ids when encoded with split_special_tokens=True. Without it, control pieces and
    <reserved_n> become their one id, and what stands between two of them is encoded as a text of its own, as
    Baichuan's generation code does. Differences known: a text that is nothing but one user-defined symbol of several
    characters, as `---`, has no dummy prefix before it; where the model normalises, accents that pile up on one letter
    may change places, and the noncharacter U+10FFFE is lost. Raises QilinError if bos or eos is no control piece, or
    if any piece or probe gets other ids than SentencePiece's.
    """
    from transformers import PreTrainedTokenizerFast

    model = read_pieces(path)
    for name, number in (("bos", bos), ("eos", eos)):
        if not 0 <= number < len(model.pieces) or model.pieces[number][2] != CONTROL:
            raise QilinError(f"{path}: {name}_token_id {number} of config.json is no control piece")
    unknown = model.of(UNKNOWN)[0]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast_core(model),
        bos_token=model.pieces[bos][0],
        eos_token=model.pieces[eos][0],
        unk_token=unknown,
        pad_token=model.pieces[pad][0],
        additional_special_tokens=[piece for piece in model.special if _RESERVED.fullmatch(piece)],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    _compare(tokenizer, path, model)
    return tokenizer


def _compare(tokenizer: Any, path: Path, model: Pieces) -> None:
    """Every NORMAL piece as a text, and the probes: QilinError at the first whose ids are not SentencePiece's."""
    from sentencepiece import SentencePieceProcessor

    texts = [*PROBES, *(piece for piece in model.of(NORMAL) if not _RESERVED.fullmatch(piece))]
    fast = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    own = SentencePieceProcessor(model_file=str(path)).encode(texts)
    for text, left, right in zip(texts, fast, own, strict=True):
        if left != right:
            raise QilinError(f"{path}: the converted tokenizer encodes {text!r} as {left}, SentencePiece as {right}")
