"""What the models of a run are called: by their base and the stages they went through, "tiny 2.3M + DCPT + SFT"."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from qilin_lib import files, runs
from qilin_lib.errors import QilinError

# Where each model of a run lies.
STAGES = {
    "base": "02_tokenize",
    "dcpt": "03_dcpt",
    "sft": "04_sft",
    "dpo": "05_dpo",
    "rejection_sampling": "08_rlhf",
    "rl": "08_rlhf",
}
# Those that were trained from the base, one after the other.
TRAINED = {model: STAGES[model] for model in ("dcpt", "sft", "dpo")}
PAPER_BASE = "Baichuan-7B"
PAPER_HUB_ID = f"baichuan-inc/{PAPER_BASE}"
# Counted from Baichuan-7B's config.json: 32 layers of 4,096 and 11,008, two tables of 64,000 tokens.
PAPER_SIZE = {"parameters": 7_000_559_616, "vocabulary": 64_000}
UNITS = {"B": ("billion", 1e9), "M": ("million", 1e6), "K": ("thousand", 1e3), "": ("", 1.0)}


def describe(base: Mapping[str, Any], one_stage: bool = False, method: str = "dpo") -> dict[str, Any]:
    """{"base": {name, parameters}, "names": {model: name}, "as_paper": models trained as the paper's, on its base}.

    `base`: 02's base.json. `one_stage`: SFT took the place of DCPT, so that only base and DCPT are as the paper's.
    `method`: what 05 trained by.
    """
    sft = ("one-stage SFT",) if one_stage else ("DCPT", "SFT")
    steps = {"base": (), "dcpt": ("DCPT",), "sft": sft, "dpo": (*sft, method.upper())}
    other = {model for model in steps if one_stage and steps[model][:1] == sft} | (
        {"dpo"} if method != "dpo" else set()
    )
    as_paper = [model for model in steps if is_paper_base(base) and model not in other]
    steps |= {"rejection_sampling": (*sft, "rejection sampling"), "rl": (*sft, "RL")}
    root = f"{base_name(base)} {weights(base['parameters'])}"
    names = {model: " + ".join((root, *own)) for model, own in steps.items()}
    about = {"name": base_name(base), "parameters": base["parameters"]}
    return {"base": about, "names": names, "as_paper": as_paper}


def below(stage: str, one_stage: bool = False) -> str:
    """The stage whose weights the training of 03, 04 or 05 started from; one-stage SFT leaves DCPT out."""
    return {"03_dcpt": "02_tokenize", "04_sft": "02_tokenize" if one_stage else "03_dcpt", "05_dpo": "04_sft"}[stage]


def describe_run(stage: runs.Stage) -> dict[str, Any]:
    """`describe` of the run that `stage` (06, 07, 08 or 09) belongs to."""
    sft, pairs = (
        files.read_json(path) if (path := stage.parent(name) / "facts.json").exists() else {}
        for name in ("04_sft", "05_dpo")
    )
    base = files.read_json(stage.parent("02_tokenize") / "base.json")
    return describe(base, "one_stage" in sft, pairs.get("method", "dpo"))


def facts(scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """`describe_run` as a scores.json or policies.json holds it; QilinError for one of an older kit."""
    if "run" not in scores:
        raise QilinError("the scores do not say which run they are of: run notebooks 06, 08 and 09 again")
    return scores["run"]


def foot(scores: Mapping[str, Any], paper: str = PAPER_BASE) -> list[str]:
    """What stands under every table of a run's scores: its base beside the paper's, and accepted stages.

    `paper`: the base of the paper that the table belongs to, "" to say nothing of it.
    """
    run = facts(scores)
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
        return base["name"].partition("@")[0].lower() == PAPER_HUB_ID.lower()
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
    return sorted(own.union(*(accepted(run_dir, parent) for parent in runs.PARENTS.get(stage, ()))))


def read_scores(path: Path) -> dict[str, Any]:
    """A stage's scores.json or policies.json, and under "accepted" what must be said under its tables."""
    return files.read_json(path) | {"accepted": accepted(path.parents[1], path.parent.name)}
