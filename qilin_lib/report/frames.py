"""Every number of a run as tidy pandas: `evaluation.frame(run)`, `records`, `ledger`, `training`, `heldout`.

A run is a stage of a notebook, a `Run`, the path of its folder, or its name; a list of runs gives their rows below each
other. `View.columns` says what each column means. `over_seeds` and `compare` say what differs between runs and models.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qilin_lib import chains, files, runs, strict_yaml
from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate import evidence, intervals, metrics, store
from qilin_lib.evaluate.benchmarks import FURTHER, PAPER
from qilin_lib.evaluate.replies import spoken
from qilin_lib.evaluate.scores import STAGES
from qilin_lib.models import names
from qilin_lib.report import paper

PUBLISHED = {*paper.CHIMED_GPT["results"]} | {row.label for n in (4, 5, 6) for row in paper.TABLES[n].rows}
AnyRun = runs.Run | runs.Stage | Path | str
_COLUMNS = strict_yaml.read(Path(__file__).with_name("frames.yaml"))


@dataclass(frozen=True)
class View:
    """One kind of rows of a run; `columns` {name: meaning}."""

    rows: Callable[..., Iterable[Mapping[str, Any]]]
    columns: Mapping[str, str]

    def frame(self, run: AnyRun | Sequence[AnyRun], *chosen: str) -> pd.DataFrame:
        """The rows of a run, or of several; `chosen` is handed on (`records`: the benchmark, "" = all).

        QilinError for a run that is not there or lacks the file.
        """
        rows = [{"run": one.name, **row} for one in _all(run) for row in self.rows(one, *chosen)]
        further = dict.fromkeys(name for row in rows for name in row if name not in self.columns)
        return pd.DataFrame(rows, columns=[*self.columns, *further]).infer_objects()


def run_of(run: AnyRun) -> runs.Run:
    """The run that a stage, a path or a name stands for; QilinError if there is none."""
    if isinstance(run, runs.Run | runs.Stage):
        return run if isinstance(run, runs.Run) else run.run
    if not isinstance(run, Path | str):
        raise QilinError(
            f"run {run!r}: {type(run).__name__}; nearest valid: a stage, a Run, a folder's path or its name"
        )
    if isinstance(run, str) and "/" not in run:
        return runs.find(run)
    if not Path(run).is_dir():
        raise QilinError(f"run '{run}': no such folder")
    return runs.Run(Path(run))


def _all(several: AnyRun | Sequence[AnyRun]) -> list[runs.Run]:
    return [run_of(one) for one in (several if isinstance(several, list | tuple) else [several])]


def ordered(models: Iterable[str]) -> list[str]:
    """Models in the order of tables and figures: the stages, further ones of a chain, then all others by name, each
    with its rows with passages behind it."""
    places = {name: evidence.parts(name) for name in models}
    bare = dict.fromkeys(name for name, _ in places.values())
    further = [name for name in bare if re.match(chains.NAME, name) and name not in names.STAGES]
    own = [*(name for name in names.STAGES if name in bare), *further]
    order = [*own, *sorted(bare.keys() - {*own})]
    kinds = ("", evidence.RETRIEVAL, evidence.RANDOM, evidence.GOLD)
    return sorted(places, key=lambda name: (order.index(places[name][0]), kinds.index(places[name][1])))


def bare(models: Iterable[str]) -> list[str]:
    """The models without their rows with passages, which would be as many columns again."""
    return [model for model in ordered(models) if not evidence.parts(model)[1]]


def stages_of(scores: Mapping[str, Any]) -> list[str]:
    """Those of the paper's stages that the run has."""
    return [name for name in STAGES if name in scores["run"]["names"]]


def name_of(scores: Mapping[str, Any], model: str) -> str:
    """What tables and figures call a model: one of the run by base and stages, a baseline as the profile does, with
    the kind of passages that it was shown.

    A baseline that has the name of a published row is marked "(ours)".
    """
    bare, kind = evidence.parts(model)
    name = scores["run"]["names"].get(bare, bare)
    name = f"{name} (ours)" if name in PUBLISHED else name
    return f"{name} + {kind}" if kind else name


def _file(run: runs.Run, path: str) -> Path:
    if not (run.dir / path).exists():
        stage = path.partition("/")[0]
        raise QilinError(f"run '{run.name}' has no {path}: run notebooks/{stage}.ipynb first")
    return run.dir / path


# --- 06: scores and records -------------------------------------------------------------------------------------------


def results_of(scores: Mapping[str, Any], benchmark: str, protocol: str = "fixed") -> Mapping[str, Any]:
    """{model: entry} of a benchmark under a protocol, {} where it was not run."""
    return (scores if protocol == "fixed" else scores.get(protocol, {})).get(benchmark, {})


def leaves(entry: Mapping[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping]]:
    """(path, summary) of every score below an entry."""
    for name, inner in entry.items():
        if isinstance(inner, Mapping) and "value" in inner:
            yield (*place, name), inner
        elif isinstance(inner, Mapping):
            yield from leaves(inner, (*place, name))


def at(entry: Mapping[str, Any] | None, path: Sequence[str]) -> Mapping[str, Any] | None:
    """The score at a path of a model's entry, None where there is none."""
    found: Any = entry
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) and "value" in found else None


def _grouped(place: Sequence[str]) -> dict[str, str]:
    """Which items a score is of, and its metric, from its path."""
    first, last = place[0], place[-1]
    if first in ("subjects", "categories", "groups", "options"):
        group = place[1] if first == "groups" else {"categories": "category"}.get(first, first.removesuffix("s"))
        return {"group": group, "part": last, "metric": "accuracy"}
    return {"group": first if len(place) > 1 else "", "part": "/".join(place[1:-1]), "metric": last}


def _scores(run: runs.Run) -> Iterator[dict[str, Any]]:
    scores = files.read_json(_file(run, "06_eval/scores.json"))
    # The stage is read while it is being made, too.
    manifest = run.manifest("06_eval") if run.finished("06_eval") else {}
    compared = scores["run"]["as_paper"]
    papers = {(table.benchmark, row.ours): row for table in paper.TABLES.values() for row in table.rows if row.ours}
    asked = [
        (protocol, benchmark, results[benchmark])
        for protocol, results in (("fixed", scores), ("released", scores.get("released", {})))
        for benchmark in results
        if benchmark in PAPER or benchmark in FURTHER
    ]
    for protocol, benchmark, entries in asked:
        for model in ordered(entries):
            row = papers.get((benchmark, model)) if model in compared else None
            for place, summary in leaves(entries[model]):
                cell = row.known.get(place[-1]) if row and len({*place} - {"lora"}) == 1 else None
                yield {
                    "seed": manifest.get("parameters", {}).get("seed"),
                    "benchmark": benchmark,
                    "protocol": protocol,
                    "model": model,
                    "name": name_of(scores, model),
                    **_grouped(place),
                    **{name: summary.get(name) for name in ("value", "low", "high", "n")},
                    "paper": cell and cell.value,
                    "path": "/".join(place),
                    "records": store.predictions("06_eval", protocol, benchmark, model).as_posix(),
                    "manifest": manifest.get("digest", ""),
                }


evaluation = View(_scores, _COLUMNS["evaluation"])


def _records(run: runs.Run, benchmark: str = "") -> Iterator[dict[str, Any]]:
    folder = _file(run, "06_eval/scores.json").parent
    scores = files.read_json(folder / "scores.json")
    paths = sorted(folder.glob(f"predictions/*/{benchmark or '*'}/*.jsonl"))
    if not paths:
        there = sorted({path.name for path in folder.glob("predictions/*/*/")})
        raise QilinError(f"run '{run.name}' has no records of '{benchmark}'{nearest(benchmark, there)}; it has {there}")
    for path in paths:
        for row in files.read_jsonl(path):
            yield {
                **{name: row.get(name) for name in records.columns if name not in ("name", "score")},
                **{"benchmark": path.parts[-2], "protocol": path.parts[-3], "model": path.stem},
                **{"name": name_of(scores, path.stem), "score": item_score(row), "run": run.name},
                **(row.get("groups") or {}),
            }


records = View(_records, _COLUMNS["records"])
"""After these columns one for each annotation of the items (department, difficulty …)."""


def item_score(record: Mapping[str, Any]) -> float | None:
    """What one record is worth, in percent: right or wrong, F1 of its entities, or ROUGE-L of its characters, thoughts
    left out. None where the right answer is not public, or nothing says what a good one is."""
    if "correct" in record:
        return None if record["correct"] is None else 100.0 * record["correct"]
    if "predicted" in record:
        wanted = {(kind, text) for kind, text, *_ in json.loads(record["reference"])}
        said = {(kind, text) for kind, text, *_ in record["predicted"]}
        return 200.0 * len(wanted & said) / (len(wanted) + len(said)) if wanted or said else 100.0
    if not record["reference"]:
        return None
    words = [[metrics.tokenize(text, "char")] for text in (spoken(record["output"]), record["reference"])]
    return float(metrics.rouge_l(metrics.longest(*words))[0])


# --- 01, and the trainings --------------------------------------------------------------------------------------------


def count(value: int | Mapping[str, int]) -> int:
    """How many, of a number or of all the numbers of a mapping."""
    return sum(value.values()) if isinstance(value, Mapping) else value


def _ledger(run: runs.Run) -> Iterator[dict[str, Any]]:
    rows = files.read_json(_file(run, "01_build_chimed/ledger.json"))["sources"]
    digest = run.manifest("01_build_chimed")["digest"] if run.finished("01_build_chimed") else ""
    counted = run.dir / "02_tokenize" / "token_counts.json"
    tokens = files.read_json(counted) if counted.exists() else {}
    for row in rows:
        yield {
            **{name: row.get(name) for name in ledger.columns if name != "run"},
            **{name: count(row[name]) for name in ("rejected", "deidentified")},
            "tokens": tokens.get(row["set"], {}).get(row["source"], {}).get("tokens"),
            "manifest": digest,
        }


ledger = View(_ledger, _COLUMNS["ledger"])


def _training(run: runs.Run) -> Iterator[dict[str, Any]]:
    for stage in chains.graph(run.chain):
        for path in sorted(run.folder(stage).rglob("log.jsonl")):
            place = path.relative_to(run.dir).parent.as_posix()
            for row in files.read_jsonl(path):
                for name, value in row.items():
                    if name != "step" and isinstance(value, int | float):
                        yield {"stage": place, "step": row["step"], "metric": name, "value": value}


training = View(_training, _COLUMNS["training"])


def _heldout(run: runs.Run) -> Iterator[dict[str, Any]]:
    """A row per moment and text of each part of heldout.json."""
    beside = ("source", "strategy", "left_out", "tokens", "chars")
    for stage in filter(chains.trains, chains.graph(run.chain)):
        path = run.dir / stage / "heldout.json"
        scores = files.read_json(path) if path.exists() else {}
        for part, entry in ({"pairs": scores} if "policy_chosen" in scores else scores).items():
            lists = {name: values for name, values in entry.items() if isinstance(values, list)}
            for moment in [name for name in lists if not name.startswith(beside)]:
                sizes = lists.get("tokens") or lists.get(f"tokens_{moment.rpartition('_')[2]}")
                about = {"source": lists.get("source"), "tokens": sizes, "chars": lists.get("chars")}
                for item, logp in enumerate(lists[moment]):
                    known = {name: values[item] if values else None for name, values in about.items()}
                    yield {"stage": stage, "part": part, "item": item, "moment": moment, "logp": logp, **known}


heldout = View(_heldout, _COLUMNS["heldout"])


# --- several runs, two models -----------------------------------------------------------------------------------------


def over_seeds(several: Sequence[AnyRun]) -> pd.DataFrame:
    """Each score over runs that differ in nothing but their seed: how many runs, mean, deviation, least and largest.

    `deviation` is the sample's standard deviation over runs: what another seed moves, which the interval over items of
    one run does not know. QilinError for fewer than two runs, or names the parameter that differs.
    """
    found = _all(several)
    if len(found) < 2:
        raise QilinError(f"over_seeds: {len(found)} run; nearest valid: two runs of one profile with different seeds")
    first, *others = [_parameters(run) for run in found]
    for run, other in zip(found[1:], others, strict=True):
        differing = sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key))
        if differing:
            raise QilinError(
                f"runs '{found[0].name}' and '{run.name}' differ in {', '.join(differing)}, not in the seed alone: "
                "compare() sets two runs side by side"
            )
    frame = evaluation.frame(found)
    if frame["seed"].nunique() < len(found):
        raise QilinError(f"over_seeds: two of {[run.name for run in found]} have the same seed")
    keys = ["benchmark", "protocol", "model", "name", "group", "part", "metric", "path"]
    grouped = frame.groupby(keys, sort=False)["value"]
    return grouped.agg(runs="count", mean="mean", deviation="std", least="min", largest="max").reset_index()


def _parameters(run: runs.Run) -> dict[str, Any]:
    """{stage.parameter: value} of the stages that 06 rests on, without what changes no result, and the seed."""
    from qilin_lib.annotations import outside_key
    from qilin_lib.schema import SECTIONS

    chosen = {}
    for stage in (*chains.graph(run.chain)["06_eval"], "06_eval"):
        _, model = SECTIONS[stage.rstrip("0123456789")]
        values = runs.result_settings(run.manifest(stage)["parameters"], outside_key(model))
        chosen |= {f"{stage}.{name}": value for name, value in values.items() if name != "seed"}
    return chosen


def matched(a: Any, b: Any, benchmark: str, protocol: str = "fixed") -> pd.DataFrame:
    """Item by item: `score_a`, `score_b`, `difference` and whether it is an exam's, indexed by model and id.

    `a` and `b` are runs (all models that both have), or pairs (run, model). QilinError unless their items are the same.
    """
    frame, why = _matched(a, b, benchmark, protocol)
    if why:
        what = f"{benchmark}, {protocol}: {'; '.join(why)}"
        raise QilinError(f"{_told(a, b)} on {what}; run 06 for both with the same caps")
    return frame


def _matched(a: Any, b: Any, benchmark: str, protocol: str = "fixed") -> tuple[pd.DataFrame, list[str]]:
    """The frame of `matched`, of the models whose items are the same, and why it is not of the others."""
    sides = [_answers(side, benchmark, protocol) for side in (a, b)]
    if isinstance(a, tuple) and isinstance(b, tuple):
        sides = [side.assign(model=f"{b[1]} - {a[1]}") for side in sides]
    models = set.intersection(*(set(side["model"]) for side in sides))
    left, right = (side[side["model"].isin(models)].set_index(["model", "id"]) for side in sides)
    different = left.index.symmetric_difference(right.index).get_level_values("model").value_counts()
    why = [f"{n} items stand in one of them only ({model})" for model, n in different.sort_index().items()]
    left, right = (side.drop(index=different.index, level="model") for side in (left, right))
    scores = {"score_a": left["score"], "score_b": right["score"], "exam": left["correct"].notna()}
    frame = pd.DataFrame(scores | {"difference": right["score"] - left["score"]})
    return frame, why if models else ["they have no model in common"]


def _side(side: Any) -> tuple[runs.Run, str]:
    """A run, and one of its models, "" for all."""
    if isinstance(side, tuple) and len(side) != 2:
        raise QilinError(f"compare: {side!r}: {len(side)} values; nearest valid: a run, or a pair (run, model)")
    run, model = side if isinstance(side, tuple) else (side, "")
    return run_of(run), model


def _answers(side: Any, benchmark: str, protocol: str) -> pd.DataFrame:
    """The records of a run, or of one of its models, which QilinError names if it has none."""
    run, model = _side(side)
    rows = records.frame(run, benchmark).query("protocol == @protocol")
    there = sorted(set(rows["model"]))
    if model and model not in there:
        told = f"run '{run.name}' has no records of model '{model}' on {benchmark or 'any benchmark'}, {protocol}"
        raise QilinError(f"{told}{nearest(model, there)}; it has {there}")
    return rows[rows["model"] == model] if model else rows


def _benchmarks(side: Any) -> set[str]:
    """Those that a run, or one of its models, has answered under the fixed protocol."""
    run, model = _side(side)
    found = {path.parent.name for path in run.dir.glob(f"06_eval/predictions/fixed/*/{model or '*'}.jsonl")}
    if model and not found:
        _answers(side, "", "fixed")
    return found


def _told(*sides: Any) -> str:
    return f"compare {' with '.join(f'{run.name} {model}'.rstrip() for run, model in map(_side, sides))}"


def compare(a: Any, b: Any, benchmark: str = "", resamples: int = 1000, seed: int = 42) -> pd.DataFrame:
    """b less a on the same items: for each benchmark and model n, both means, difference with 95 % interval, and p.

    `a` and `b` as in `matched`: `compare("smoke", "beta_0.3")`, `compare(("smoke", "sft"), ("smoke", "dpo"))`;
    `benchmark`: "" = all that can be compared; a warning says which cannot, and why. What is compared is `records`'
    `score`. Exams: Bonett and Price, exact McNemar; else bootstrap-t. p is not adjusted for how many there are.
    """
    there = _benchmarks(a), _benchmarks(b)
    both = [benchmark] if benchmark else sorted(there[0] & there[1])
    rows, left = [], [f"{name}: answered by one of them only" for name in sorted(there[0] ^ there[1]) if not benchmark]
    for name in both:
        frame, why = (matched(a, b, name), []) if benchmark else _matched(a, b, name)
        left += [f"{name}: {one}" for one in why]
        for model, answered in frame.groupby(level=0):
            items = answered.dropna(subset="difference")
            if items.empty:
                left.append(f"{name}: no item of it has a score ({model})")
                continue
            means = {"mean_a": items["score_a"].mean(), "mean_b": items["score_b"].mean()}
            values = [items[side].to_numpy() for side in ("score_a", "score_b")]
            exam = items["exam"].all()
            pair = [intervals.proportion(scores == 100) if exam else intervals.mean_of(scores) for scores in values]
            rows.append({"benchmark": name, "model": model, **means, **intervals.paired(*pair, resamples, seed)})
    if not rows:
        why = "; ".join(left) if both else "no benchmark was answered by both"
        raise QilinError(f"{_told(a, b)}: {why}; run 06 for both with the same caps")
    if left:
        warnings.warn(f"{_told(a, b)}: left out: {'; '.join(left)}", stacklevel=2)
    return pd.DataFrame(rows)
