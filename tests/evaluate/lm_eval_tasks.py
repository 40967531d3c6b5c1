"""Multiple-choice exams as local tasks of EleutherAI's lm-evaluation-harness, for its oracle and for bench_eval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qilin_lib.evaluate.benchmarks import answers
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.prompts import Prompt

LETTERS = "ABCD"


def write_task(
    folder: Path, name: str, header: str, shots: Sequence[Item], items: Sequence[Item], end: str, delimiter: str = ""
) -> None:
    """A task as lm-eval's own of C-Eval (description, first_n shots, one letter as choice) in the kit's plain template.

    The task gets rows and fragments of text: it puts the few-shot prompt together itself. `end` is the text of the end
    token, `delimiter` what stands before a letter (lm-eval's own C-Eval task has a blank there).
    """
    files = {"dev": shots, "test": items}
    for split, rows in files.items():
        lines = [{"question": row.question, "answer": row.gold, **(row.options or {})} for row in rows]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}_{split}.jsonl").write_text(text, encoding="utf-8")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {split: str(folder / f"{name}_{split}.jsonl") for split in files},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": len(shots),
        "output_type": "multiple_choice",
        "description": f"问：{header}",
        "doc_to_text": "{{question}}\nA. {{A}}\nB. {{B}}\nC. {{C}}\nD. {{D}}\n答：答案：",
        "doc_to_choice": list(LETTERS),
        "doc_to_target": "{{['A', 'B', 'C', 'D'].index(answer)}}",
        "target_delimiter": delimiter,
        "fewshot_delimiter": f"{end}问：",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    # JSON is YAML.
    (folder / f"{name}.yaml").write_text(json.dumps(task, ensure_ascii=False), encoding="utf-8")


def samples(folder: Path, names: Sequence[str], model: Any, **settings: Any) -> dict[str, list[dict]]:
    """{task: one dict an item, in order}: `arguments` (context, letter) and `filtered_resps` (log-likelihood, …)."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    result = lm_eval.simple_evaluate(model, tasks=list(names), task_manager=manager, bootstrap_iters=0, **settings)
    return {name: sorted(rows, key=lambda row: row["doc_id"]) for name, rows in result["samples"].items()}


def loglikelihoods(sample: dict) -> list[float]:
    """Of A-D."""
    return [float(value[0]) for value in sample["filtered_resps"]]


@dataclass(frozen=True)
class Exam:
    """One subject: its shots, its questions with the rows that lm-eval reads, and their prompts by our own code."""

    name: str
    header: str
    shots: list[Item]
    items: list[Item]
    asked: list[Prompt]


def ask_lm_eval(exams: Sequence[Exam], backend: Any, folder: Path, delimiter: str = "") -> dict[str, list[dict]]:
    import no_network

    for exam in exams:
        end = backend.template.assistant_close
        write_task(folder, exam.name, exam.header, exam.shots, exam.items, end, delimiter)
    model = {"pretrained": backend.model.name_or_path, "dtype": "float32"}
    names = [exam.name for exam in exams]
    answers = samples(folder, names, "hf", model_args=model, batch_size=3, device="cpu")
    # The harness's own libraries look for updates of theirs; they are refused, and it is not the kit that asked.
    no_network.attempts()
    return answers


def compare(exam: Exam, samples: list[dict], backend: Any) -> tuple[float, list[tuple[str, str]]]:
    """(largest difference of a log-likelihood, pairs of letters chosen) for prompts of the very same text."""
    ours = answers.answer(exam.items, exam.asked, backend)
    largest, letters = 0.0, []
    for prompt, mine, sample in zip(exam.asked, ours, samples, strict=True):
        assert [tuple(call) for call in sample["arguments"]] == [(prompt.text, letter) for letter in LETTERS]
        theirs = loglikelihoods(sample)
        largest = max(largest, *(abs(a - b) for a, b in zip(mine["scores"].values(), theirs, strict=True)))
        letters.append((mine["prediction"], LETTERS[theirs.index(max(theirs))]))
        assert sample["acc"] == mine["correct"]
    return largest, letters


def assert_agreement(exams: Sequence[Exam], backend: Any, folder: Path) -> None:
    folder.mkdir()
    samples, chosen = ask_lm_eval(exams, backend, folder), []
    for exam in exams:
        largest, letters = compare(exam, samples[exam.name], backend)
        assert all(prompt.shots == len(exam.shots) for prompt in exam.asked)
        assert largest < 1e-3 and [a for a, _ in letters] == [b for _, b in letters]
        chosen += [a for a, _ in letters]
    assert len(set(chosen)) > 1, "a model that always says the same would prove little"
