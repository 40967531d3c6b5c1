"""Cells that are more than text (a number with interval, n and the paper's; a text with a link), and views.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qilin_lib import strict_yaml
from qilin_lib.evaluate.intervals import LEAST, wilson
from qilin_lib.report.paper import UNKNOWN, Cell

ADAPTIVE = "adaptive"  # three digits, from 100 on none behind the point
WORDS: dict[str, Any] = strict_yaml.read(Path(__file__).with_name("views.yaml"))
NAMES: dict[str, dict[str, str]] = WORDS["names"]


class Linked(str):
    """A text that leads to the file of the run that it was read from."""

    path: str
    title: str

    def __new__(cls, text: str, path: str, title: str = "") -> Linked:
        made = super().__new__(cls, text)
        made.path, made.title = path, title
        return made


@dataclass(frozen=True)
class Score:
    """A number of ours with 95 % interval and n, the paper's beside it, and where ours comes from.

    `missing` is said in place of a value, "" says nothing; `form` is a format specification, or ADAPTIVE; `paper` is
    None where the paper has no such row or column; `model` is the name of the model, `manifest` the digest of the stage
    that wrote `records`.
    """

    value: float | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None
    form: str = ".1f"
    missing: str = "-"
    paper: Cell | None = None
    model: str = ""
    protocol: str = ""
    records: str = ""
    manifest: str = ""

    def __post_init__(self) -> None:
        if self.n is not None and self.n < LEAST:
            # Nothing is claimed of so few items, whoever computed it.
            object.__setattr__(self, "low", None)
            object.__setattr__(self, "high", None)

    @classmethod
    def of(cls, summary: Mapping[str, Any] | None, form: str = ".1f", **more: Any) -> Score:
        """Value, low, high and n of a summary; of None a score without a value."""
        known = {name: (summary or {}).get(name) for name in ("value", "n", "low", "high")}
        return cls(**{**known, "form": form, **more})

    @classmethod
    def share(cls, right: int, trials: int) -> Score:
        """Percent of trials that were right, with Wilson's interval; "no items" of none."""
        if not trials:
            return cls(n=0)
        low, high = wilson(right / trials, trials)
        return cls(100 * right / trials, trials, 100 * low, 100 * high)

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, None unless there are both."""
        known = self.value is not None and self.paper is not None and self.paper.value is not None
        return self.value - self.paper.value if known else None

    @property
    def agrees(self) -> bool | None:
        """Whether the paper's number lies inside our interval, None unless there are both."""
        if self.difference is None or self.low is None:
            return None
        return self.low <= self.paper.value <= self.high

    def parts(self) -> dict[str, str]:
        """What the cell says: value, interval, n, paper; a part that does not apply is missing."""
        told = {"value": "no items" if self.n == 0 else self.missing} if self.n == 0 or self.missing else {}
        if self.value is not None:
            told = {"value": _digits(self.value, self.form)}
            if self.low is not None:
                told["interval"] = f"[{_digits(self.low, self.form)}, {_digits(self.high, self.form)}]"
            if self.n is not None:
                told["n"] = f"n={self.n}"
        if self.paper is not None:
            told["paper"] = paper = self.paper.text
            if self.difference is not None:
                told["paper"] = f"{paper} ({_digits(self.difference, '+,' + self.form.lstrip('+,'))})"
            if told["paper"] != UNKNOWN or "value" in told:
                told["paper"] = f"paper {told['paper']}"
        return told or {"value": "-"}

    def __str__(self) -> str:
        told = self.parts()
        if "value" in told and told.get("paper") == f"paper {UNKNOWN}":
            del told["paper"]  # on one line it would hide the numbers
        n = f"({told['n']})" if "n" in told else ""
        ours = " ".join(filter(None, (told.get("value"), told.get("interval"), n)))
        return "; ".join(filter(None, (ours, told.get("paper"))))

    @property
    def source(self) -> str:
        """What a reader sees who points at the number."""
        return f"{self.records}; manifest {self.manifest[:12] or 'not written yet'}"

    @property
    def stage_manifest(self) -> str:
        """The manifest of the stage that wrote the records."""
        return f"{self.records.partition('/')[0]}/manifest.json"


def _digits(value: float, form: str) -> str:
    if form == ADAPTIVE:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    text = format(value, form)
    # Of a difference the minus is a real one: a hyphen is easily overlooked.
    return text.replace("-", "\u2212") if form.startswith("+") else text


def sentences(group: str, name: str, **values: Any) -> list[str]:
    """The sentences of views.yaml under that name, those of a view its notes, `values` filled in; [] without any."""
    found = WORDS[group].get(name, [])
    found = found.get("notes", []) if isinstance(found, dict) else found
    return [line.format(**values) for line in ([found] if isinstance(found, str) else found)]
