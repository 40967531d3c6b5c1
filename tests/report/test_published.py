"""An export for other programs: template and vocabulary as they read them, a GGUF file, a repository on the hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.report import export
from qilin_lib.tokens.template import BAICHUAN, template_of
from tests.helpers.exported import change, readme

# Stands in for llama.cpp's convert_hf_to_gguf.py: it takes the same arguments and fails as it does.
CONVERTER = """
import argparse, json, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("--outfile", type=pathlib.Path)
parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0", "auto"])
given = parser.parse_args()
if json.loads((given.model / "config.json").read_text())["architectures"] == ["Unknown"]:
    sys.exit("INFO: loading\\nERROR: Model Unknown is not supported")
names = sorted(path.name for path in given.model.iterdir())
given.outfile.write_text(json.dumps({"outtype": given.outtype, "names": names}))
"""


@pytest.fixture
def llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / "convert_hf_to_gguf.py").write_text(CONVERTER, encoding="utf-8")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    return folder


def test_a_derived_template_is_handed_on(make: Callable[..., Path], run_dir: Path) -> None:
    from qilin_lib.models.load import load_tokenizer

    own = replace(BAICHUAN, name="own", begin="<s>", assistant_close="<pad>", system_open="<s>")
    path = run_dir / "04_sft" / "manifest.json"
    change(path, "facts", to=files.read_json(path)["facts"] | own.described)
    folder = make()
    tokenizer = load_tokenizer(folder)
    turns = [{"role": "system", "content": "简短"}, {"role": "user", "content": "头痛"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert ids == own.encode(turns, tokenizer, add_generation_prompt=True)
    assert template_of(files.read_json(folder / "qilin.json")) == own
    # What other readers do not know is not handed on.
    text = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    assert "generation" not in text.replace("add_generation_prompt", "")
    ends = files.read_json(folder / "generation_config.json")["eos_token_id"]
    assert ends == [tokenizer.pad_token_id, tokenizer.eos_token_id], "generation stops at either"


def test_the_base_s_sentencepiece_file_is_kept(
    make: Callable[..., Path], run_dir: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """llama.cpp reads the vocabulary of a LLaMA or Baichuan from it."""
    assert not (make(name="without") / "tokenizer.model").exists()
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    (base / "tokenizer.model").write_bytes(b"pieces")
    path = run_dir / "02_tokenize" / "base.json"
    change(path, "path", to=str(base))
    change(run_dir / "02_tokenize" / "manifest.json", "outputs", "base.json", to={"sha256": files.sha256_file(path)})
    folder = make()
    assert (folder / "tokenizer.model").read_bytes() == b"pieces"
    assert "tokenizer.model" in files.read_json(folder / "qilin.json")["files"]


def test_gguf_is_made_by_llama_cpps_converter(
    make: Callable[..., Path], llama_cpp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(llama_cpp))
    folder = make(gguf=True)
    told = files.read_json(folder / "model.gguf")
    assert told["outtype"] == "auto" and {"model.safetensors", "tokenizer.json", "config.json"} <= set(told["names"])
    assert files.read_json(folder / "qilin.json")["files"]["model.gguf"] == files.sha256_file(folder / "model.gguf")
    assert "model.gguf" in readme(folder)


def test_gguf_without_the_converter_or_of_an_adapter_is_refused(
    make: Callable[..., Path], llama_cpp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(QilinError, match=r"--gguf: convert_hf_to_gguf.py .* LLAMA_CPP_DIR"):
        make(gguf=True)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    with pytest.raises(QilinError, match=f"convert_hf_to_gguf.py .* is not in LLAMA_CPP_DIR = '{tmp_path}'"):
        make(gguf=True)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(llama_cpp))
    with pytest.raises(QilinError, match="--gguf: an adapter .* leave --adapter out"):
        make(gguf=True, adapter=True)
    broken = llama_cpp / "convert_hf_to_gguf.py"
    broken.write_text(CONVERTER.replace('["Unknown"]', '["LlamaForCausalLM"]'), encoding="utf-8")
    with pytest.raises(QilinError, match="--gguf: .* ended with 1: ERROR: Model Unknown is not supported"):
        make(gguf=True)
    assert not (tmp_path / "out").exists()


class Hub:
    """Stands in for huggingface_hub's HfApi."""

    calls: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def create_repo(self, repo_id: str, **given: Any) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, **given}))

    def upload_folder(self, *, repo_id: str, folder_path: Any, **given: Any) -> Any:
        names = sorted(path.name for path in Path(folder_path).iterdir())
        self.calls.append(("upload_folder", {"repo_id": repo_id, "names": names, **given}))
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    monkeypatch.setattr(Hub, "calls", [])
    return Hub


def test_a_pushed_folder_holds_the_export_and_nothing_else(
    hub: type[Hub], run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert export.main(["madeup", "sft", str(tmp_path / "out"), "--push", "me/qilin"]) == 0
    (created, first), (uploaded, second) = hub.calls
    assert (created, uploaded) == ("create_repo", "upload_folder")
    assert first == {"repo_id": "me/qilin", "private": True, "exist_ok": True}
    assert second["repo_id"] == "me/qilin" and second["names"] == sorted(p.name for p in (tmp_path / "out").iterdir())
    assert not [name for name in second["names"] if name.endswith(".jsonl")], "no training data"
    told = capsys.readouterr()
    assert "https://huggingface.co/me/qilin" in told.out and "private" in told.out and "hf_secret" not in told.out


@pytest.mark.parametrize(
    ("repository", "token", "why"),
    [
        ("me/qilin", None, "--push: no token .* HF_TOKEN"),
        ("qilin", "hf", "--push qilin: .* owner/name"),
        ("me/qilin@main", "hf", "--push me/qilin@main: .* owner/name"),
    ],
)
def test_a_push_that_cannot_be_is_refused_before_anything_is_made(
    repository: str, token: str | None, why: str, make: Callable, hub: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    with pytest.raises(QilinError, match=why):
        make(push=repository)
    assert hub.calls == [] and not (tmp_path / "out").exists()


def test_a_push_that_the_hub_refuses_leaves_the_export(
    make: Callable, hub: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError("403 Forbidden: you have no right to write to me/qilin")

    monkeypatch.setattr(Hub, "create_repo", refused)
    with pytest.raises(QilinError, match="--push me/qilin: .*403 Forbidden.*; the export is whole in .*out"):
        make(push="me/qilin")
    assert (tmp_path / "out" / "README.md").exists()
