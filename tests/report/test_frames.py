"""Tidy frames of a run: what the files hold, nothing lost, runs and models compared item by item."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.benchmarks import PAPER
from qilin_lib.report import frames, tables, whole
from qilin_lib.runs import PARENTS
from tests.report.conftest import DPO


def record(number: int, right: bool, **more: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "correct": right, "output": "A", "reference": "A", "prompt": "问", **more}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: Any, ledger: Any, tokens: Any) -> Callable[..., Path]:
    """make(name, seed, shift, …): a finished run of made-up files, its accuracies moved by `shift`."""
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))

    def made(name: str = "one", seed: int = 1, shift: float = 0.0, right: str = "110100110", **changed: Any) -> Path:
        run, own = tmp_path / name, copy.deepcopy(scores)
        for model in own["cmexam"].values():
            model["accuracy"]["value"] += shift
        files.write_json(run / "01_build_chimed" / "ledger.json", ledger)
        files.write_json(run / "02_tokenize" / "token_counts.json", tokens)
        files.write_json(run / "06_eval" / "scores.json", own)
        for model, answers in (("sft", right), ("dpo", "111100110")):
            rows = [record(n, one == "1", groups={"department": "内科"}) for n, one in enumerate(answers)]
            files.write_jsonl(run / "06_eval" / "predictions" / "fixed" / "cmexam" / f"{model}.jsonl", rows)
        texts = [{"id": "h", "output": "多休息", "reference": "休息"}]
        files.write_jsonl(run / "06_eval" / "predictions" / "fixed" / "huatuo" / "sft.jsonl", texts)
        log = [{"step": 5, "loss": 2.5, "learning_rate": 1e-3}, {"step": 10, "loss": 2.0}]
        files.write_jsonl(run / "03_dcpt" / "log.jsonl", log)
        medical = {"tokens": [3, 4], "chars": [5, 6], "before": [-9.0, -8.0], "after": [-7.0, -6.0]}
        files.write_json(run / "03_dcpt" / "heldout.json", {"medical": medical})
        pairs = {f"tokens_{side}": [7] for side in ("chosen", "rejected")}
        sides = {f"{who}_{side}": [-3.0] for who in ("policy", "reference") for side in ("chosen", "rejected")}
        files.write_json(run / "05_dpo" / "heldout.json", pairs | sides)
        for stage in (*PARENTS["06_eval"], "06_eval"):
            parameters = {"seed": seed, "run": name, "gpus": 0, "nodes": 1, **changed.get(stage, {})}
            manifest = {"key": "k", "digest": name * 8, "inputs": {}, "outputs": {}, "parameters": parameters}
            files.write_json(run / stage / "manifest.json", manifest)
        return run

    return made


def test_every_view_has_its_documented_columns_of_one_run_and_of_two(make: Callable) -> None:
    make("one"), make("two", 2)
    for view in ("evaluation", "records", "ledger", "training", "heldout"):
        shown = getattr(frames, view)
        one, both = shown.frame("one"), shown.frame(["one", "two"])
        assert list(one.columns)[: len(shown.columns)] == list(shown.columns) and all(shown.columns.values())
        assert len(both) == 2 * len(one) > 0 and list(both["run"].unique()) == ["one", "two"]


def test_every_score_is_a_row_with_its_number_and_source(make: Callable, scores: Any) -> None:
    frame = frames.evaluation.frame(make())
    asked = [scores, scores["released"]]
    entries = [each[name][model] for each in asked for name in each if name in PAPER for model in each[name]]
    found = [leaf for entry in entries for leaf in frames.leaves(entry)]
    assert len(frame) == len(found) and frame["value"].sum() == pytest.approx(
        sum(summary["value"] or 0 for _, summary in found)
    )
    row = frame.query("benchmark == 'cmexam' and model == 'dpo' and group == 'department' and part == '眼科'").iloc[0]
    assert (row["value"], row["low"], row["high"], row["n"], row["metric"]) == (20, 15, 25, 90, "accuracy")
    assert (row["name"], row["seed"], row["manifest"]) == (DPO, 1, "one" * 8)
    assert row["records"] == "06_eval/predictions/fixed/cmexam/dpo.jsonl"
    # The tables are pivots of it.
    table = tables.score_table(5, scores).frame.set_index("Model")
    own = frame.query("benchmark == 'cmexam' and protocol == 'fixed' and group == '' and metric == 'bleu_4'")
    assert table.loc[own["name"], "BLEU-4"].tolist() == own["value"].tolist()


def test_the_papers_number_stands_beside_ours_only_on_its_base(make: Callable, scores: Any, run_of: Any) -> None:
    assert frames.evaluation.frame(make())["paper"].isna().all()
    scores["run"] = run_of("Baichuan-7B", 7_000_559_616, as_paper=True)
    known = frames.evaluation.frame(make("paper")).query("protocol == 'fixed' and benchmark == 'cmexam'")
    papers = known.dropna(subset="paper").set_index(["model", "metric"])["paper"].to_dict()
    assert papers == {("base", "accuracy"): 33.5, ("dcpt", "accuracy"): 38.4, ("sft", "accuracy"): 40.0}


def test_records_are_scored_and_bear_their_annotations(make: Callable) -> None:
    frame = frames.records.frame(make(), "cmexam")
    assert frame.groupby("model")["score"].mean().to_dict() == pytest.approx({"sft": 500 / 9, "dpo": 600 / 9})
    assert set(frame["department"]) == {"内科"} and frames.records.frame("one")["benchmark"].nunique() == 2
    # ROUGE-L of 多休息 and 休息: 2 of 3 and 2 of 2 characters.
    assert frames.records.frame("one", "huatuo")["score"].item() == pytest.approx(80)
    entities = {"reference": '[["sym", "头痛", 0, 2], ["dru", "药", 3, 4]]', "predicted": [["sym", "头痛"]]}
    assert frames.item_score(entities) == pytest.approx(200 / 3)
    with pytest.raises(QilinError, match=r"no records of 'cmexm'.*cmexam"):
        frames.records.frame("one", "cmexm")


def test_ledger_log_and_held_out_texts(make: Callable, ledger: Any) -> None:
    books = frames.ledger.frame(make())
    assert books["read"].sum() == sum(row["read"] for row in ledger["sources"]) and len(books) == 7
    fates = ["kept", "rejected", "duplicate", "contaminated", "excluded", "merged"]
    assert (books[fates].sum(axis=1) == books["read"]).all()
    assert books.set_index(["set", "source"]).loc[("sft", "cmexam"), "tokens"] == 4000
    log = frames.training.frame("one").set_index(["step", "metric"])["value"]
    assert log.to_dict() == {(5, "loss"): 2.5, (5, "learning_rate"): 1e-3, (10, "loss"): 2.0}
    texts = frames.heldout.frame("one")
    after = texts.query("stage == '03_dcpt' and moment == 'after'")
    assert math.exp(-after["logp"].sum() / after["tokens"].sum()) == pytest.approx(math.exp(13 / 7))
    assert len(texts) == 2 * 2 + 4 and set(texts.query("stage == '05_dpo'")["tokens"]) == {7}


def test_what_cannot_be_scored_has_no_score_and_thoughts_are_no_answer(make: Callable) -> None:
    """C-Eval's test split has no public answers, a rubric no reference; a thought is left out, as in the tables."""
    run = make()
    folder = run / "06_eval" / "predictions" / "fixed"
    unknown = [{"id": "law-0", "correct": None, "gold": None, "output": "A", "reference": "", "prompt": "问"}]
    rubric = [{"id": "r", "output": "请卧床", "reference": "", "prompt": "问"}]
    thought = [{"id": "h", "output": "<think>休息还是手术？</think>多休息", "reference": "多休息"}]
    for benchmark, rows in (("ceval", unknown), ("rubrics", rubric), ("mc", thought)):
        files.write_jsonl(folder / benchmark / "sft.jsonl", rows)
    frame = frames.records.frame("one").set_index("benchmark")["score"]
    assert frame[["ceval", "rubrics"]].isna().all() and frame["mc"] == 100
    for benchmark, rows in (("ceval", unknown), ("mc", thought)):
        files.write_jsonl(folder / benchmark / "dpo.jsonl", rows)
    assert set(frames.compare(("one", "sft"), ("one", "dpo"))["benchmark"]) == {"cmexam", "mc"}
    with pytest.raises(QilinError, match=r"ceval.*no item of it has a score"):
        frames.compare(("one", "sft"), ("one", "dpo"), "ceval")


def test_further_trainings_of_a_chain_are_in_the_frames_and_between_seeds(make: Callable) -> None:
    chain = ["dcpt", "sft", "sft2"]

    def chained(name: str, seed: int, rate: float = 1e-3) -> Path:
        run = make(name, seed)
        for stage in ("03_dcpt", "04_sft", "04_sft2", "06_eval"):
            inputs = {"04_sft": "x"} if stage == "04_sft2" else {}
            parameters = {"seed": seed, "run": name, "chain": chain, "learning_rate": rate if stage[-1] == "2" else 1.0}
            files.write_json(
                run / stage / "manifest.json",
                {"key": "k", "digest": "d", "inputs": inputs, "outputs": {}, "parameters": parameters},
            )
        files.write_jsonl(run / "04_sft2" / "log.jsonl", [{"step": 1, "loss": 0.5}])
        conversations = {"tokens": [3], "before": [-9.0], "after": [-7.0], "source": ["cmexam"]}
        files.write_json(run / "04_sft2" / "heldout.json", {"medical": conversations})
        shutil.rmtree(run / "05_dpo")
        return run

    chained("one", 1), chained("two", 2), chained("other", 3, rate=5e-4)
    assert "04_sft2" in set(frames.training.frame("one")["stage"])
    assert set(frames.heldout.frame("one").query("stage == '04_sft2'")["source"]) == {"cmexam"}
    assert frames.over_seeds(["one", "two"])["runs"].max() == 2
    with pytest.raises(QilinError, match=r"differ in 04_sft2\.learning_rate"):
        frames.over_seeds(["one", "other"])


def test_a_run_that_is_not_there_or_lacks_a_file_is_named(make: Callable) -> None:
    run = make("smoke")
    with pytest.raises(QilinError, match=r"run 'smoek': no such run in .*smoke"):
        frames.ledger.frame("smoek")
    with pytest.raises(QilinError, match=r"run '.*elsewhere': no such folder"):
        frames.ledger.frame(run.parent / "elsewhere")
    (run / "06_eval" / "scores.json").unlink()
    with pytest.raises(QilinError, match=r"run 'smoke' has no 06_eval/scores.json: run notebooks/06_eval"):
        frames.evaluation.frame("smoke")


def test_seeds_give_mean_deviation_and_range(make: Callable) -> None:
    for seed, shift in ((1, 0.0), (2, 3.0), (3, 6.0)):
        make(f"run{seed}", seed, shift)
    shown = frames.over_seeds(["run1", "run2", "run3"])
    row = shown.query("benchmark == 'cmexam' and protocol == 'fixed' and model == 'sft' and path == 'accuracy'").iloc[0]
    assert row[["runs", "mean", "deviation", "least", "largest"]].tolist() == pytest.approx([3, 42, 3, 39, 45])


def test_runs_that_differ_in_more_than_the_seed_are_refused(make: Callable) -> None:
    make("one"), make("beta", 2, **{"05_dpo": {"beta": 0.3}}), make("same"), make("gpus", 2, **{"04_sft": {"gpus": 4}})
    with pytest.raises(QilinError, match=r"differ in 05_dpo\.beta, not in the seed alone"):
        frames.over_seeds(["one", "beta"])
    with pytest.raises(QilinError, match="have the same seed"):
        frames.over_seeds(["one", "same"])
    with pytest.raises(QilinError, match="over_seeds: 1 run; nearest valid: two runs"):
        frames.over_seeds("one")
    assert len(frames.over_seeds(["one", "gpus"]))


def test_two_models_are_compared_item_by_item(make: Callable) -> None:
    make()
    items = frames.matched(("one", "sft"), ("one", "dpo"), "cmexam")
    assert items["difference"].tolist() == [0, 0, 100, 0, 0, 0, 0, 0, 0]
    row = frames.compare(("one", "sft"), ("one", "dpo"), "cmexam").iloc[0]
    assert (row["n"], row["mean_a"], row["p"]) == (9, pytest.approx(500 / 9), 1.0)
    assert row["difference"] == pytest.approx(100 / 9) and row["low"] < row["difference"] < row["high"]
    back = frames.compare(("one", "dpo"), ("one", "sft"), "cmexam").iloc[0]
    assert back["difference"] == pytest.approx(-row["difference"])


def test_two_runs_are_compared_on_all_that_both_have(make: Callable) -> None:
    make("one"), make("two", right="111111111")
    frame = frames.compare("one", "two").set_index(["benchmark", "model"])["difference"]
    assert frame.to_dict() == pytest.approx(
        {("cmexam", "dpo"): 0, ("cmexam", "sft"): 400 / 9, ("huatuo", "sft"): 0}, abs=1e-9
    )
    with pytest.raises(QilinError, match=r"'sftt'.*did you mean 'sft'"):
        frames.compare(("one", "sftt"), ("two", "sft"), "cmexam")
    with pytest.raises(QilinError, match=r"run 'two' has no records of model 'dppo'.*did you mean 'dpo'"):
        frames.compare(("one", "sft"), ("two", "dppo"))
    shutil.rmtree(make("bare") / "06_eval" / "predictions")
    with pytest.raises(QilinError, match="no benchmark was answered by both"):
        frames.compare("one", "bare")
    make("three", right="1111")
    with pytest.raises(QilinError, match=r"compare one with three on cmexam, fixed: 5 items stand in one of them only"):
        frames.compare("one", "three", "cmexam")
    assert isinstance(frames.compare("one", "two", "huatuo"), pd.DataFrame)


def test_what_cannot_be_compared_is_named_and_the_rest_is_compared(make: Callable) -> None:
    make("one"), make("two", right="1111")
    for name in ("one", "two"):
        folder = frames.run_of(name).dir / "06_eval" / "predictions" / "fixed"
        unknown = [{"id": "law-0", "correct": None, "gold": None, "output": "A", "reference": "", "prompt": "问"}]
        files.write_jsonl(folder / "ceval" / "sft.jsonl", unknown)
        files.write_jsonl(folder / f"mc_{name}" / "sft.jsonl", [record(0, True)])
    with pytest.warns(UserWarning) as told:
        frame = frames.compare("one", "two")
    assert frame[["benchmark", "model"]].to_numpy().tolist() == [["cmexam", "dpo"], ["huatuo", "sft"]]
    said = str(told[0].message)
    assert said.startswith("compare one with two: left out: ") and len(told) == 1 and told[0].filename == __file__
    assert (
        "cmexam: 5 items stand in one of them only (sft)" in said and "ceval: no item of it has a score (sft)" in said
    )
    assert "mc_one: answered by one of them only" in said and "mc_two: answered by one" in said


@pytest.mark.parametrize("given", [5, None, {"one"}, ["one", 5], "", b"one"])
def test_what_is_no_run_is_refused_in_a_sentence(make: Callable, given: Any) -> None:
    make()
    with pytest.raises(QilinError, match=r"run .*(nearest valid: .* its name|no such run)"):
        frames.evaluation.frame(given)
    with pytest.raises(QilinError, match=r"run .*(nearest valid: .* its name|no such run)"):
        frames.compare("one", given)
    with pytest.raises(QilinError, match=r"compare: \('one', 'sft', 'cmexam'\).*nearest valid: .*\(run, model\)"):
        frames.compare("one", ("one", "sft", "cmexam"))


def test_tables_of_the_data_say_what_was_accepted(make: Callable) -> None:
    run = make()
    entry = {"stage": "02_tokenize", "when": "2026-01-02", "reason": "the log alone differs"}
    entry |= {"key": "", "inputs": {}, "files": {}}
    files.write_json(run / "02_tokenize.accepted.json", [entry])
    stage = SimpleNamespace(parent=lambda name: run / name, run_dir=run, begin=lambda: None, up_to_date=True)
    for table in whole.all_tables(stage)[:3]:
        assert table.notes[0] == "02_tokenize was accepted as it is on 2026-01-02: the log alone differs"
