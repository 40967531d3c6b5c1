"""What is read of a judge's reply, and kept. A reply that says nothing readable is no verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate.mentions import normal
from qilin_lib.evaluate.replies import ERROR, Reply, spoken
from qilin_lib.files import sha256_text

FIRST, SECOND, TIE = "first", "second", "tie"


class Preset(BaseModel):
    """A judge's criteria and where they were read; it says which of a pair is better, scores `low` … `high`, or says
    which of an item's own criteria are met (kind "rubric", which has none itself)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["pair", "scores", "rubric"]
    source: str
    criteria: list[str] = []
    low: int = 1
    high: int = 5


class Criterion(BaseModel):
    """A sentence that an answer meets or not, and its points; negative ones are for what must not be there."""

    model_config = ConfigDict(frozen=True)
    criterion: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = Field(description="a sentence")
    points: float = Field(allow_inf_nan=False, description="for meeting it")


def _to_be_had(criteria: list[Criterion]) -> list[Criterion]:
    if not any(one.points > 0 for one in criteria):
        raise ValueError("no criterion has points above 0, so no answer can have any")
    return criteria


Criteria = Annotated[list[Criterion], Field(min_length=1), AfterValidator(_to_be_had)]


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt for a judge: its id among all, what a record says of it; of a pair characters of A's less B's."""

    name: str
    prompt: str
    about: dict[str, Any]
    length: int | None = None


def record(asked: Asked, judge: str, reply: Reply, verdict: Any) -> dict[str, Any]:
    """What is kept of one reply, of which `verdict` was read; an error is none, whatever it says."""
    verdict = None if reply.finish == ERROR else verdict
    return {
        **asked.about,
        "judge": judge,
        "prompt_sha": sha256_text(asked.prompt),
        "raw": reply.text,
        "verdict": verdict,
        "parsed": verdict is not None,
        **({} if asked.length is None else {"length": asked.length}),
        **reply.ending,
    }


@cache
def presets() -> dict[str, Preset]:
    """All presets by name."""
    rows = yaml.safe_load(Path(__file__).with_name("presets.yaml").read_text(encoding="utf-8"))
    return {name: Preset.model_validate(row) for name, row in rows.items()}


def preset(name: str) -> Preset:
    """The preset of a name; QilinError names the nearest for one that does not exist."""
    if name not in presets():
        raise QilinError(f"judge: preset: '{name}' is none{nearest(name, presets())}")
    return presets()[name]


# --- what is read -----------------------------------------------------------------------------------------------------

_ANSWER = r"(?:assistant|answer|response|model|助手|回答|答案|模型)\s*"
_ONE, _TWO = (rf"{_ANSWER}(?:{names})(?![a-z0-9])" for names in ("1|a|一|甲", "2|b|二|乙"))
_MARKS = r"[\s\"“”':]*"
_MORE = r"(?:明显|显著|整体|总体|相对|还|要|是)*"
_GOOD = rf"{_MORE}(?:[更较略稍](?:为|加)?(?:好|优|佳|优秀|胜一筹)|胜出|获胜|胜)(?!地|的地方|的方面|的一点|之处)"
_WINS = rf"(?:{_GOOD}|is\s+(?:clearly\s+|the\s+)?(?:better|superior|winner)(?!\s+than)|wins)"
_BETTER = r"(?:is\s+)?(?:(?:明显|显著|略|稍)?(?:优于|好于|胜过|强于)|better\s+than|>+)"
_WORSE = r"(?:is\s+)?(?:(?:明显|显著|略|稍)?(?:不如|差于|劣于)|worse\s+than|<+)"
_THAN = r"(?:的[^\s,.。;]{1,8})?"
_BEST = r"(?:更好|更优|胜出|获胜|胜)(?:的|者)?(?:回答)?(?:是|为|:)"
_KEY = r"(?:winner|better|verdict|choice)[\"']?(?:\s*:|\s+is)\s*[\"']?(?:the\s+)?"
_OR = r"\W{0,4}(?:或者?|和)?\W{0,4}"


def _compared(first: str, second: str) -> str:
    """What a judge writes who finds the `first` better than the `second`, whichever it names first."""
    return "|".join(
        [
            rf"{first}{_MARKS}{_BETTER}{_MARKS}{second}|{second}{_MARKS}{_WORSE}{_MARKS}{first}",
            rf"{first}{_THAN}比{_MARKS}{second}{_THAN}{_MORE}[更略稍]?(?:好|优|佳|强|准确|全面)",
            rf"{second}{_THAN}比{_MARKS}{first}{_THAN}{_MORE}[更略稍]?(?:差|弱)|{second}{_THAN}没有{_MARKS}{first}{_THAN}好",
            rf"(?<!比){first}{_MARKS}{_WINS}|{_BEST}{_MARKS}{first}",
        ]
    )


# (what a judge writes, what it means, None: nothing, though another form stands in it); of all that stand in a reply
# the last one that means something counts.
_FORMS = [
    (rf"{_ONE}更好{_OR}{_TWO}更好{_OR}平局", None),
    (rf"(?:不是|并非|而非|不认为|不能说){_MARKS}(?:{_ONE}|{_TWO}){_MARKS}{_GOOD}", None),
    (r"(?:不是|并非|不算|不能算|不应是|不判|不构成)\W*平局|平局不成立", None),
    (r"\[\[\s*(?:a(?:\s*>{1,2}\s*b)?|1)\s*\]\]", FIRST),
    (r"\[\[\s*(?:b(?:\s*>{1,2}\s*a)?|2)\s*\]\]", SECOND),
    (r"\[\[\s*(?:c|tie|a\s*=\s*b)\s*\]\]", TIE),
    (_compared(_ONE, _TWO), FIRST),
    (_compared(_TWO, _ONE), SECOND),
    (
        rf"{_ONE}{_MARKS}(?:is\s+)?(?:与|和|=+|equal\s+to|as\s+good\s+as){_MARKS}{_TWO}(?!{_MARKS}(?:相比|比较|都|各|的))",
        TIE,
    ),
    (rf"{_KEY}(?:a\s+)?(?:tie|equal|both|draw)\b", TIE),
    (rf"{_KEY}(?:(?:model|answer|assistant)[_\s]*a|(?-i:A)|1|(?<=[\"'])a)(?![a-z0-9])", FIRST),
    (rf"{_KEY}(?:(?:model|answer|assistant)[_\s]*b|(?-i:B)|2|(?<=[\"'])b)(?![a-z0-9])", SECOND),
    (r"平局|打平|不相上下|难分高下|旗鼓相当|一样好|are\s+equal\s+in|it(?:'?s|\s+is)\s+a\s+tie\b|^\W*tie\W*$", TIE),
]
_VERDICT = re.compile("|".join(f"({pattern})" for pattern, _ in _FORMS), re.IGNORECASE | re.MULTILINE)
# FastChat's older judges begin with two scores on a line of their own.
_TWO_SCORES = re.compile(r"\A\s*(\d+(?:\.\d+)?)\s*[,\s/]\s*(\d+(?:\.\d+)?)\s*$", re.MULTILINE)


def pair_verdict(raw: str) -> str | None:
    """FIRST, SECOND, TIE, or None for a reply that decides nothing; thoughts are not read."""
    text = normal(spoken(raw))
    meant = [_FORMS[found.lastindex - 1][1] for found in _VERDICT.finditer(text)]
    if decided := [verdict for verdict in meant if verdict]:
        return decided[-1]
    if not meant and (scores := _TWO_SCORES.search(text)):
        first, second = map(float, scores.groups())
        return FIRST if first > second else SECOND if second > first else TIE
    return None


# "(1-5)" behind a criterion is its scale; the number of the next line stands behind no colon.
_SCALE = re.compile(r"[(\[]\s*\d+\s*[-~–—至到]\s*\d+\s*分?\s*[)\]]")
_TO_NUMBER = r"(?:[^\w\n]{0,12}?|[^\w\n]{0,4}:\W{0,8}?)(?<!-)(\d+(?:\.\d+)?)"


def scores(raw: str, chosen: Preset) -> dict[str, int] | None:
    """{criterion: whole number from low to high}; None when one is missing, or no such number. The last ones count."""
    text, found = _SCALE.sub("", normal(spoken(raw).replace("_", " "))), {}
    for criterion in chosen.criteria:
        numbers = re.findall(re.escape(criterion) + _TO_NUMBER, text, re.IGNORECASE)
        if not numbers or not float(numbers[-1]).is_integer() or not chosen.low <= float(numbers[-1]) <= chosen.high:
            return None
        found[criterion] = int(float(numbers[-1]))
    return found


_MET = re.compile(
    r"(?P<open>(?:无法|难以|不能)?(?:判断|确定)?是否符合|部分符合|(?:没有|并无)不符合)"
    r"|(?P<no>(?:不|没有?|未|无法|难以|并非)[^\s,.。;]{0,4}符合|\b(?:no|false|not\s+met)\b|(?:^|:\s*)否)"
    r"|\b(?:yes|true)\b|符合|(?:^|:\s*|[?]\s*)是(?=的|\W|$)",
    re.MULTILINE,
)


def met(raw: str) -> bool | None:
    """Whether a reply says that a criterion is met; None when it does not say."""
    text = normal(spoken(raw)).lower()
    if said := re.findall(r"[\"']criteria_?met[\"']\s*:\s*[\"']?(true|false)", text):
        return said[-1] == "true"
    said = [one["no"] is None for one in _MET.finditer(text) if not one["open"]]
    return said[-1] if said else None


def rubric_score(criteria: Sequence[Criterion], verdicts: Sequence[bool | None]) -> float | None:
    """Points met over the points that can be had, in percent, at least 0 and at most 100; None if one is unread."""
    if None in verdicts:
        return None
    earned = sum(one.points for one, met_it in zip(criteria, verdicts, strict=True) if met_it)
    return 100 * min(1.0, max(0.0, earned / sum(one.points for one in criteria if one.points > 0)))
