"""Which models answer: stages, folders, hub ids, endpoints; what is refused, with the sentence that says why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import models
from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.evaluate.endpoint import EndpointBackend
from qilin_lib.evaluate.sequence import SequenceBackend
from qilin_lib.evaluate.templates import unspoken
from qilin_lib.models.load import load_tokenizer
from qilin_lib.runs import Stage
from qilin_lib.tokens.own_template import choose
from qilin_lib.tokens.template import BAICHUAN, PLAIN, Template
from tests.helpers.chat import published, speaking_model

TRAIN = {
    "on": "cmexam",
    "finetuning": "lora",
    "num_train_epochs": 1.0,
    "max_steps": 1,
    "per_device_train_batch_size": 1,
    "learning_rate": 1e-3,
}
ASKED = [{"role": "user", "content": "头痛"}]


@pytest.fixture
def run_of(tmp_path: Path, tiny_model_dir: Path) -> Any:
    """`run_of({name: line})`: notebook 06 of a run whose four stages all hold the tiny model."""
    run = tmp_path / "run"

    def make(lines: dict[str, Any], stages: tuple[str, ...] = (), own: Template = BAICHUAN) -> Stage:
        files.write_json(run / "02_tokenize" / "base.json", {"path": str(tiny_model_dir)})
        for name in ("03_dcpt", "04_sft", "05_dpo"):
            copy(tiny_model_dir, run / name / "model")
            files.write_json(run / name / "facts.json", own.described)
        (run / "06_eval").mkdir(exist_ok=True)
        given = {"run": "run", "models": list(stages), "baselines": lines, "shots": 5}
        return Stage(params.load("06_eval", given), run, "", {}, False)

    return make


def copy(source: Path, target: Path, without: str = "", **config: Any) -> Path:
    """A model folder with links to the weights and, maybe, another configuration."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if not (without and path.name.startswith(without)) and not (target / path.name).exists():
            (target / path.name).symlink_to(path)
    if config:
        changed = json.loads((source / "config.json").read_text(encoding="utf-8")) | config
        (target / "config.json").unlink()
        files.write_json(target / "config.json", changed)
    return target


def silent(_: str) -> None:
    pass


def refused(stage: Stage) -> str:
    (reason,) = models.prepare(stage, silent).values()
    return reason


# --- who answers ------------------------------------------------------------------------------------------------------


def test_stages_and_baselines_in_the_order_of_the_tables(run_of: Any, tiny_model_dir: Path) -> None:
    lines = {
        "LLaMA-7B": {"model": str(tiny_model_dir)},
        "Qilin again": {"model": "sft", "template": "baichuan", "shots": 0},
        "T5": {"model": "tiny-t5"},
    }
    stage = run_of(lines, ("base", "sft"))
    models.prepare(stage, silent)
    loaders = models.loaders(stage, "cpu")
    assert list(loaders) == ["base", "sft", *lines]
    kinds = {name: (type(backend := load()), backend.template.name) for name, load in loaders.items()}
    assert kinds == {
        "base": (TransformersBackend, "plain"),
        "sft": (TransformersBackend, "baichuan"),
        "LLaMA-7B": (TransformersBackend, "chat"),
        "Qilin again": (TransformersBackend, "baichuan"),
        "T5": (SequenceBackend, "plain"),
    }
    assert {name: models.shots(stage, name) for name in loaders} == dict.fromkeys(loaders, 5) | {"Qilin again": 0}
    assert all(load().batch_size == stage.parameters.batch_size for load in loaders.values())


def test_a_fine_tuned_baseline_answers_with_its_own_weights(run_of: Any, tiny_model_dir: Path) -> None:
    from qilin_lib.models.load import load_model

    stage = run_of({"LLaMA-CMExam": {"model": "base", "finetune": TRAIN}})
    changed = load_model(tiny_model_dir)
    changed.lm_head.weight.data.zero_()
    changed.save_pretrained(stage.dir / "baselines" / "LLaMA-CMExam" / "model")
    load_tokenizer(tiny_model_dir).save_pretrained(stage.dir / "baselines" / "LLaMA-CMExam" / "model")
    backend = models.loaders(stage, "cpu")["LLaMA-CMExam"]()
    assert not backend.model.lm_head.weight.any() and backend.template == PLAIN


def test_an_endpoint_is_reached_by_its_line(run_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "none")
    line = {"model": "gpt-4-0314", "endpoint": "http://localhost:1/v1", "template": "chat", "api_key_env": "MY_KEY"}
    stage = run_of({"GPT-4-0314": line})
    models.prepare(stage, silent)
    backend = models.loaders(stage, "cpu")["GPT-4-0314"]()
    assert isinstance(backend, EndpointBackend) and (backend.template.name, backend.tokenizer) == ("chat", None)
    assert "is not trained" in refused(run_of({"GPT-4-0314": {**line, "finetune": TRAIN}}))


# --- models that cannot answer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"model": "dpoo"}, r"\.model = 'dpoo': no stage of this run \(base, .*no folder, no hub id .*mean 'dpo'\?\)$"),
        ({"model": "tiny-t6"}, r"\.model = .*did you mean 'tiny-t5'"),
        ({"model": "./models/llama"}, r"\.model = .*no stage of this run .*, no folder"),
        (
            {"model": "sft", "template": "plain"},
            r"\.template = 'plain': model 'sft' was trained with template 'baichuan'; nearest valid: template: baic",
        ),
        ({"model": "base", "template": "baichuan"}, r"\.template = .* trained with template 'plain'"),
        ({"model": "base", "template": "chat", "finetune": TRAIN}, ": finetune cuts long turns"),
        ({"model": "tiny-t5", "finetune": TRAIN}, r"\.finetune\.finetuning = .*whose adapter the kit does not merge"),
    ],
)
def test_a_line_that_cannot_be_asked(run_of: Any, line: dict, message: str) -> None:
    assert re.search(rf"^eval\.baselines\.X{message}", refused(run_of({"X": line})))


def test_a_baseline_of_09_is_named_as_its_profile_names_it(run_of: Any) -> None:
    stage = run_of({})
    given = params.load("09_bias", {"run": "run", "models": [], "baselines": {"X": {"model": "tiny-t6"}}})
    assert refused(Stage(given, stage.run_dir, "", {}, False)).startswith("bias.baselines.X.")


def test_a_hub_id_without_network(run_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    said = refused(run_of({"X": {"model": "nobody/nothing"}}))
    assert said.startswith("eval.baselines.X.model = 'nobody/nothing': no such folder, and not to be had from the hub")
    assert "nearest valid: the path of a local folder" in said


@pytest.mark.parametrize(
    ("without", "config", "message"),
    [
        ("config.json", {}, "has no config.json"),
        ("model.safetensors", {}, "no .*safetensors"),
        ("tokenizer", {}, "no tokenizer"),
        ("", {"model_type": "chatglm", "auto_map": {"AutoConfig": "a.B"}}, "without code from the folder"),
        ("", {"architectures": ["BertForMaskedLM"], "model_type": "bert"}, r"\(BertForMaskedLM\) writes no text"),
        ("", {"architectures": None}, r"\(none named\) writes no text"),
        ("", {"vocab_size": 16}, "lm_head\\.weight has shape .*406.* says .*16"),
    ],
)
def test_a_folder_that_cannot_answer(
    run_of: Any, tiny_model_dir: Path, tmp_path: Path, without: str, config: dict, message: str
) -> None:
    folder = copy(tiny_model_dir, tmp_path / "mine", without, **config)
    pattern = r"eval\.baselines\.X\.model = '.*mine': .*" + message + r".*nearest valid"
    assert re.search(pattern, refused(run_of({"X": {"model": str(folder)}})))


def test_an_adapter_alone_and_the_folder_above_a_model(run_of: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    files.write_json(tmp_path / "mine" / "adapter_config.json", {})
    assert "a LoRA adapter alone" in refused(run_of({"X": {"model": str(tmp_path / "mine")}}))
    copy(tiny_model_dir, tmp_path / "above" / "model")
    assert "nearest valid: ['model']" in refused(run_of({"X": {"model": str(tmp_path / "above")}}))


def test_a_tokenizer_without_an_end(run_of: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = copy(tiny_model_dir, tmp_path / "mine", "tokenizer")
    tokenizer = load_tokenizer(tiny_model_dir)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    assert "names no end token" in refused(run_of({"X": {"model": str(folder)}}))


def test_a_stage_s_name_is_taken(run_of: Any) -> None:
    with pytest.raises(QilinError, match=r"^eval\.baselines\.sft: that is the name of a stage"):
        models.prepare(run_of({"sft": {"model": "base"}}), silent)


# --- templates --------------------------------------------------------------------------------------------------------


def test_a_model_of_another_run_is_known_by_its_facts(run_of: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = copy(tiny_model_dir, tmp_path / "other" / "04_sft" / "model")
    facts = {"template": "baichuan", "template_sha256": BAICHUAN.sha256}
    files.write_json(folder.parent / "facts.json", facts)
    line = {"model": str(folder), "template": "plain"}
    assert "was trained with template 'baichuan'" in refused(run_of({"X": line}))
    assert models.prepare(run_of({"X": {"model": str(folder)}}), silent) == {}
    files.write_json(folder.parent / "facts.json", facts | {"template_sha256": "0" * 64})
    assert "which is not the one in" in refused(run_of({"X": {"model": str(folder), "template": "baichuan"}}))


def test_a_model_trained_in_its_tokenizers_template_is_asked_in_it(
    run_of: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    stage = run_of({}, ("base", "sft"))
    base = speaking_model(tiny_model_dir, tmp_path / "gemma", published("gemma"))
    own = choose("auto", load_tokenizer(base))
    files.write_json(stage.parent("02_tokenize") / "base.json", {"path": str(base), **own.described})
    files.write_json(stage.parent("04_sft") / "facts.json", own.described)
    assert models.template(stage, "sft") == own
    line = {"model": "sft", "template": "plain"}
    assert "trained with template 'own'; nearest valid: template: own" in refused(run_of({"X": line}, own=own))
    assert models.prepare(run_of({"X": line | {"template": "own"}}, own=own), silent) == {}
    assert models.template(stage, "base") == unspoken(PLAIN)


def test_a_base_is_asked_after_the_token_that_its_tokenizer_puts_first(
    run_of: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    from tokenizers.processors import TemplateProcessing

    stage = run_of({}, ("base",))
    base = speaking_model(tiny_model_dir, tmp_path / "llama", published("llama3"))
    tokenizer = load_tokenizer(base)
    bos = ("<bos>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    tokenizer.save_pretrained(base)
    files.write_json(stage.parent("02_tokenize") / "base.json", {"path": str(base)})
    assert models.template(stage, "base").encode(ASKED, tokenizer)[0] == tokenizer.bos_token_id


def test_an_exported_model_is_known_by_its_note(run_of: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = copy(tiny_model_dir, tmp_path / "exported")
    line = {"model": str(folder), "template": "plain"}
    assert models.prepare(run_of({"X": line}), silent) == {}
    files.write_json(folder / "qilin.json", {"stage": "05_dpo", "kind": "model", **BAICHUAN.described})
    assert "was trained with template 'baichuan'" in refused(run_of({"X": line}))
    assert models.prepare(run_of({"X": line | {"template": "baichuan"}}), silent) == {}
