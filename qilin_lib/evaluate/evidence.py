"""Rows "+ retrieval": the same model, asked with passages of a corpus before the question, and its controls.

What each item is shown is found once, before any model is loaded: evidence/<benchmark>.jsonl. The query is the question
alone, since options would find what the exam's authors wrote (MIRAGE, Xiong et al. 2024). Controls: as many passages by
chance ("+ random"), and the item's own explanation, where it has one, as the best that could be found ("+ gold").
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from qilin_lib import files, runs
from qilin_lib.chains import BUILD
from qilin_lib.chimed import decontaminate
from qilin_lib.chimed.items import items_of
from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate.items import Item
from qilin_lib.models.base import local
from qilin_lib.progress import Show
from qilin_lib.retrieval import dense, index, passages
from qilin_lib.retrieval.index import Hit, Index
from qilin_lib.runs import Stage
from qilin_lib.schema import Retrieval

RETRIEVAL, RANDOM, GOLD = "retrieval", "random", "gold"
# Raised by hand when an index of the same corpus comes out otherwise.
VERSION = 2


def variants(parameters: Any) -> list[str]:
    """The names of the further rows, "sft + retrieval" and its controls, in order."""
    own = getattr(parameters, "retrieval", None)
    kinds = (RETRIEVAL, RANDOM, GOLD) if own and own.controls else (RETRIEVAL,)
    models = parameters.models[-1:] if own and own.models is None else own.models if own else ()
    return [f"{model} + {kind}" for model in models for kind in kinds]


def benchmarks(parameters: Any) -> dict[str, list[str]]:
    """{row: the benchmarks that it is asked} of rows that are not asked all: baselines, and those with passages."""
    asked = {name: line.benchmarks for name, line in parameters.baselines.items() if line.benchmarks is not None}
    for name in variants(parameters):
        mine = asked.get(parts(name)[0], parameters.retrieval.benchmarks)
        asked[name] = [benchmark for benchmark in parameters.retrieval.benchmarks if benchmark in mine]
    return asked


def parts(name: str) -> tuple[str, str]:
    """(model, kind) of a row's name; kind "" for a model as it is."""
    model, _, kind = name.rpartition(" + ")
    return (model, kind) if kind in (RETRIEVAL, RANDOM, GOLD) else (name, "")


def check(parameters: Any) -> None:
    """QilinError where `eval.retrieval` names a model or a corpus that is not there."""
    own, names = parameters.retrieval, [*parameters.models, *parameters.baselines]
    for model in (own and own.models) or ():
        if model not in names:
            raise QilinError(f"eval.retrieval.models: '{model}' is not asked here{nearest(model, names)}")
    if own and own.corpus != "chimed":
        passages.there(local(own.corpus))


def prepare(stage: Stage, asked: dict[str, Sequence[Item]], show: Show) -> dict[str, Any]:
    """Find the passages of all items of the benchmarks `asked`, {benchmark: items}; returns the index's facts.

    {} where nothing is asked so. QilinError for a corpus of it that gives nothing.
    """
    own = getattr(stage.parameters, "retrieval", None)
    if own is None:
        return {}
    mine = {benchmark: asked[benchmark] for benchmark in own.benchmarks if benchmark in asked}
    if not mine:
        show(f"retrieval: none of its benchmarks is asked: {', '.join(own.benchmarks)}")
        return {}
    found, recall = search_in(stage.run_dir, own, show), {}
    for benchmark, items in mine.items():
        rows = []
        for number, item in enumerate(items, start=1):
            draw = random.Random(f"{stage.parameters.seed} {item.id}")
            chance = draw.sample(range(len(found.index)), min(own.k, len(found.index)))
            gold = [Hit(-1, 0.0, item.id, item.reference)] if item.reference else []
            shown = {RETRIEVAL: found(item.question), RANDOM: [found.index.hit(n) for n in chance], GOLD: gold}
            rows.append({"id": item.id} | {kind: [as_passage(hit) for hit in hits] for kind, hits in shown.items()})
            show(f"retrieval: {benchmark}, {number} of {len(items)} questions")
        files.write_jsonl(stage.dir / "evidence" / f"{benchmark}.jsonl", rows)
        recall[benchmark] = _recall(items, rows)
    facts = found.index.facts | {"recall": recall}
    files.write_json(stage.dir / "evidence" / "index.json", facts)
    return facts


def _recall(items: Sequence[Item], rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Of n items that choose among options, of how many the passages hold the words of a right option; and by chance.

    Recall at k as open question answering counts it, for want of passages that people called relevant (DPR, Karpukhin
    et al. 2020).
    """
    counts = dict.fromkeys(("n", RETRIEVAL, RANDOM), 0)
    for item, row in zip(items, rows, strict=True):
        right = [item.options[letter] for letter in item.gold] if item.options and item.gold else []
        counts["n"] += bool(right)
        for kind in (RETRIEVAL, RANDOM):
            counts[kind] += any(words in passage["text"] for words in right for passage in row[kind])
    return counts


def as_passage(hit: Hit) -> dict[str, Any]:
    """A passage as prompts, records and conversations hold it."""
    return {"origin": hit.origin, "score": round(hit.score, 4), "text": hit.text}


class Search:
    """The passages of an index for a question, by BM25, or by BM25 and an encoder together."""

    def __init__(self, found: Index, k: int, encode: dense.Encode | None = None, vectors: Any = None) -> None:
        self.index, self._k, self._encode, self._vectors = found, k, encode, vectors

    def __call__(self, question: str) -> list[Hit]:
        if self._encode is None:
            return self.index.search(question, self._k)
        many = 10 * self._k
        words = [hit.number for hit in self.index.search(question, many)]
        near = [number for number, _ in dense.nearest_vectors(self._vectors, self._encode([question])[0], many)]
        return [self.index.hit(number, score) for number, score in dense.fused([words, near], self._k)]


def search_in(run_dir: Path, own: Retrieval, show: Show) -> Search:
    """The search over the corpus that `own` names, for a run; its index is made in the cache unless it is there."""
    built = runs.read_manifest(run_dir, BUILD)
    raw = Path(built["facts"]["raw_dir"])
    corpus = run_dir / BUILD if own.corpus == "chimed" else local(own.corpus)
    share = built["parameters"]["contamination_share"]
    folder = runs.cache_dir() / "retrieval" / _digest(corpus, raw, share)
    if not (folder / "index.json").exists():
        show("retrieval: reading the benchmarks")
        decontaminate.Index(items_of(raw)).save(folder / "benchmarks")
    found = index.build(corpus, folder, folder / "benchmarks", share, show=show)
    if own.dense is None:
        return Search(found, own.k)
    encode = dense.encoder(own.dense)
    vectors = folder / f"{files.sha256_text(own.dense)[:12]}.npy"
    return Search(found, own.k, encode, dense.vectors(found, encode, vectors))


def _digest(corpus: Path, raw: Path, share: float) -> str:
    """Of what an index is made of: the corpus's files, those of the benchmarks, and how both are cut and compared."""
    mine = [corpus / "cpt.jsonl"] if (corpus / "cpt.jsonl").exists() else corpus.rglob("*")
    paths = sorted(path for path in {*mine, *raw.rglob("*")} if path.is_file())
    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return files.sha256_text(json.dumps([VERSION, passages.PASSAGE_CHARS, share, state]))[:16]


@cache
def _evidence(path: Path) -> dict[str, dict[str, list[dict]]]:
    return {row["id"]: row for row in files.read_jsonl(path)}


def shown(folder: Path, kind: str) -> Callable[[Item], list[dict[str, Any]]]:
    """What a row of `kind` shows an item, best first: {origin, score, text} each; [] for a benchmark without."""

    def passages_of(item: Item) -> list[dict[str, Any]]:
        path = folder / "evidence" / f"{item.benchmark}.jsonl"
        return _evidence(path)[item.id][kind] if path.exists() else []

    return passages_of


def loaders(stage: Stage, load: dict[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """{further row: callable that loads its model as `load` does, to be asked with passages}."""
    rows = ((name, *parts(name)) for name in variants(stage.parameters))
    return {name: partial(_with_passages, load[model], stage.dir, kind) for name, model, kind in rows if model in load}


def _with_passages(load: Callable[[], Any], folder: Path, kind: str) -> Any:
    backend = load()
    backend.asking = replace(backend.asking, passages=shown(folder, kind))
    return backend
