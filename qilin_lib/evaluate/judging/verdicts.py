"""What a judge is asked, and what is read of its reply. A reply that says nothing readable is no verdict."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate.replies import spoken

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
    criterion: Annotated[str, Field(min_length=1)]
    points: float


class Rubric(BaseModel):
    """A question, or a conversation that ends in one, with the criteria of a good answer (the form of HealthBench,
    Arora et al. 2025, whose further fields are not read)."""

    model_config = ConfigDict(frozen=True)
    rubrics: Annotated[list[Criterion], Field(min_length=1)]
    prompt: Annotated[str | list[dict[str, str]], Field(min_length=1)]

    @property
    def turns(self) -> list[str]:
        """What was said in turn, by the user first and last."""
        return [self.prompt] if isinstance(self.prompt, str) else [turn.get("content", "") for turn in self.prompt]


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


def rubric(row: Mapping, place: str) -> Rubric:
    """A row of a rubric file; QilinError names its `place`, the field and what is wrong with it."""
    try:
        made = Rubric.model_validate(row)
    except ValidationError as reason:
        first = reason.errors()[0]
        raise QilinError(f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    roles = ["user"] if isinstance(made.prompt, str) else [turn.get("role") for turn in made.prompt]
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"] or not all(made.turns):
        raise QilinError(f"{place}: prompt: no texts of user and assistant in turn, the user first and last: {roles}")
    if not any(one.points > 0 for one in made.rubrics):
        raise QilinError(f"{place}: rubrics: no criterion has points above 0, so no answer can have any")
    return made


# --- what is asked ----------------------------------------------------------------------------------------------------


def pair_prompt(chosen: Preset, question: str, first: str, second: str) -> str:
    """The prompt that asks which of two answers is better."""
    return (
        f"[问题]\n{question}\n[问题结束]\n\n[回答1]\n{first}\n[回答1结束]\n\n[回答2]\n{second}\n[回答2结束]\n\n"
        f"请按以下标准比较两个回答：{'；'.join(chosen.criteria)}。回答的先后和长短不应影响判断。"
        "先简要分析，最后一行只写以下三者之一：“回答1更好”、“回答2更好”、“平局”。"
    )


def scores_prompt(chosen: Preset, question: str, answer: str, reference: str = "") -> str:
    """The prompt that asks for a number for each criterion, against the reference answer where there is one."""
    known = f"[参考答案]\n{reference}\n[参考答案结束]\n\n" if reference else ""
    lines = "\n".join(f"{criterion}: x" for criterion in chosen.criteria)
    return (
        f"[问题]\n{question}\n[问题结束]\n\n{known}[回答]\n{answer}\n[回答结束]\n\n请对回答逐项打分，每项为"
        f"{chosen.low}到{chosen.high}的整数，不要轻易给满分。只按以下格式输出分数，不作解释：\n{lines}"
    )


def criterion_prompt(question: str, answer: str, criterion: Criterion) -> str:
    """The prompt that asks whether an answer meets one criterion."""
    return (
        f"[问题]\n{question}\n[问题结束]\n\n[回答]\n{answer}\n[回答结束]\n\n[标准]\n{criterion.criterion}\n[标准结束]\n\n"
        '回答是否符合该标准？只输出JSON：{"criteria_met": true} 或 {"criteria_met": false}。'
    )


# --- what is read -----------------------------------------------------------------------------------------------------

_ANSWER = r"(?:assistant|answer|response|model|助手|回答|答案|模型)\s*"
_ONE, _TWO = rf"{_ANSWER}(?:1|a|一|甲)", rf"{_ANSWER}(?:2|b|二|乙)"
_BETTER = r"(?:is[\s`*]+)?(?:(?:明显|显著|略|稍)?(?:优于|好于|胜过|强于)|better\s+than)"
_WORSE = r"(?:is[\s`*]+)?(?:(?:明显|显著|略|稍)?(?:不如|差于|劣于)|worse\s+than)"
_EQUAL = r"(?:is[\s`*]+)?(?:与|和|equal\s+to|as\s+good\s+as)"
_MARKS = r"[\s`*\"“”'：:]*"
# (what a judge writes, what it means); of all that stand in a reply the last one counts.
_FORMS = [
    (r"\[\[\s*(?:a(?:\s*>{1,2}\s*b)?|1)\s*\]\]", FIRST),
    (r"\[\[\s*(?:b(?:\s*>{1,2}\s*a)?|2)\s*\]\]", SECOND),
    (r"\[\[\s*(?:c|tie|a\s*=\s*b)\s*\]\]", TIE),
    (rf"{_ONE}{_MARKS}{_BETTER}{_MARKS}{_TWO}|{_TWO}{_MARKS}{_WORSE}{_MARKS}{_ONE}", FIRST),
    (rf"{_ONE}{_MARKS}{_WORSE}{_MARKS}{_TWO}|{_TWO}{_MARKS}{_BETTER}{_MARKS}{_ONE}", SECOND),
    (rf"{_ONE}{_MARKS}{_EQUAL}{_MARKS}{_TWO}(?!{_MARKS}(?:相比|比较|都))", TIE),
    (rf"{_ONE}{_MARKS}(?:更好|更优|胜出|获胜|is\s+(?:the\s+)?(?:better|winner)(?!\s+than)|wins)", FIRST),
    (rf"{_TWO}{_MARKS}(?:更好|更优|胜出|获胜|is\s+(?:the\s+)?(?:better|winner)(?!\s+than)|wins)", SECOND),
    (rf"(?:更好|更优|胜出|获胜|胜)(?:的|者)?(?:是|为)?{_MARKS}{_ONE}", FIRST),
    (rf"(?:更好|更优|胜出|获胜|胜)(?:的|者)?(?:是|为)?{_MARKS}{_TWO}", SECOND),
    (r"[\"'](?:winner|better|verdict|choice)[\"']\s*:\s*[\"']?(?:model_|answer_?|assistant_?)?(?:a|1)\b", FIRST),
    (r"[\"'](?:winner|better|verdict|choice)[\"']\s*:\s*[\"']?(?:model_|answer_?|assistant_?)?(?:b|2)\b", SECOND),
    (r"[\"'](?:winner|better|verdict|choice)[\"']\s*:\s*[\"']?(?:tie|equal|both|draw)\b", TIE),
    (r"平局|不相上下|难分高下|are\s+equal\s+in|it'?s\s+a\s+tie\b|^\W*tie\W*$", TIE),
]
_VERDICT = re.compile("|".join(f"({pattern})" for pattern, _ in _FORMS), re.IGNORECASE | re.MULTILINE)
# FastChat's older judges begin with two scores on a line of their own.
_TWO_SCORES = re.compile(r"\A\s*(\d+(?:\.\d+)?)\s*[,，\s/]\s*(\d+(?:\.\d+)?)\s*$", re.MULTILINE)


def pair_verdict(raw: str) -> str | None:
    """FIRST, SECOND, TIE, or None for a reply that decides nothing; thoughts are not read."""
    text = spoken(raw)
    found = [*_VERDICT.finditer(text)]
    if found:
        return _FORMS[found[-1].lastindex - 1][1]
    if scores := _TWO_SCORES.search(text):
        first, second = map(float, scores.groups())
        return FIRST if first > second else SECOND if second > first else TIE
    return None


def scores(raw: str, chosen: Preset) -> dict[str, int] | None:
    """{criterion: whole number from low to high}; None when one is missing, or no such number. The last ones count."""
    text, found = spoken(raw), {}
    for criterion in chosen.criteria:
        numbers = re.findall(rf"{re.escape(criterion)}\W{{0,12}}?(\d+(?:\.\d+)?)", text, re.IGNORECASE)
        if not numbers or not float(numbers[-1]).is_integer() or not chosen.low <= float(numbers[-1]) <= chosen.high:
            return None
        found[criterion] = int(float(numbers[-1]))
    return found


def met(raw: str) -> bool | None:
    """Whether a reply says that a criterion is met; None when it does not say."""
    text = spoken(raw).lower()
    said = re.findall(r'"criteria_met"\s*:\s*(true|false)', text)
    said = said or re.findall(r"\b(?:yes|no|true|false)\b|不符合|符合|^[是否]", text, re.MULTILINE)
    return said[-1] in ("yes", "true", "符合", "是") if said else None


def rubric_score(criteria: Sequence[Criterion], verdicts: Sequence[bool | None]) -> float | None:
    """Points met over the points that can be had, in percent, at least 0 and at most 100; None if one is unread."""
    if None in verdicts:
        return None
    earned = sum(one.points for one, met_it in zip(criteria, verdicts, strict=True) if met_it)
    return 100 * min(1.0, max(0.0, earned / sum(one.points for one in criteria if one.points > 0)))
