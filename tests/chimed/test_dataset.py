"""A dataset card and Parquet of what 01 wrote: read back by `load_dataset`, counted against what 01 wrote."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset
from raw_files import jsonl, put

from qilin_lib import files
from qilin_lib.chimed import dataset

GRAPHS = {
    "kg_cpubmed/cpubmed_kg_v2.txt": "霍乱@@疾病\t传播途径\t粪口传播@@流行病学\n",
    "kg_xywy/medical.json": jsonl([{"name": "霍乱", "desc": "霍乱弧菌引起的急性肠道传染病。", "symptom": ["腹泻"]}]),
}


@pytest.fixture
def run(tiny_raw: Path, build_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run whose 01 is a build of the tiny raw folder with two graphs, under a manifest as the kit writes it."""
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr(dataset, "_ROWS", 3)
    stage = tmp_path / "runs/small/01_build_chimed"
    built = build_of(put(tiny_raw, GRAPHS), stage, heldout_share_sft=0.3)
    manifest = {"key": "k", "digest": "d" * 64, "inputs": {"raw": {"cmd/cmd.jsonl": "5a" * 32}}, "finished": "today"}
    paths = [path for path in stage.rglob("*") if path.is_file()]
    outputs = {
        str(path.relative_to(stage)): {"sha256": files.sha256_file(path), "bytes": path.stat().st_size}
        for path in paths
    }
    manifest |= {"outputs": outputs, "environment": {"python": "3.11", "git_commit": "c0ffee"}}
    files.write_json(stage / "manifest.json", manifest | {"parameters": {"seed": 42, "raw_dir": str(tiny_raw)}})
    return built


@pytest.mark.parametrize("name", ["cpt", "sft", "dpo", "general"])
def test_load_dataset_reads_every_record_of_a_set(run: Any, name: str, tmp_path: Path) -> None:
    dataset.export("small", tmp_path / "out")
    found = load_dataset(str(tmp_path / "out"), name, cache_dir=str(tmp_path / "cache"))
    records = getattr(run, name)
    assert set(found) == {row["split"] for row in records}
    for split in found:
        rows = [*found[split]]
        graphs = [{each["feature"]: each["graphs"] for each in row.pop("graphs", [])} for row in rows]
        wanted = [{key: v for key, v in row.items() if key != "split"} for row in records if row["split"] == split]
        assert graphs == [row.pop("graphs", {}) for row in wanted] and rows == wanted
    assert {row["split"] for row in run.sft} == {"train", "heldout"}


def test_the_card_states_features_counts_licences_and_how_it_was_made(run: Any, tmp_path: Path) -> None:
    assert dataset.main([str(tmp_path / "runs/small"), str(tmp_path / "out")]) == 0
    _, head, text = (tmp_path / "out/README.md").read_text(encoding="utf-8").split("---\n", 2)
    infos = {info["config_name"]: info for info in yaml.safe_load(head)["dataset_info"]}
    assert [feature["name"] for feature in infos["sft"]["features"]] == ["id", "source", "licence", "part", "messages"]
    splits = Counter((row["source"], row["licence"], row["split"]) for row in run.cpt)
    for source, licence in {key[:2] for key in splits}:
        train, heldout = (splits[source, licence, split] for split in ("train", "heldout"))
        assert f"| cpt | {source} | {licence} | {train} | {heldout} | 0 |" in text
    assert f"{'d' * 64}" in text and "c0ffee" in text and "| seed | 42 |" in text and str(tmp_path) not in text
    assert "must not be redistributed" in text and "| cpt | kg_xywy | not stated | 1 |" in text
    assert "| cpt | kg_cpubmed | CC BY-ND 4.0 | 1 |" in text


def test_only_records_under_the_named_licences_are_kept_and_the_others_counted(run: Any, tmp_path: Path) -> None:
    counts = dataset.export("small", tmp_path / "out", ["MIT", "Apache-2.0"])
    rows = load_dataset(str(tmp_path / "out"), "cpt", cache_dir=str(tmp_path / "cache"))["train"]
    assert set(rows["licence"]) == {"MIT", "Apache-2.0"}
    assert "Of `general` there is nothing." in (tmp_path / "out/README.md").read_text(encoding="utf-8")
    left = sum(count for (name, *_, column), count in counts.items() if (name, column) == ("cpt", "left out"))
    assert left == sum(row["licence"] not in ("MIT", "Apache-2.0") for row in run.cpt) > 0


def test_what_stands_in_the_way_is_said_in_one_sentence(run: Any, tmp_path: Path, capsys: Any) -> None:
    def refused(*arguments: str) -> str:
        assert dataset.main([*arguments]) == 2
        return capsys.readouterr().err

    put(tmp_path, {"full/a": "a", "runs/begun/01_build_chimed/cpt.jsonl": ""})
    out, cpt = str(tmp_path / "out"), tmp_path / "runs/small/01_build_chimed/cpt.jsonl"
    assert "exists and is not empty" in refused("small", str(tmp_path / "full"))
    assert "did you mean 'small'" in refused("smal", out) and "has no finished 01_build_chimed" in refused("begun", out)
    assert "did you mean 'MIT'" in refused("small", out, "--licences", "MTI")
    cpt.write_text(json.dumps(run.cpt[0]) + "\n")
    assert "cpt.jsonl is not what 01_build_chimed wrote" in refused("small", out)
