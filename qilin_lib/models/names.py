"""What the models of a run are called: by their base and the stages they went through, "tiny 2.3M + DCPT + SFT"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from qilin_lib import chains, files, runs


def places(chain: Sequence[str]) -> dict[str, str]:
    """{model of a run: the stage that it lies in}, from the base on, one after the other."""
    trained = {name: chains.folder(name) for name in chain}
    return {"base": chains.TOKENIZE, **trained, "rejection_sampling": chains.RLHF, "rl": chains.RLHF}


# Of the default chain.
STAGES = places(chains.DEFAULT)
PAPER_STEPS = {"base": (), "dcpt": ("DCPT",), "sft": ("DCPT", "SFT"), "dpo": ("DCPT", "SFT", "DPO")}
PAPER_BASE = "Baichuan-7B"
# Counted from Baichuan-7B's config.json: 32 layers of 4,096 and 11,008, two tables of 64,000 tokens.
PAPER_SIZE = {"parameters": 7_000_559_616, "vocabulary": 64_000}
UNITS = {"B": ("billion", 1e9), "M": ("million", 1e6), "K": ("thousand", 1e3), "": ("", 1.0)}


def describe(
    base: Mapping[str, Any],
    trainings: Mapping[str, Mapping[str, Any]] | None = None,
    chain: Sequence[str] = chains.DEFAULT,
) -> dict[str, Any]:
    """{"base": {name, parameters}, "names": {model: name}, "as_paper": models trained as the paper's, on its base,
    "chain": the trainings}.

    `base`: 02's base.json. `trainings`: {training of the chain: its facts}, which say what it was where its name does
    not: one-stage SFT took the place of what came before it, 05 may have trained by another method than DPO.
    """
    own: tuple[str, ...] = ()
    steps = {"base": own}
    for name in chain:
        made, method = (trainings or {}).get(name, {}), chains.method(name)
        # "SFT2", the method that 05 trained by, what else DCPT learned.
        step = name.replace(method, made.get("method", method)).upper()
        step += " with instructions" if "instructions" in made else ""
        own = ("one-stage SFT",) if "one_stage" in made else (*own, step)
        steps[name] = own
    as_paper = [model for model in steps if is_paper_base(base) and steps[model] == PAPER_STEPS.get(model)]
    aligned = steps[chains.aligned(chain)]
    steps |= {"rejection_sampling": (*aligned, "rejection sampling"), "rl": (*aligned, "RL")}
    about = {"name": base_name(base), "parameters": base["parameters"]}
    root = f"{about['name']} {weights(base['parameters'])}"
    names = {model: " + ".join((root, *own)) for model, own in steps.items()}
    return {"base": about, "names": names, "as_paper": as_paper, "chain": list(chain)}


def describe_run(stage: runs.Stage) -> dict[str, Any]:
    """`describe` of the run that `stage` (06, 07, 08 or 09) belongs to."""
    chain = stage.parameters.chain
    paths = {name: stage.run.folder(chains.folder(name)) / "facts.json" for name in chain}
    base = files.read_json(stage.parent(chains.TOKENIZE) / "base.json")
    return describe(base, {name: files.read_json(path) for name, path in paths.items() if path.exists()}, chain)


def foot(scores: Mapping[str, Any], paper: str = PAPER_BASE) -> list[str]:
    """What stands under every table of a run's scores: its base beside the paper's, and accepted stages.

    `paper`: the base of the paper that the table belongs to, "" to say nothing of it.
    """
    run = scores["run"]
    base = f"{run['base']['name']}, {weights(run['base']['parameters'], words=True)}"
    beside = "it is the paper's" if run["as_paper"] else f"the paper's: {paper}"
    seed = "One run, one seed: intervals are over items and say nothing of another training."
    return [f"Base model here: {base}{f'; {beside}' if paper else ''}. {seed}", *scores.get("accepted", [])]


def base_name(base: Mapping[str, Any]) -> str:
    """The base as others may read it: a hub id, or the last name of a folder, whose place is nobody's business."""
    return base["name"] if base.get("source") == "hub" else PurePath(base["name"]).name


def is_paper_base(base: Mapping[str, Any]) -> bool:
    """Whether base.json describes the paper's base model, Baichuan-7B.

    It has that model's 7,000,559,616 weights and 64,000 tokens, and is either the hub's baichuan-inc/Baichuan-7B (any
    revision) or a local folder whose last name begins with "Baichuan-7B" and which the kit's converter wrote from
    Baichuan-7B's layout. A folder's name alone is not enough, nor is the layout: further training changes neither.
    """
    if any(base.get(name) != value for name, value in PAPER_SIZE.items()):
        return False
    if base.get("source") == "hub":
        return base["name"].partition("@")[0].lower() == f"baichuan-inc/{PAPER_BASE}".lower()
    return base.get("converted") == PAPER_BASE and base_name(base).lower().startswith(PAPER_BASE.lower())


def weights(count: int, words: bool = False) -> str:
    """2_263_296 as "2.3M", in words "2.3 million weights"; 135M, 7.0B."""
    # From 999.5 on, three digits would round up to the next unit's first.
    unit, (word, size) = next((u, of) for u, of in UNITS.items() if count >= 0.9995 * of[1] or not u)
    number = count / size
    digits = f"{number:.1f}" if unit and number < 9.95 else f"{number:.0f}"
    return " ".join(filter(None, (digits, word, "weights"))) if words else f"{digits}{unit}"


def accepted(run_dir: Path, stage: str) -> list[str]:
    """A sentence for each time that `stage`, or one it stands on, was accepted although it had become stale.

    Read from <stage>.accepted.json of this run, and of the run that a shared stage belongs to.
    """
    places = {run_dir, (run_dir / stage).resolve().parent}
    notes = [note for place in places for note in runs.Run(place).acceptances(stage)]
    own = {f"{note['stage']} was accepted as it is on {note['when']}: {note['reason']}" for note in notes}
    return sorted(own.union(*(accepted(run_dir, parent) for parent in runs.Run(run_dir).parents(stage))))


def read_scores(path: Path) -> dict[str, Any]:
    """A stage's scores.json or policies.json; under "accepted" what must be said under its tables, under "digest" that
    of its manifest, "" while the stage is being made."""
    run, stage = runs.Run(path.parents[1]), path.parent.name
    digest = run.manifest(stage)["digest"] if run.finished(stage) else ""
    return files.read_json(path) | {"accepted": accepted(run.dir, stage), "digest": digest}
