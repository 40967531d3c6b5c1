"""Multiple-choice exams as local tasks of EleutherAI's lm-evaluation-harness, for its oracle and for bench_eval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qilin_lib.evaluate.items import Item

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
