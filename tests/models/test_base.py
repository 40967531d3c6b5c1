"""Which model a run starts from, what base.json says of it, and what notebook 02 refuses first."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from safetensors.torch import load_file, save_file

from qilin_lib import files, sample
from qilin_lib.errors import QilinError
from qilin_lib.models import base
from qilin_lib.models.base import base_path
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.schema_data import Tiny
from qilin_lib.tokens.template import BAICHUAN, template_of
from tests.helpers.chat import published, speaking_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4939116424\n"
INDEX = "model.safetensors.index.json"
Change = Callable[[Path], Any]
# As Mistral's repositories have them.
HOSTED = ["config.json", "model-00001-of-00003.safetensors", "tokenizer.json", "tokenizer.model"]
HOSTED += ["consolidated.safetensors", "pytorch_model.bin", "README.md"]


@pytest.fixture
def prepared(
    tiny_shape: Tiny, sentences: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`prepared(base)`: what 02 makes of it in tmp_path/02, base.json or the sentence that it refuses it with."""
    files.write_jsonl(tmp_path / "01" / "general.jsonl", [{"text": "甲", "split": "heldout"}])
    monkeypatch.setattr(sample, "base_texts", lambda held: (sentences(40, 1), sentences(40, 1)))
    monkeypatch.setattr(base.runs, "cache_dir", lambda: tmp_path / "cache")
    brief = tiny_shape.model_copy(update={"max_steps": 2})

    def make(name: Path | str, block_size: int = 64, template: str = "auto", up_to_date: bool = False) -> Any:
        settings = SimpleNamespace(base=str(name), tiny=brief, template=template, seed=1, block_size=block_size)
        stage: Any = SimpleNamespace(dir=tmp_path / "02", parameters=settings, up_to_date=up_to_date)
        stage.begin, stage.parent = lambda: stage.dir.mkdir(exist_ok=True), lambda _: tmp_path / "01"
        try:
            return base.prepare(stage, lambda line: None)
        except QilinError as error:
            assert not (stage.dir / "base.json").exists()
            return str(error)

    return make


def test_a_folder_is_named_where_it_lies(tiny_model_dir: Path, prepared: Callable, tmp_path: Path) -> None:
    described = prepared(tiny_model_dir)
    assert described == files.read_json(tmp_path / "02" / "base.json")
    assert described["parameters"] == load_model(tiny_model_dir).num_parameters()
    assert (described["template"], described["template_sha256"]) == ("baichuan", BAICHUAN.sha256)
    assert (described["source"], described["converted"]) == ("folder", "")
    assert described["vocabulary"] == len(load_tokenizer(tiny_model_dir))
    assert base_path(tmp_path / "02") == tiny_model_dir.resolve() and not (tmp_path / "02" / "base").exists()
    assert prepared(tiny_model_dir, template="plain")["template"] == "plain"
    assert prepared("never looked at", up_to_date=True)["template"] == "plain"


def test_a_base_speaks_its_tokenizers_own_template(tiny_model_dir: Path, prepared: Callable, tmp_path: Path) -> None:
    folder = speaking_model(tiny_model_dir, tmp_path / "qwen", published("qwen2_5"))
    described = prepared(folder)
    template, tokenizer = template_of(described), load_tokenizer(folder)
    turns = [{"role": role, "content": text} for role, text in [("user", "痛"), ("assistant", "休息"), ("user", "好")]]
    theirs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert described["template"] == "own"
    assert template.encode(turns, tokenizer, add_generation_prompt=True) == theirs


def test_a_template_that_cannot_be_used_is_refused(tiny_model_dir: Path, prepared: Callable, tmp_path: Path) -> None:
    folder = speaking_model(tiny_model_dir, tmp_path / "gptoss", published("gptoss"))
    assert re.match("template 'own': .* nearest valid: 'plain'", prepared(folder))
    assert prepared(folder, template="plain")["template"] == "plain"


def test_tiny_moves_with_its_run(prepared: Callable, tmp_path: Path) -> None:
    described = prepared("tiny")
    assert (described["path"], described["name"], described["source"]) == ("base", "tiny", "kit")
    (tmp_path / "02").rename(tmp_path / "moved")
    assert (base_path(tmp_path / "moved") / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["tinny", "./no/such/folder", "/no/such", "a/b/c", "../x"])
def test_unknown_base_is_one_clear_sentence(name: str, prepared: Callable) -> None:
    assert prepared(name).startswith(f"base = '{name}': neither 'tiny', nor an existing folder, nor a hub id")


@pytest.fixture(scope="module")
def sharded(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in at least three shards."""
    folder = tmp_path_factory.mktemp("sharded") / "base"
    load_model(tiny_model_dir).save_pretrained(folder, max_shard_size="200KB")
    load_tokenizer(tiny_model_dir).save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) >= 3
    return folder


def edit(folder: Path, name: str, change: Callable[[dict], Any]) -> None:
    content = files.read_json(folder / name)
    change(content)
    files.write_json(folder / name, content)


def shard(folder: Path, number: int) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[number]


def more_tokens(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["高血压病", "二甲双胍缓释片"])
    tokenizer.save_pretrained(folder)


def no_end(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def pickles(folder: Path) -> None:
    for path in (*folder.glob("*.safetensors"), folder / INDEX):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")


def elsewhere(folder: Path) -> None:
    """The index leads out of the folder; a decoy lies in it."""
    shutil.copytree(folder, folder.parent / "elsewhere", dirs_exist_ok=True)
    edit(
        folder,
        INDEX,
        lambda index: index.update(weight_map={n: f"../elsewhere/{f}" for n, f in index["weight_map"].items()}),
    )


def same_shards(folder: Path) -> None:
    """A shard downloaded twice, under two names: whole files, and half of the tensors nowhere."""
    shutil.copy(shard(folder, 0), shard(folder, 1))


def bin_in_index(folder: Path) -> None:
    (folder / "w.bin").write_bytes(b"pickle")
    edit(folder, INDEX, lambda index: index["weight_map"].update(dict.fromkeys(list(index["weight_map"])[:1], "w.bin")))


def single(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """All weights in one file, whose tensors `change` names."""

    def make(folder: Path) -> None:
        paths = sorted(folder.glob("model-*.safetensors"))
        tensors = {name: tensor for path in paths for name, tensor in load_file(path).items()}
        for path in (*paths, folder / INDEX):
            path.unlink()
        save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})

    return make


def without(part: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def as_peft_names_them(tensors: dict[str, Any]) -> dict[str, Any]:
    return {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}


def in_the_hub_s_cache(folder: Path) -> None:
    snapshot = folder / "snapshots" / "a1b2"
    snapshot.mkdir(parents=True)
    for path in folder.glob("*.*"):
        path.rename(snapshot / path.name)


def configured(**values: Any) -> Change:
    return lambda folder: edit(folder, "config.json", lambda config: config.update(values))


def remote(kind: str) -> Change:
    code = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.X"}
    return configured(model_type=kind, auto_map=code)


FIRST, SECOND = (rf"model-0000{number}-of-\d+\.safetensors" for number in (1, 2))
CASES: dict[str, tuple[Change, str]] = {
    "tokenizer larger than the embeddings": (more_tokens, r"\b407 .*\b406\b.*resize"),
    "a configuration of another size": (configured(vocab_size=512), r"lm_head.* \[406, 64\] .*\[512, 64\]"),
    "no end token": (no_end, r"end token"),
    "no tokenizer": (lambda f: [path.unlink() for path in f.glob("tokenizer*")], r"no tokenizer"),
    "an adapter": (lambda f: (f / "config.json").rename(f / "adapter_config.json"), r"adapter"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), r"config\.json"),
    "half a shard": (lambda f: cut(shard(f, 1), 0.5), rf"{SECOND}.*bytes"),
    "last byte gone": (lambda f: cut(shard(f, 0), 1 - 1e-7), rf"{FIRST}.*bytes"),
    "no safetensors at all": (lambda f: shard(f, 0).write_text("<html>404</html>"), FIRST),
    "a shard missing": (lambda f: shard(f, 1).unlink(), rf"{SECOND}.*(missing|not there)"),
    "a pointer": (lambda f: shard(f, 0).write_text(POINTER), rf"{FIRST}.*git lfs pull"),
    "a pointer as tokenizer": (lambda f: (f / "tokenizer.json").write_text(POINTER), r"tokenizer\.json.*git lfs pull"),
    "pickles alone": (pickles, r"pickle"),
    "an index out of the folder": (elsewhere, r"index\.json.*\.\./elsewhere"),
    "an index of pickles": (bin_in_index, r"index\.json.*w\.bin"),
    "a tensor missing": (same_shards, r"lack model\.embed_tokens\.weight \(4 .*config\.json"),
    "no head": (single(without("lm_head")), r"lack lm_head\.weight .*random.*config\.json"),
    "a layer's matrix missing": (single(without("layers.1.mlp.up")), r"lack model\.layers\.1\.mlp\.up_proj\.weight"),
    "names of an adapter's model": (single(as_peft_names_them), r"lack lm_head\.weight \(21 "),
    "a configuration of more layers": (configured(num_hidden_layers=3), r"lack model\.layers\.2\."),
    "a configuration of wider layers": (configured(intermediate_size=256), r"mlp\.down_proj.*128.*256"),
    "an empty index": (lambda f: (f / INDEX).write_text('{"weight_map": {}}'), r"index\.json"),
    "an index of numbers": (lambda f: (f / INDEX).write_text('{"weight_map": {"a": 1}}'), r"index\.json: names '1'"),
    "quantised weights": (configured(quantization_config={"quant_method": "gptq", "bits": 4}), r"gptq.*qlora"),
    "a folder of the hub's cache": (in_the_hub_s_cache, r"nearest valid: \['snapshots/a1b2'\]"),
    "layers that no model has": (configured(num_hidden_layers=5000), r"num_hidden_layers is 5,000\b.*4,096"),
    "heads that do not divide": (configured(num_attention_heads=3), r"config\.json .*not a multiple"),
    "weights by another name": (configured(transformers_weights="decoy.safetensors"), r"transformers_weights"),
    "a broken index": (lambda f: (f / INDEX).write_text("[]"), r"index\.json"),
    "Baichuan's code": (remote("baichuan"), r"python -m qilin_lib\.models\.baichuan"),
    "other code": (remote("chatglm"), r"chatglm"),
    "no writer": (configured(model_type="bert", architectures=["BertModel"]), r"BertModel"),
    "an encoder-decoder": (
        configured(model_type="t5", architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True),
        r"encoder-decoder",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_base_that_cannot_be_used_is_refused_in_02(
    case: str, sharded: Path, prepared: Callable, tmp_path: Path
) -> None:
    change, message = CASES[case]
    folder = tmp_path / "mine"
    shutil.copytree(sharded, folder)
    change(folder)
    said = prepared(folder)
    assert isinstance(said, str), "accepted"
    assert f"base = '{folder}'" in said and re.search(message, said) and "\n" not in said, said
    if "index" in case:
        with pytest.raises(QilinError, match=message):
            load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pipe_is_no_file_of_a_model(name: str, tiny_model_dir: Path, prepared: Callable, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "mine")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    # Whoever reads a pipe waits for its writer: this one comes late.
    late = "import sys, time\ntime.sleep(5)\nwhile True:\n    open(sys.argv[1], 'w').close()\n    time.sleep(0.1)"
    writer = subprocess.Popen([sys.executable, "-c", late, str(folder / name)])
    try:
        hashed, said = base.files_read(folder), prepared(folder)
    finally:
        writer.kill()
        writer.wait()
    assert name not in hashed and re.search(rf"{name} is no regular file", str(said)), said


def test_a_template_that_does_not_fit_is_refused_before_the_stage_begins(
    sharded: Path, prepared: Callable, tmp_path: Path
) -> None:
    """What was finished is moved aside when a stage begins."""
    assert re.search("template 'baichuan2': the tokenizer lacks", prepared(sharded, template="baichuan2"))
    assert not (tmp_path / "02").exists()


def test_a_base_that_lies_elsewhere_now_is_a_sentence(sharded: Path, prepared: Callable, tmp_path: Path) -> None:
    """A run copied from another machine, a folder of models that was tidied."""
    shutil.copytree(sharded, tmp_path / "mine")
    prepared(tmp_path / "mine")
    (tmp_path / "mine").rename(tmp_path / "moved")
    with pytest.raises(QilinError, match=r"02/base\.json: .*/mine, which is no folder here.*link"):
        base_path(tmp_path / "02")
    # `rm -r .cache`
    edit(tmp_path / "02", "base.json", lambda note: note.update(source="kit"))
    with pytest.raises(QilinError, match="no folder here.*--force --only 02"):
        base_path(tmp_path / "02")


def test_blocks_longer_than_the_context_are_refused(sharded: Path, prepared: Callable, tmp_path: Path) -> None:
    for name in (sharded, "tiny"):
        assert re.search("block_size = 513.* 512 tokens", prepared(name, 513))
    # What is hashed is what is loaded, and no decoy beside it.
    folder = tmp_path / "mine"
    shutil.copytree(sharded, folder)
    shutil.copy(shard(folder, 0), folder / "decoy.safetensors")
    assert prepared(folder, 512)["name"] == str(folder)
    listed = files.read_json(tmp_path / "02" / "base_weights.json")
    assert listed == {path.name: files.sha256_file(path) for path in sorted(folder.glob("model-*.safetensors"))}


def test_home_is_expanded(
    tiny_model_dir: Path, prepared: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").symlink_to(tiny_model_dir)
    assert isinstance(prepared("~/mine"), dict)


@pytest.mark.parametrize(("name", "revision"), [("owner/name", None), ("owner/name@refs/pr/3", "refs/pr/3")])
def test_a_hub_id_with_its_revision(
    name: str, revision: str | None, tiny_model_dir: Path, prepared: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, wanted = [], []

    def download(repository: str, revision: str | None = None, **patterns: Any) -> str:
        asked.append((repository, revision))
        wanted.extend(huggingface_hub.utils.filter_repo_objects(HOSTED, **patterns))
        return str(tiny_model_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert prepared(name)["name"] == name and asked == [("owner/name", revision)]
    assert wanted == HOSTED[:4], "the weights come once, and no pickles"


def test_a_hub_that_does_not_answer_leaves_two_ways(prepared: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise OSError("[Errno -3] Temporary failure in name resolution\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    said = prepared("owner/name@main")
    assert said.startswith("base = 'owner/name@main': ") and "HF_ENDPOINT" in said and "folder" in said
    assert "\n" not in said
