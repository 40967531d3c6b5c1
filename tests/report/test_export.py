"""An exported stage: the bytes that the manifest lists, and a card that says what the manifests say."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qilin_lib import files, runs
from qilin_lib.errors import QilinError
from qilin_lib.report import card, export
from qilin_lib.tokens.template import BAICHUAN, PLAIN
from tests.helpers.exported import change, front, merge_of, readme, row


def test_the_model_is_the_manifest_s_and_loads(make: Callable[..., Path], run_dir: Path) -> None:
    import torch

    from qilin_lib.models.adapters import load_trained
    from qilin_lib.models.load import load_model, load_tokenizer

    folder = make()
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        merged, live = load_model(folder), load_trained(run_dir / "04_sft" / "adapter", "float32")[0]
        assert torch.allclose(merged(ids).logits, live(ids).logits, atol=1e-5)
    # The next stage starts from exactly this model.
    assert merge_of(run_dir / "05_dpo") == files.sha256_file(folder / "model.safetensors")
    tokenizer = load_tokenizer(folder)
    asked = [{"role": "user", "content": "头痛"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert ids == BAICHUAN.encode(asked, tokenizer, add_generation_prompt=True)


def test_the_adapter_on_the_named_base_is_the_merged_model(make: Callable[..., Path], run_dir: Path) -> None:
    import torch
    from peft import PeftModel

    from qilin_lib.models.adapters import described
    from qilin_lib.models.load import load_model

    adapter, base, merged = make(adapter=True), make("dcpt", "base"), make(name="merged")
    named = files.read_json(adapter / "qilin.json")["base"]
    assert named["weights"] == {"model.safetensors": files.sha256_file(base / "model.safetensors")}
    assert (named["stage"], files.read_json(adapter / "qilin.json")["kind"]) == ("03_dcpt", "adapter")
    text = readme(adapter)
    assert named["weights"]["model.safetensors"] in text and "PeftModel.from_pretrained(base" in text
    assert "python -m qilin_lib.report.export madeup 03_dcpt BASE_FOLDER" in text
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        both = PeftModel.from_pretrained(load_model(base), str(adapter))(ids).logits
        assert torch.allclose(both, load_model(merged)(ids).logits, atol=1e-5)
        assert described(base, adapter)["quantised"] is False, "its own note still fits"
        assert not torch.allclose(both, load_model(base)(ids).logits, atol=1e-2)
    assert front(adapter)["library_name"] == "peft" and "lora" in front(adapter)["tags"]
    assert {"tokenizer.json", "chat_template.jinja", "adapter_config.json"} <= {p.name for p in adapter.iterdir()}


def test_no_path_of_the_machine_is_handed_out(make: Callable[..., Path], run_dir: Path, tiny_model_dir: Path) -> None:
    change(run_dir / "01_build_chimed" / "manifest.json", "parameters", "raw_dir", to="/secret/place")
    text = readme(make())
    assert '| raw_dir | "place" |' in text and "/secret" not in text and str(run_dir.parent) not in text
    assert "embedded sample" not in text
    written = "".join(p.read_text(encoding="utf-8") for p in make("dcpt", "a", adapter=True).glob("*.[jm][sd]*"))
    assert "base_model_name_or_path" in written and str(tiny_model_dir.parent) not in written


@pytest.mark.parametrize(
    ("base", "inputs", "named"),
    [
        ("baichuan-inc/Baichuan-7B", {}, "baichuan-inc/Baichuan-7B"),
        ("smollm2", {}, "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("models/mine", {"base": {"config.json": "0"}}, None),
        ("tiny", {}, None),
    ],
)
def test_only_a_hub_id_is_a_base_model_of_the_hub(base: str, inputs: dict, named: str | None) -> None:
    ledger = {"sources": [row("cmexam", "sft", 1)]}
    manifests = {"02_tokenize": {"inputs": inputs}}
    made = card.Export(
        "r", "04_sft", "03_dcpt", False, manifests, {"name": base}, ledger, {}, None, "plain", "", {}, {}, {}, []
    )
    assert card.front_matter(made).get("base_model") == named


def test_the_card_says_what_the_manifests_say(make: Callable[..., Path], run_dir: Path) -> None:
    change(run_dir / "04_sft" / "manifest.json", "environment", "gpus", to=["NVIDIA A100, 81920 MiB"])
    change(run_dir / "04_sft" / "manifest.json", "environment", "git_commit", to="feedbeef")
    change(run_dir / "04_sft" / "manifest.json", "wall_seconds", to=98765.4)
    folder = make()
    text = readme(folder)
    assert "NVIDIA A100, 81920 MiB" in text and "feedbeef" in text and "98,765.4 s" in text
    assert front(folder) == {
        "language": ["zh"],
        "license": "other",
        "license_name": "strictest-data-licence-cc-by-nd-4.0-and-some-not-stated",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["medical", "chinese", "qilin-med", "sft"],
    }
    assert "\n# tiny 123K + DCPT + SFT\n" in text and "| Metric | tiny 123K | tiny 123K + DCPT + SFT |" in text
    assert text.index(card.WARNING) < text.index("## How to load it")
    for cell in ("| sft | cmexam | original | 12,345 | Apache-2.0 | - |", "| 678 | CC BY-ND 4.0 | no-derivatives |"):
        assert cell in text
    assert "| 9 | not stated | no licence stated |" in text and "NC-SA" not in text, "test sets are in no weights"
    assert "3 records left out" in text and "6 placeholders" in text and "embedded sample" in text
    assert "123,456 parameters" in text and "<reserved_102>感冒了要看哪个科？<reserved_103>" in text
    assert "| sources | cmexam: read 9, used 8; remedi: read 3 |" in text
    assert "| tokens seen | 1,000,001 |" in text and "1,000,002" not in text
    # exp(90/30) and exp(30/30), by hand.
    assert "| medical | 2 | 20.1 [20.1, 20.1] | 2.72 [2.72, 2.72] | 0.135 [0.135, 0.135] |" in text
    assert "| cmexam | accuracy | 10.0 [9.0, 11.0] (n=43) | 27.9 [26.9, 28.9] (n=43) |" in text
    for name in ("01_build_chimed", "02_tokenize", "03_dcpt", "04_sft"):
        assert runs.read_manifest(run_dir, name)["digest"] in text
    rate = runs.read_manifest(run_dir, "04_sft")["parameters"]["learning_rate"]
    assert any(line.startswith("| learning_rate |") and line.endswith(f" {rate} |") for line in text.splitlines())
    entry = {"stage": "03_dcpt", "when": "2026-01-02", "reason": "the log alone differs"}
    files.write_json(run_dir / "03_dcpt.accepted.json", [entry | {"key": "", "inputs": {}, "files": {}}])
    assert readme(make(name="accepted")).count("accepted as it is on 2026-01-02: the log alone differs") == 1


def test_a_one_stage_model_names_neither_dcpt_nor_its_weights(make: Callable[..., Path], run_dir: Path) -> None:
    manifest = run_dir / "04_sft" / "manifest.json"
    change(manifest, "facts", "one_stage", to={"passages": {}})
    # It starts from full weights, so it merges none.
    outputs = {k: v for k, v in files.read_json(manifest)["outputs"].items() if not k.startswith("start/")}
    change(manifest, "outputs", to=outputs)
    text, base = readme(make(adapter=True)), files.read_json(make(name="again", adapter=True) / "qilin.json")["base"]
    assert "\n# tiny 123K + one-stage SFT\n" in text and "- Training: one-stage SFT (" in text
    assert base["stage"] == "02_tokenize" and "BASE_FOLDER: the base model `tiny`" in text
    assert base["weights"] == files.read_json(run_dir / "02_tokenize" / "base_weights.json")


def test_dcpt_is_asked_in_plain_text_and_dpo_shows_its_pairs(make: Callable[..., Path], run_dir: Path) -> None:
    dcpt, dpo = readme(make("03_dcpt")), readme(make("05_dpo", "dpo"))
    assert f"{PLAIN.user_open}{export.EXAMPLE}{PLAIN.user_close}{PLAIN.assistant_open}\n" in dcpt
    assert "cmexam | original" not in dcpt and "saw no conversations" in dcpt
    assert "| reward accuracy, percent | 100.0<br>n=1 |" in dpo
    assert "Not evaluated in this run" in dcpt and "Not evaluated in this run" in dpo, "06 asked base and sft only"
    change(run_dir / "06_eval" / "manifest.json", "inputs", "04_sft", to="0" * 64)
    assert "Not evaluated in this run" in readme(make(name="sft")), "06 asked other weights"


@pytest.mark.parametrize("file", ["adapter/adapter_model.safetensors", "adapter/qilin.json", "heldout.json"])
def test_a_damaged_file_is_named_and_nothing_is_left(make: Callable[..., Path], run_dir: Path, file: str) -> None:
    path = run_dir / "04_sft" / file
    content, state = bytearray(path.read_bytes()), path.stat()
    content[-3] ^= 1
    path.write_bytes(content)
    # As a failing disk does it: size and time are what they were.
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(QilinError, match=f"{path} is not what 04_sft wrote"):
        make()
    path.unlink()
    with pytest.raises(QilinError, match=f"{path.name} is gone: restore it, or make the stage again"):
        make()
    assert [p.name for p in run_dir.parents[1].iterdir()] == ["runs"]


FULL = "trained with finetuning: full and has no adapter; leave --adapter out"


@pytest.mark.parametrize(
    ("stage", "changes", "why"),
    [
        (
            "03_dcpt",
            {"digest": "1" * 64},
            "04_sft of run 'madeup' was made from an older 03_dcpt: run notebooks/04_sft",
        ),
        ("03_dcpt", None, "03_dcpt, which run 'madeup' does not have: run notebooks/03_dcpt.ipynb"),
        ("04_sft", {"outputs": {}, "parameters": {"finetuning": "full"}}, FULL),
        ("04_sft", {"facts": {"template": "baichuan", "template_sha256": "f" * 64}}, r"'baichuan' \(ffffffffffff\)"),
    ],
)
def test_a_stage_that_cannot_be_exported_is_refused(
    make: Callable[..., Path], run_dir: Path, stage: str, changes: dict | None, why: str
) -> None:
    path = run_dir / stage / "manifest.json"
    if changes is None:
        path.unlink()
    for key, value in (changes or {}).items():
        old = files.read_json(path)[key]
        change(path, key, to=old | value if value and isinstance(old, dict) else value)
    with pytest.raises(QilinError, match=why):
        make(adapter=why == FULL)


def test_a_foreign_chat_template_is_replaced_by_the_trained_one(make: Callable[..., Path], run_dir: Path) -> None:
    from qilin_lib.models.load import load_tokenizer

    model, path = run_dir / "04_sft" / "adapter", run_dir / "04_sft" / "manifest.json"
    (model / "chat_template.jinja").write_text("{{ 'foreign' }}", encoding="utf-8")
    changed = files.sha256_file(model / "chat_template.jinja")
    change(path, "outputs", "adapter/chat_template.jinja", to={"sha256": changed})
    folder = make()
    tokenizer = load_tokenizer(folder)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "痛"}], tokenize=False) == "<reserved_102>痛"
    assert files.read_json(folder / "qilin.json")["files"]["chat_template.jinja"] != changed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("madeup", "sfft"), "error: stage 'sfft': has no weights to export (did you mean"),
        (("madupe", "sft"), "error: run 'madupe': no such run in "),
        (("madeup", "02_tokenize"), "error: stage '02_tokenize': has no weights to export"),
    ],
)
def test_the_command_fails_in_one_sentence(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], sentence: str
) -> None:
    assert export.main([*arguments, str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith(sentence) and told.err.count("\n") == 1


def test_the_command_says_what_it_made_and_overwrites_nothing(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (run_dir / "04_sft" / "adapter" / "notes.txt").write_text("listed in no manifest", encoding="utf-8")
    (tmp_path / "out").mkdir()
    assert export.main(["madeup", "04_sft", str(tmp_path / "out"), "--adapter"]) == 0
    assert not (tmp_path / "out" / "notes.txt").exists()
    assert str(tmp_path / "out") in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "qilin.json").read_text(encoding="utf-8"))["stage"] == "04_sft"
    assert export.main(["madeup", "05_dpo", str(tmp_path / "out")]) == 2
    assert "exists and is not empty; choose a new folder" in capsys.readouterr().err
