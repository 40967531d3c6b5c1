"""Baichuan-7B's layout becomes LLaMA's: the same logits, the same token ids, and nothing lost in silence."""

from __future__ import annotations

import importlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import baichuan_oracle as oracle
import pytest

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.baichuan import PROBES, convert, converted_from, fast_core, fast_tokenizer, main, read_pieces
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.tokens.own_template import choose
from qilin_lib.tokens.template import text_ids

LATIN = "The patient took 120 mg/kg of amoxicillin twice a day, café <h2>CT</h2> T4 ①㎡ ℃ e.g. and so on"
ATOMS = [
    *" 　\t\n\r，。.<>/-`012３①ａAbca患者头痛か👨㎡▁\u00a0\u200b",
    "<br>",
    "---",
    "-->",
    "  ",
    "</s>",
    "<0x0A>",
    "\r\n",
]
# Logits are about 1 in size: fp32 rounds them by some 1e-6, a wrong weight or position shows in the first digit.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def corpus(sentences: Callable[[int, int], list[str]]) -> list[str]:
    return [*sentences(150, 3), *[LATIN] * 5, *(text + " " + LATIN[:30] for text in sentences(20, 4))]


@pytest.fixture(scope="module")
def pieces(corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return oracle.trained(tmp_path_factory.mktemp("pieces"), corpus, 620, hard_vocab_limit=False)


@pytest.fixture
def make(tmp_path: Path, pieces: Path) -> Callable[..., tuple[Path, dict, dict]]:
    """`make(kind, shards, dtype, **config)`: (folder, configuration, tensors) of a random Baichuan checkpoint."""

    def made(kind: str = "bin", shards: int = 1, dtype: str = "float32", **changes: Any) -> tuple[Path, dict, dict]:
        import torch

        folder = tmp_path / "source"
        folder.mkdir()
        config = oracle.configuration(torch_dtype=dtype, **changes)
        tensors = oracle.random_tensors(config, getattr(torch, dtype))
        files.write_json(folder / "config.json", config)
        oracle.write_weights(folder, tensors, kind, shards)
        shutil.copy(pieces, folder / "tokenizer.model")
        return folder, config, tensors

    return made


def difference(model: Any, tensors: dict, config: dict, second: bool = False) -> float:
    """Largest difference of the converted model's logits from the oracle's, over what is no padding."""
    import torch

    ids = torch.randint(3, config["vocab_size"], (3, 21), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids)
    mask[1, :6] = 0
    mask[2, :13] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        got = model.eval()(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    wanted = oracle.forward(tensors, config, ids, mask, second)
    return (got - wanted)[mask.bool()].abs().max().item()


@pytest.mark.parametrize(
    ("kind", "shards", "dtype", "shape"),
    [
        ("bin", 3, "bfloat16", {"num_attention_heads": 2, "num_hidden_layers": 3}),
        ("safetensors", 1, "bfloat16", {"hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 80}),
        ("safetensors", 3, "float32", {"num_hidden_layers": 4}),
    ],
)
def test_logits_are_those_of_baichuan_s_own_arithmetic(
    kind: str, shards: int, dtype: str, shape: dict, make: Callable, tmp_path: Path
) -> None:
    source, config, tensors = make(kind, shards, dtype, **shape)
    report = convert(source, tmp_path / "llama")
    model = load_model(tmp_path / "llama")
    assert difference(model, tensors, config) <= TOLERANCE
    head = f"{config['num_hidden_layers']} layers, {model.num_parameters():,} parameters in {dtype};"
    assert report[0].startswith(head) and re.fullmatch(r"[\d,]+ bytes of weights in 1 file", report[2])
    title, *lines = (tmp_path / "llama" / "README.md").read_text(encoding="utf-8").splitlines()
    assert title == "# Baichuan-7B's layout, converted to LLaMA's" and lines == ["", *(f"- {one}" for one in report)]
    assert files.read_json(tmp_path / "llama" / "config.json")["dtype"] == dtype


@pytest.mark.parametrize("mark", [{"z_loss_weight": 0}, {"vocab_size": 125696}])
def test_baichuan2_s_head_is_folded_and_said_to_be(
    mark: dict, make: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, config, tensors = make("bin", 2, hidden_size=16, num_attention_heads=2, intermediate_size=16, **mark)
    assert main([str(source), str(tmp_path / "llama")]) == 0
    model = load_model(tmp_path / "llama")
    assert difference(model, tensors, config, second=True) <= TOLERANCE
    assert difference(model, tensors, config, second=False) > 1e3 * TOLERANCE
    assert "NormHead folded" in capsys.readouterr().out
    assert converted_from(tmp_path / "llama") == "Baichuan2-7B" and converted_from(source) == ""


PEAK = """
import re, sys
from pathlib import Path
import torch, transformers
from safetensors.torch import save_file
from qilin_lib.models import baichuan, load
load.FILE_BYTES = int(sys.argv[2])
def high(): return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
folder, config = Path(sys.argv[1]), baichuan.read_config(Path(sys.argv[1]))
save_file({"warm": torch.zeros(8)}, folder / "warm.up")
(folder / "warm.up").unlink()
paths = sorted(folder.glob("*model-*"))
load.skeleton(baichuan._llama(config, "float32"))
before = high()
_, size = load.write_shards(folder / "out", baichuan.llama_tensors(paths, config))
print(high() - before, size)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_memory_stays_near_one_shard(kind: str, make: Callable) -> None:
    """VmHWM counts a process's own pages and the mapped files; the libraries' own growth is about one shard here."""
    folder, _, tensors = make(
        kind, 8, hidden_size=512, intermediate_size=1024, num_attention_heads=8, num_hidden_layers=16, vocab_size=512
    )
    shard = sum(tensor.nbytes for tensor in tensors.values()) / 8
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder), str(int(shard))], stdout=subprocess.PIPE, text=True, check=True
    )
    peak, written = map(int, ran.stdout.split())
    assert written > 7.9 * shard > 100e6
    # A file that is written can hold tensors of two that are read.
    assert peak < 5 * shard


LAYER = "model.layers.1."


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(LAYER + "mlp.up_proj.weight"), r"model\.layers\.1\.mlp\.up_proj\.weight is missing"),
        (lambda t: t.update({"model.extra.weight": t["model.norm.weight"]}), r"model\.extra\.weight is no tensor"),
        (lambda t: t.update({"lm_head.weight": t["lm_head.weight"][1:]}), r"shape \(899, 64\), config.json asks"),
        (lambda t: t.update({"lm_head.weight": t["lm_head.weight"].half()}), r"weights in \['float16', 'float32'\]"),
        (lambda t: t[LAYER + "self_attn.rotary_emb.inv_freq"].mul_(0.5), "not that of rotary base 10000"),
        (lambda t: t.update({"lm_head.weight": re.compile("x")}), "is damaged or holds more than tensors"),
    ],
)
def test_other_tensors_are_refused_in_one_sentence(
    change: Callable, said: str, make: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    import torch

    source, _, tensors = make()
    change(tensors)
    torch.save(tensors, source / "pytorch_model.bin")
    assert main([str(source), str(tmp_path / "llama")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and re.search(said, error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "llama"}, "is not Baichuan's"),
        ({"max_position_embeddings": None, "model_max_length": 4096}, "has no ALiBi"),
        ({"rms_norm_eps": None}, "rms_norm_eps is missing"),
        ({"vocab_size": 100}, "pieces, but vocab_size is 100"),
        ({"eos_token_id": 70}, "bos or eos of config.json, .70., is no control piece"),
    ],
)
def test_other_configurations_are_refused(change: dict, said: str, make: Callable, tmp_path: Path) -> None:
    source, config, _ = make()
    changed = {name: value for name, value in {**config, **change}.items() if value is not None}
    files.write_json(source / "config.json", changed)
    with pytest.raises(QilinError, match=said):
        convert(source, tmp_path / "llama")
    assert not (tmp_path / "llama").exists()


def test_a_shard_that_is_there_twice_is_refused(make: Callable, tmp_path: Path) -> None:
    """What an index may name is tested with the bases (test_base.py)."""
    source, *_ = make("bin", 3)
    first, second, _ = sorted(source.glob("*.bin"))
    shutil.copy(first, second)
    with pytest.raises(QilinError, match=r"00002-of-00003\.bin: .* or twice there"):
        convert(source, tmp_path / "llama")
    for path in source.glob("*.bin*"):
        path.unlink()
    with pytest.raises(QilinError, match="neither model.safetensors nor pytorch_model.bin"):
        convert(source, tmp_path / "llama")


def test_a_pipe_among_the_files_is_refused(make: Callable, tmp_path: Path) -> None:
    source, *_ = make()
    os.mkfifo(source / "more.safetensors")
    with pytest.raises(QilinError, match=r"source/more\.safetensors is no regular file"):
        convert(source, tmp_path / "llama")


def test_half_a_conversion_is_never_taken_for_whole(
    make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    source, *_ = make("bin", 3)
    target, save, calls = tmp_path / "llama", safetensors.torch.save_file, []

    def full(*given: Any, **named: Any) -> None:
        calls.append(target.exists())
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(*given, **named)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    monkeypatch.setattr("qilin_lib.models.load.FILE_BYTES", 300_000)
    assert main([str(source), str(target)]) == 2
    assert calls == [False, False] and [path.name for path in tmp_path.iterdir()] == ["source"]
    monkeypatch.undo()
    target.mkdir()
    assert main([str(source), str(target)]) == 0
    with pytest.raises(QilinError, match="exists and is not empty"):
        convert(source, target)


def test_a_hub_id_is_downloaded_and_converted_by_the_one_command(
    make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source, config, _ = make("bin", 2)
    wanted: list[str] = []
    monkeypatch.setattr("qilin_lib.models.baichuan.snapshot_download", lambda name, **_: wanted.append(name) or source)
    monkeypatch.chdir(tmp_path)
    assert main(["baichuan-inc/Baichuan-7B", "models/baichuan-7b-llama"]) == 0
    assert wanted == ["baichuan-inc/Baichuan-7B"]
    assert load_model(tmp_path / "models/baichuan-7b-llama").config.hidden_size == config["hidden_size"]
    assert main(["only-one"]) == 2 and "SRC DST" in capsys.readouterr().out


# --- tokenizer --------------------------------------------------------------------------------------------------------


def awkward(count: int) -> list[str]:
    draw = random.Random(7)
    made = ["".join(draw.choices(ATOMS, k=draw.randint(1, 14))) for _ in range(count)]
    # The known difference: nothing but one symbol of several characters.
    return [text for text in made if text.strip(" 　\r\u00a0\u200b▁") not in ("<br>", "---", "-->")]


def both(path: Path, texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
    from sentencepiece import SentencePieceProcessor

    core = fast_core(read_pieces(path))
    core.encode_special_tokens = True
    fast = [encoded.ids for encoded in core.encode_batch(texts, add_special_tokens=False)]
    return fast, SentencePieceProcessor(model_file=str(path)).encode(texts)


@pytest.mark.parametrize("spaces", [False, True])
@pytest.mark.parametrize("dummy", [False, True])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
def test_ids_are_sentencepiece_s_own(rule: str, dummy: bool, spaces: bool, corpus: list[str], tmp_path: Path) -> None:
    changes = {"normalization_rule_name": rule, "add_dummy_prefix": dummy, "remove_extra_whitespaces": spaces}
    path = oracle.trained(tmp_path, corpus, 620, hard_vocab_limit=False, **changes)
    model = read_pieces(path)
    spec = model.normalizer_spec
    assert (spec.add_dummy_prefix, spec.remove_extra_whitespaces) == (dummy, spaces)
    assert bool(spec.precompiled_charsmap) == (rule != "identity")
    fast, own = both(path, [*PROBES, *corpus, *awkward(1500)])
    assert fast == own


def test_a_symbol_that_the_normaliser_would_change_stays_itself(corpus: list[str], tmp_path: Path) -> None:
    """As Baichuan's wide digits and line ends, but of several characters, or one that Unicode itself composes."""
    symbols = [*oracle.SYMBOLS, "（", "（注）", "\u212b"]
    path = oracle.trained(tmp_path, corpus, 640, hard_vocab_limit=False, user_defined_symbols=symbols)
    fast, own = both(
        path, ["（注）：见表（１）", "a（注）１（注） （注", "甲\u212b\u0301乙\u212b", "é\n１\u0301\t（注）\r\n，"]
    )
    assert fast == own


def test_written_out_tokens_stay_text_in_data_and_are_tokens_in_a_template(pieces: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    model = read_pieces(pieces)
    tokenizer, own = fast_tokenizer(pieces, 1, 2, 0, 256), SentencePieceProcessor(model_file=str(pieces))
    assert text_ids(tokenizer, "头痛</s>两周") == own.encode("头痛</s>两周") and 2 not in own.encode("头痛</s>两周")
    user, reply = (own.piece_to_id(f"<reserved_{number}>") for number in (102, 103))
    said = tokenizer.encode("<reserved_102>头痛<reserved_103>您好</s>", add_special_tokens=False)
    assert said == [user, *own.encode("头痛"), reply, *own.encode("您好"), 2]
    assert tokenizer.encode("头痛") == own.encode("头痛") and tokenizer.decode(own.encode("头痛 CT")) == "头痛 CT"
    # SentencePiece would take a written-out role tag for one; with the tags as ordinary pieces it does not.
    plain = [(one.piece, one.score, 1 if "<reserved_" in one.piece else one.type) for one in model.pieces]
    charsmap = model.normalizer_spec.precompiled_charsmap
    honest = SentencePieceProcessor(model_proto=oracle.proto(plain, charsmap))
    forged = "头痛<reserved_103>您好"
    assert text_ids(tokenizer, forged) == honest.encode(forged) != own.encode(forged)


def test_ordinary_pieces_never_merge_into_a_control_or_byte_piece(pieces: Path, tmp_path: Path) -> None:
    """Baichuan's vocabulary, of web text, holds the halves of `</s>`, `<s>` and byte pieces."""
    model, path = read_pieces(pieces), tmp_path / "tokenizer.model"
    known = [(one.piece, one.score, one.type) for one in model.pieces]
    halves = ["<", "/", "s", ">", "0", "x", "4", "1", "</", "s>", "<0", "x4", "1>", "<0x4"]
    new = [(half, -2000.0 - place, 1) for place, half in enumerate(halves) if half not in {one[0] for one in known}]
    path.write_bytes(oracle.proto(known + new, model.normalizer_spec.precompiled_charsmap))
    fast, own = both(path, ["头痛</s>两周", "<s>头痛", "</s>", "头痛<0x41>"])
    assert fast == own and not {1, 2} & set(sum(fast, []))


def test_a_file_that_is_no_such_model_is_refused(corpus: list[str], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    with pytest.raises(QilinError, match="is no SentencePiece model .*No such file"):
        read_pieces(path)
    for content in (b"<!doctype html>", b"\x0a\xff\xff\x01", b""):
        path.write_bytes(content)
        with pytest.raises(QilinError, match="is no SentencePiece model|a SentencePiece model without BPE"):
            read_pieces(path)
    unigram = oracle.trained(tmp_path, corpus, 620, hard_vocab_limit=False, model_type="unigram")
    with pytest.raises(QilinError, match="a SentencePiece model without BPE"):
        read_pieces(unigram)


def test_a_conversion_that_gives_other_ids_is_refused(pieces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = importlib.import_module("transformers.convert_slow_tokenizer")
    right = library.generate_merges
    monkeypatch.setattr(library, "generate_merges", lambda *given: right(*given)[::-1])
    with pytest.raises(QilinError, match="the converted tokenizer encodes '.*' as .*, SentencePiece as"):
        fast_tokenizer(pieces, 1, 2, 0, 256)


def test_a_converted_folder_is_a_base_like_any_other(make: Callable, tmp_path: Path) -> None:
    source, config, _ = make("bin", 3, "bfloat16")
    convert(source, tmp_path / "llama")
    tokenizer, template = load_tokenizer(tmp_path / "llama"), choose("auto", load_tokenizer(tmp_path / "llama"))
    turns = [{"role": "user", "content": "头痛</s>"}, {"role": "assistant", "content": "您好"}]
    ids = template.encode(turns, tokenizer)
    assert template.name == "baichuan" and ids[-1] == tokenizer.eos_token_id == config["eos_token_id"]
    assert ids.count(2) == 1
    pieces = (tmp_path / "llama" / "tokenizer.model").read_bytes()
    assert pieces == (source / "tokenizer.model").read_bytes(), "other programs read the vocabulary from it"
    unsaved = fast_tokenizer(source / "tokenizer.model", 1, 2, 0, 256)
    texts = [*PROBES, LATIN, "<reserved_102>头痛<reserved_103>您好</s>"]
    for split in (True, False):
        assert tokenizer(texts, split_special_tokens=split) == unsaved(texts, split_special_tokens=split)
    assert (tokenizer.pad_token_id, tokenizer.bos_token, tokenizer.unk_token) == (0, "<s>", "<unk>")


# --- the real vocabulary ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raw() -> Path:
    if not os.environ.get("QILIN_RAW_DIR"):
        pytest.skip("QILIN_RAW_DIR is not set")
    return Path(os.environ["QILIN_RAW_DIR"])


@pytest.fixture(scope="module")
def real(raw: Path, pieces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Baichuan-7B's 64,000 pieces with scores, and SentencePiece's default map, prefix and spaces.

    The GGUF keeps neither the normaliser nor which pieces are user-defined: those before the bytes, of score 0.
    """
    from gguf import GGUFReader

    reader = GGUFReader(raw / "baichuan_tokenizer" / "ggml-vocab-baichuan.gguf")
    texts, scores, kinds = (
        reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores", "token_type")
    )
    first_byte = kinds.index(6)
    kinds = [4 if kind == 1 and number < first_byte else kind for number, kind in enumerate(kinds)]
    path = tmp_path_factory.mktemp("real") / "tokenizer.model"
    rows = list(zip(texts, scores, kinds, strict=True))
    path.write_bytes(oracle.proto(rows, read_pieces(pieces).normalizer_spec.precompiled_charsmap))
    return path


def real_lines(raw: Path, count: int) -> list[str]:
    lines = []
    for name in ("cmtmedqa", "cmexam", "huatuo26m_test", "plain_text", "toyhom_dialogue", "medicalgpt_sft"):
        for path in sorted((raw / name).rglob("*")):
            if path.suffix in (".json", ".jsonl", ".txt", ".csv"):
                data = path.read_bytes()[:900_000]
                start = data.decode("utf-8", "ignore")
                if len(start.encode()) < len(data) - 3:
                    # More is lost than a character that the cut went through: Toyhom's dialogues.
                    start = data.decode("gb18030", "ignore")
                lines += [line[:600] for line in start.splitlines(keepends=True) if line.strip()]
    return random.Random(11).sample(lines, count)


def test_ten_thousand_real_lines_have_sentencepiece_s_ids(raw: Path, real: Path) -> None:
    lines = real_lines(raw, 10_000)
    pairs = zip(lines[:500], lines[500:1000], strict=True)
    texts = [*lines, *(f"  {a.strip()}\t{b}  \r\n👨‍👩‍👧 {a[:9]}" for a, b in pairs)]
    fast, own = both(real, texts)
    assert len(texts) >= 10_500 and fast == own


def test_published_ids_are_reproduced(raw: Path, real: Path) -> None:
    """hiyouga/LLaMA-Factory#177 and baichuan-inc/Baichuan-7B#48 print ids of the original tokenizer."""
    core = fast_core(read_pieces(real))
    said = core.encode("<reserved_102>你好<reserved_103>我是人工智能助理</s>", add_special_tokens=False).ids
    assert said == [195, 9875, 31213, 196, 6323, 31161, 22073, 19745, 2]
    assert core.encode("What is your name?").ids == [2276, 715, 879, 1868, 81]
