"""What only the whole corpus can decide, in arrays over its candidates, without a text: duplicates, mixing, split."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from qilin_lib.chimed.batches import CANDIDATE, identity
from qilin_lib.chimed.sources import BY_NAME, TRAINING_SETS
from qilin_lib.schema import Build

# What a set does with a candidate; ABSENT: it never could have it.
ABSENT, TRAIN, HELDOUT, DUPLICATE, MIXING, SUBSTRING = range(6)


class Corpus:
    """All candidates in corpus order, and what becomes of them in each set.

    Arrays [n]: `number` (unit in its source), `draw` (uniform by text), `heading` (characters of a passage's title, -1:
    no running text), `place` (of a pair in its ranked list), `medical`; `state` {set: int8 [n]}, and `keeper` {set: of
    which candidate it is a duplicate}. `stems`, `sources` [batches]: stem and source of each batch, whose candidates
    are those from starts[batch] to starts[batch + 1].
    """

    def __init__(self, refined: Iterable[tuple[Path, str]]) -> None:
        """`refined`: stem and source of each batch, in corpus order."""
        refined = [*refined]
        self.stems, self.sources = [stem for stem, _ in refined], [source for _, source in refined]
        batches = [np.load(stem.with_suffix(".candidates.npy")) for stem in self.stems]
        self.starts = np.cumsum([0, *map(len, batches)])
        table = np.concatenate([np.empty(0, CANDIDATE), *batches])
        self.number, self.draw, self.heading, self.place = (
            table[name] for name in ("number", "draw", "heading", "place")
        )
        medical = [BY_NAME[name].part == "medical" for name in self.sources]
        self.medical = np.repeat(np.array(medical, bool), np.diff(self.starts))
        masks = {name: table["sets"] & (1 << bit) for bit, name in enumerate(TRAINING_SETS)}
        self.state = {name: np.where(mask, TRAIN, ABSENT).astype(np.int8) for name, mask in masks.items()}
        self.keeper: dict[str, np.ndarray] = {}

    def kept(self, name: str) -> np.ndarray:
        """Numbers of the candidates that set `name` keeps so far."""
        return np.flatnonzero((self.state[name] == TRAIN) | (self.state[name] == HELDOUT))

    def deduplicate(self, group: np.ndarray) -> None:
        """The first of each `group` (equal numbers, [n]) of near-duplicates stays, in each set that has some of it. The
        pairs of a ranked list share question and answers, and none is a copy of another."""
        group = group * (self.place.max(initial=0) + 1) + self.place
        for name, state in self.state.items():
            members = np.flatnonzero(state)
            _, firsts, which = np.unique(group[members], return_index=True, return_inverse=True)
            keepers = members[firsts[which]]
            state[members[keepers != members]] = DUPLICATE
            self.keeper[name] = np.full(len(group), -1)
            self.keeper[name][members] = keepers

    def mix(self, share: float | None, seed: int) -> None:
        """SFT only: the larger of the general and the medical side is sampled down until general is `share` of both."""
        if share is None:
            return
        kept = self.kept("sft")
        general, medical = kept[~self.medical[kept]], kept[self.medical[kept]]
        # general : medical = share : (1 - share); whichever side is too large for the other is capped.
        if len(general) * (1 - share) > len(medical) * share:
            side, size = general, round(len(medical) * share / (1 - share))
        else:
            side, size = medical, round(len(general) * (1 - share) / share) if share else len(medical)
        sampled = random.Random(f"{seed} mixing").sample(range(len(side)), min(size, len(side)))
        self.state["sft"][np.delete(side, sampled)] = MIXING

    def hold_out(self, name: str, share: float) -> None:
        """Records whose draw lies below `share` are held out; at least one of two or more when `share` is positive.

        The draw is the same in every set: at equal shares a dialogue is held out of SFT and CPT alike.
        """
        kept = self.kept(name)
        draws = self.draw[kept]
        if share > 0 and len(draws) > 1:
            share = max(share, float(draws.min()) + 2**-53)
        self.state[name][kept[draws < share]] = HELDOUT

    def judged(self, params: Build, cuts: list[np.ndarray]) -> Iterator[tuple]:
        """The arguments of `batches.lines` for one batch after the other."""
        words = {
            ABSENT: "",
            TRAIN: "train",
            HELDOUT: "heldout",
            MIXING: ("excluded", "mixing ratio", f"general share {params.general_share}"),
            SUBSTRING: ("duplicate", "repeated substring", f"{params.exact_substring_length} characters or more"),
        }
        for batch, (stem, source) in enumerate(zip(self.stems, self.sources, strict=True)):
            where = slice(self.starts[batch], self.starts[batch + 1])
            fates = {}
            for name, state in self.state.items():
                fates[name] = [words.get(fate, "") for fate in state[where].tolist()]
                for candidate in np.flatnonzero(state[where] == DUPLICATE).tolist():
                    keeper = self.keeper[name][where][candidate]
                    of = identity(self.sources[self.starts.searchsorted(keeper, "right") - 1], self.number[keeper])
                    fates[name][candidate] = ("duplicate", "duplicate", f"of {of}")
            yield stem, source, fates, cuts[batch]
