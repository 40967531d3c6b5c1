"""The chain of a run: its trainings in order, each on the one before, and what every stage of a run stands on.

A training is named by its method, a further one of a kind by a number behind it: dcpt, sft, dpo, sft2. Its folder is
that name behind the number of the notebook that shows it: 04_sft2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# The notebook that shows a method.
NOTEBOOKS = {"dcpt": "03_dcpt", "sft": "04_sft", "dpo": "05_dpo"}
DEFAULT = tuple(NOTEBOOKS)
NAME = rf"^({'|'.join(NOTEBOOKS)})([2-9]|[1-9][0-9])?$"
BUILD, TOKENIZE, EVAL, RLHF = "01_build_chimed", "02_tokenize", "06_eval", "08_rlhf"


def method(name: str) -> str:
    """ "sft" of "sft2"."""
    return name.rstrip("0123456789")


def folder(name: str) -> str:
    """ "04_sft2" of "sft2"."""
    return NOTEBOOKS[method(name)][:3] + name


def name_of(stage: str) -> str:
    """ "sft2" of "04_sft2"."""
    return stage[3:]


def trains(stage: str) -> bool:
    """Whether a stage is a training of a chain."""
    return re.match(NAME, name_of(stage)) is not None


def short(stage: str) -> str:
    """What the command calls a stage: the two digits of its notebook, "04_sft2" in full."""
    return stage if stage[-1].isdigit() else stage[:2]


def shown_by(stage: str) -> str:
    """The notebook that makes a stage, as a sentence names it: "notebooks/04_sft.ipynb with stage = 'sft2'"."""
    notebook = f"notebooks/{stage.rstrip('0123456789')}.ipynb"
    return f"{notebook} with stage = '{name_of(stage)}'" if stage[-1].isdigit() else notebook


def checked(chain: Sequence[str]) -> Sequence[str]:
    """`chain` itself; ValueError if it names a training twice, or a further one before the first of its kind."""
    for at, name in enumerate(chain):
        if name in chain[:at]:
            raise ValueError(f"'{name}' stands twice; nearest valid: '{method(name)}{at + 1}' for the second")
        if not re.match(NAME, name):
            raise ValueError(
                f"'{name}': no training; nearest valid: {', '.join(NOTEBOOKS)}, or one with a number: sft2"
            )
        if name != method(name) and method(name) not in chain[:at]:
            raise ValueError(f"'{name}' comes before any '{method(name)}'; nearest valid: '{method(name)}'")
    return chain


def conversed(chain: Sequence[str], name: str) -> bool:
    """Whether a training, or one before it, learned conversations."""
    return any(method(one) != "dcpt" for one in chain[: chain.index(name) + 1])


def aligned(chain: Sequence[str]) -> str:
    """The training that 08 starts from: the last SFT, or without one the last of all."""
    return next((name for name in reversed(chain) if method(name) == "sft"), chain[-1])


def start(chain: Sequence[str], stage: str) -> str:
    """The stage whose weights `stage`, a training or 08, starts from."""
    if stage == RLHF:
        return folder(aligned(chain))
    at = chain.index(name_of(stage))
    return folder(chain[at - 1]) if at else TOKENIZE


def graph(chain: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """{stage: the stages it reads from} of a run, in the order in which they are made.

    06 and 07 read everything: the report shows the whole chain.
    """
    trained = tuple(map(folder, chain))
    parents: dict[str, tuple[str, ...]] = {BUILD: (), TOKENIZE: (BUILD,)}
    for name, stage in zip(chain, trained, strict=True):
        texts = () if method(name) == "dcpt" else (BUILD,)
        parents[stage] = tuple(dict.fromkeys((*texts, TOKENIZE, start(chain, stage))))
    everything = (BUILD, TOKENIZE, *trained)
    compared = [stage for stage in trained if method(name_of(stage)) == "dpo"]
    return parents | {
        EVAL: everything,
        "07_case_study": (*everything, EVAL),
        RLHF: tuple(dict.fromkeys((BUILD, TOKENIZE, start(chain, RLHF), *compared))),
        "09_bias": (TOKENIZE, *trained, RLHF),
    }
