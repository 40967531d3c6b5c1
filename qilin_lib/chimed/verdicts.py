"""What only the whole corpus can decide, in arrays of one entry a candidate: duplicates, mixing ratio, held-out split.

Nothing here touches a text, so millions of candidates fit in memory.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from qilin_lib.chimed.batches import Verdict, identity
from qilin_lib.chimed.sources import TRAINING_SETS

ABSENT, TRAIN, HELDOUT, DUPLICATE, MIXING, SUBSTRING = range(6)


@dataclass(frozen=True, slots=True)
class Candidates:
    """All candidates in corpus order.

    Arrays [n]: `batch` (its number), `entry` (position in the batch), `number` (unit in its source), `sets` (bit mask
    over TRAINING_SETS), `draw` (uniform by text), `heading` (characters of a passage's title, -1: no running text),
    `medical`. `sources` [batches]: the source of each batch.
    """

    sources: list[str]
    batch: np.ndarray
    entry: np.ndarray
    number: np.ndarray
    sets: np.ndarray
    draw: np.ndarray
    heading: np.ndarray
    medical: np.ndarray

    def of(self, batch: int) -> slice:
        """The candidates of a batch."""
        return slice(*np.searchsorted(self.batch, (batch, batch + 1)).tolist())

    def id(self, candidate: int) -> str:
        """The record's id."""
        return identity(self.sources[self.batch[candidate]], int(self.number[candidate]))


@dataclass(slots=True)
class Fates:
    """The state of every candidate in every set, and whose duplicate it is. `state` and `keeper`: {set: array [n]}."""

    candidates: Candidates
    state: dict[str, np.ndarray]
    keeper: dict[str, np.ndarray]

    def kept(self, name: str) -> np.ndarray:
        """Numbers of the candidates that set `name` keeps so far."""
        return np.flatnonzero((self.state[name] == TRAIN) | (self.state[name] == HELDOUT))

    def passages(self, batch: int) -> list[bool]:
        """For each candidate of a batch that has a body in CPT, in order: is it running text that is kept so far?"""
        where = self.candidates.of(batch)
        state = self.state["cpt"][where]
        kept = ((state == TRAIN) | (state == HELDOUT)) & (self.candidates.heading[where] >= 0)
        return kept[state != ABSENT].tolist()

    def verdicts(self, batch: int, reasons: dict[int, tuple[str, str, str]]) -> dict[tuple[int, str], Verdict]:
        """The verdicts of a batch's candidates by (entry, set); `reasons` words the states MIXING and SUBSTRING."""
        where = self.candidates.of(batch)
        found: dict[tuple[int, str], Verdict] = {}
        for name in TRAINING_SETS:
            for number in where.start + np.flatnonzero(self.state[name][where]):
                state = int(self.state[name][number])
                entry = int(self.candidates.entry[number])
                if state in (TRAIN, HELDOUT):
                    found[entry, name] = _TRAIN if state == TRAIN else _HELDOUT
                elif state == DUPLICATE:
                    keeper = self.candidates.id(int(self.keeper[name][number]))
                    found[entry, name] = Verdict(lost=("duplicate", "duplicate", f"of {keeper}"))
                else:
                    found[entry, name] = Verdict(lost=reasons[state])
        return found


_TRAIN, _HELDOUT = Verdict("train"), Verdict("heldout")


def deduplicated(candidates: Candidates, group: np.ndarray) -> Fates:
    """The first member of every group of near-duplicates stays, in each set that has members of the group.

    `group` [n]: equal numbers are one group.
    """
    fates = Fates(candidates, {}, {})
    for bit, name in enumerate(TRAINING_SETS):
        members = np.flatnonzero(candidates.sets & (1 << bit))
        _, firsts, which = np.unique(group[members], return_index=True, return_inverse=True)
        keepers = members[firsts[which]]
        state, keeper = np.full(len(group), ABSENT, np.int8), np.full(len(group), -1, np.int64)
        state[members] = np.where(keepers == members, TRAIN, DUPLICATE)
        keeper[members] = keepers
        fates.state[name], fates.keeper[name] = state, keeper
    return fates


def mix(fates: Fates, share: float | None, seed: int) -> None:
    """SFT only: the larger of the general and the medical side is sampled down until general is `share` of the whole.

    None leaves both sides as they come.
    """
    if share is None:
        return
    kept = fates.kept("sft")
    medical = fates.candidates.medical[kept]
    sides = {"general": kept[~medical], "medical": kept[medical]}
    general, rest = len(sides["general"]), len(sides["medical"])
    # general : medical = share : (1 - share); whichever side is too large for the other is capped.
    if general * (1 - share) > rest * share:
        part, size = "general", round(rest * share / (1 - share))
    else:
        part, size = "medical", round(general * (1 - share) / share) if share else rest
    side = sides[part]
    sampled = random.Random(f"{seed} mixing").sample(range(len(side)), min(size, len(side)))
    left_out = np.ones(len(side), bool)
    left_out[sampled] = False
    fates.state["sft"][side[left_out]] = MIXING


def hold_out(fates: Fates, name: str, share: float) -> None:
    """Records whose draw lies below `share` are held out; at least one of two or more when `share` is positive.

    The draw is the same in every set, so a dialogue held out of SFT is, at equal shares, held out of CPT too.
    """
    kept = fates.kept(name)
    draws = fates.candidates.draw[kept]
    if share > 0 and len(draws) > 1:
        share = max(share, float(draws.min()) + 2**-53)
    fates.state[name][kept[draws < share]] = HELDOUT
