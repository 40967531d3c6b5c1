"""Fine-tuning of a baseline: which pairs, one form of answer, what it learns, when it is made again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers.replies import texts

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import sequence
from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.evaluate.prompts import Prompt
from qilin_lib.models.adapters import load_trained
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.runs import Stage
from qilin_lib.schema import Finetune
from qilin_lib.tokens.template import PLAIN
from qilin_lib.train import baseline, launch
from qilin_lib.train import job as jobs
from qilin_lib.train.fit import read_log

pytestmark = pytest.mark.slow

OPENING = re.compile(r"答案：[A-E]+。")


def exam(number: int) -> dict[str, Any]:
    """A written CMExam row as notebook 01 leaves it; every fourth has two right answers."""
    gold = "ABCD"[number % 4] if number % 4 else "AC"
    question = f"患者咳嗽发热{number}天，下列选项中正确的是\nA 肺炎\nB 胃痛\nC 头痛\nD 血压偏高"
    return row("cmexam", [question, f"答案：{gold}。\n解释：患者咳嗽发热三天，正确的是{gold}。"], number)


def row(source: str, texts: list[str], number: int, split: str = "train", part: str = "medical") -> dict[str, Any]:
    roles = ["user", "assistant"] * 2
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return {
        "id": f"{source}-{number}",
        "source": source,
        "part": part,
        "licence": "-",
        "messages": messages,
        "split": split,
    }


ROWS = [
    *[exam(number) for number in range(20)],
    {**exam(20), "split": "heldout"},
    *[row("huatuo_encyclopedia_qa", [f"胃痛{n}周怎么办", "可以服用奥美拉唑。"], n) for n in range(6)],
    row("toyhom_dialogue", ["头痛", "休息", "还痛", "复查"], 1),
    row("toyhom_dialogue", ["头痛", "多喝水"], 2),
    row("general_zh", ["写诗", "好"], 1, part="general"),
]


@pytest.fixture
def stage(tmp_path: Path, tiny_model_dir: Path) -> Stage:
    """Notebook 06 of a run that has ROWS and the tiny base model."""
    run = tmp_path / "run"
    files.write_jsonl(run / "01_build_chimed" / "sft.jsonl", ROWS)
    files.write_json(run / "02_tokenize" / "base.json", {"path": str(tiny_model_dir)})
    (run / "06_eval").mkdir()
    return Stage(params.load("06_eval", {"run": "run"}), run, "", {}, False)


def spec(on: str, **given: Any) -> Finetune:
    usual = {"finetuning": "lora", "num_train_epochs": 1.0, "max_steps": 40, "per_device_train_batch_size": 4}
    return Finetune(on=on, **{**usual, "learning_rate": 2e-2, "lora_dropout": 0.0, **given})


def silent(_: str) -> None:
    pass


def trained_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the child's part run in this process; returns the jobs that were started."""
    started: list[str] = []

    def run(command: list[str], *_: Any) -> None:
        path, *phases = command[3:]
        started.append(path)
        for phase in phases:
            jobs.run_phase(phase, path)

    monkeypatch.setattr(launch, "run", run)
    return started


def asked(questions: list[str], tokenizer: Any) -> list[Prompt]:
    conversations = [[{"role": "user", "content": question}] for question in questions]
    encoded = [PLAIN.encode(messages, tokenizer, add_generation_prompt=True) for messages in conversations]
    return [Prompt(m, "", ids, "", 0, False) for m, ids in zip(conversations, encoded, strict=True)]


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_pairs_are_training_rows_of_one_question_and_one_answer(stage: Stage) -> None:
    assert [pair["id"] for pair in baseline.pairs(stage, "cmexam")] == [f"cmexam-{n}" for n in range(20)]
    others = [f"huatuo_encyclopedia_qa-{n}" for n in range(6)] + ["toyhom_dialogue-2"]
    assert [pair["id"] for pair in baseline.pairs(stage, "huatuo")] == others


def test_a_run_without_such_pairs_is_refused(stage: Stage, tiny_model_dir: Path) -> None:
    files.write_jsonl(stage.parent("01_build_chimed") / "sft.jsonl", ROWS[20:])
    with pytest.raises(QilinError, match=r"eval\.baselines\.X\.finetune\.on = 'cmexam': .*run 'run' has no training"):
        baseline.finetune(stage, "X", spec("cmexam"), PLAIN, tiny_model_dir, silent)
    assert not baseline.folder(stage, "X").exists()


# --- a causal model ---------------------------------------------------------------------------------------------------


def test_lora_on_cmexam_learns_the_form_in_a_child_process(
    stage: Stage, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form depends on nothing but the row: items with one and with two right letters are taught alike."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    said: list[str] = []
    taught = spec("cmexam", max_steps=100)
    model = baseline.finetune(stage, "LLaMA-CMExam", taught, PLAIN, tiny_model_dir, said.append)
    losses = [entry["loss"] for entry in read_log(model.parent) if "loss" in entry]
    # The untrained half of the tiny head, which LoRA leaves as it is, keeps the loss above 2.5.
    assert len(losses) == 100 and losses[-1] < 0.6 * losses[0]
    assert said[-1].startswith("training LLaMA-CMExam: step 100/100")
    tokenizer = load_tokenizer(model)
    backend = TransformersBackend(load_trained(model, "float32")[0], tokenizer, PLAIN, 4, "cpu")
    questions = [exam(number)["messages"][0]["content"] for number in (0, 1, 2, 20)]
    answers = texts(backend.generate(asked(questions, tokenizer), 48))
    untaught = TransformersBackend(load_model(tiny_model_dir), tokenizer, PLAIN, 4, "cpu")
    # How far a tiny model gets beyond the opening depends on the machine's arithmetic; the base does not open so.
    assert all(OPENING.match(answer) for answer in answers), answers
    assert not any(OPENING.match(answer) for answer in texts(untaught.generate(asked(questions, tokenizer), 48)))
    # The adapter is live, on the weights that it was trained on.
    assert model.name == "adapter" and any("lora_" in name for name, _ in backend.model.named_parameters())
    facts = files.read_json(model.parent / "facts.json")
    assert (facts["template"], facts["examples"], facts["steps_done"]) == ("plain", 20, 100)
    assert facts["sources"]["cmexam"] | {"used": 20, "too_long": 0} == facts["sources"]["cmexam"]
    assert not (model.parent / "checkpoints").exists() and not (model.parent / "job.json").exists()


def test_a_trained_baseline_is_reused_and_another_or_unfinished_one_made_again(
    stage: Stage, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = trained_here(monkeypatch)

    def train(**given: Any) -> Path:
        chosen = spec("huatuo", max_steps=1, **given)
        return baseline.finetune(stage, "GPT2 (fine-tuned)", chosen, PLAIN, tiny_model_dir, silent)

    model = train()
    assert train() == model and len(started) == 1
    # A renamed run is the same training.
    stage.parameters = params.load("06_eval", {"run": "renamed"})
    assert train() == model and len(started) == 1
    train(lora_r=4)
    assert len(started) == 2 and files.read_json(model.parent / "key.json")["parameters"]["lora_r"] == 4
    files.write_jsonl(stage.parent("01_build_chimed") / "sft.jsonl", ROWS[:22])
    train(lora_r=4)
    assert len(started) == 3 and len(list(files.read_jsonl(model.parent / "train.jsonl"))) == 1
    monkeypatch.setattr(baseline, "weights_sha256", lambda _: "those of another base")
    train(lora_r=4)
    assert len(started) == 4
    # What a kill leaves: weights, but no key.
    (model.parent / "key.json").unlink()
    (model / "left_over").write_text("half", encoding="utf-8")
    train(lora_r=4)
    assert len(started) == 5 and not (model / "left_over").exists()


# --- an encoder-decoder -----------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_t5(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return sequence.stand_in(tiny_model_dir, tmp_path / "tiny-t5", 17)


def test_a_t5_learns_to_answer(stage: Stage, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_here(monkeypatch)
    given = spec("huatuo", finetuning="full", max_steps=60, learning_rate=3e-3)
    model = baseline.finetune(stage, "T5", given, PLAIN, tiny_t5, silent)
    losses = [entry["loss"] for entry in read_log(model.parent) if "loss" in entry]
    assert losses[-1] < 0.2 * losses[0]
    tokenizer = load_tokenizer(model)
    backend = sequence.SequenceBackend(baseline.load_sequence_model(model), tokenizer, PLAIN, 4, "cpu")
    answers = texts(backend.generate(asked(["胃痛3周怎么办", "头痛"], tokenizer), 32))
    assert answers == ["可以服用奥美拉唑。", "多喝水"]
    facts = files.read_json(model.parent / "facts.json")
    assert facts["sources"] == {
        "huatuo_encyclopedia_qa": {"read": 6, "used": 6},
        "toyhom_dialogue": {"read": 1, "used": 1},
    }


def test_the_loss_is_t5_s_own_and_counts_the_whole_step(tiny_t5: Path) -> None:
    import torch

    model = baseline.load_sequence_model(tiny_t5)
    labels = torch.tensor([[5, 6, 7], [8, -100, -100]])
    with torch.no_grad():
        out = model(input_ids=torch.tensor([[9, 10], [11, 12]]), labels=labels)
    assert baseline.token_loss(out, labels).item() == pytest.approx(out.loss.item(), rel=1e-6)
    # Half of a step's eight labelled tokens: half of the loss.
    assert baseline.token_loss(out, labels, 8).item() == pytest.approx(out.loss.item() / 2, rel=1e-6)


def test_a_t5_whose_decoder_is_not_in_its_files_is_no_baseline(tiny_t5: Path) -> None:
    """An encoder alone: transformers would draw the decoder at random, and only warn."""
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny_t5 / "model.safetensors")
    encoder = {name: tensor for name, tensor in weights.items() if not name.startswith("decoder")}
    save_file(encoder, tiny_t5 / "model.safetensors", {"format": "pt"})
    with pytest.raises(QilinError, match="its weights lack decoder"):
        baseline.load_sequence_model(tiny_t5)
