"""Payload -> one line of cpt, sft, dpo or general.jsonl; one conversation format for every source (paper §3.2.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qilin_lib.chimed.records import Dialogue, Disease, Exam, Passage, Payload, Preference

# What is asked about a disease (paper §3.1.1): the question and the headings (or relation names) that answer it.
QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("{name}的病因是什么？", ("病因", "发病机制", "高危因素")),
    ("{name}有哪些症状？", ("症状", "临床表现", "临床症状及体征")),
    ("{name}一般用什么药？", ("常用药物", "推荐药物", "药物治疗")),
)
_ASKED = frozenset(heading for _, headings in QUESTIONS for heading in headings)


def compose(name: str, payload: Payload) -> dict[str, Any] | None:
    """The keys of a record that only set `name` ("cpt", "sft", "dpo", "general") has; None: the payload has none."""
    match name, payload:
        case "cpt", _:
            return {"text": medical_text(payload)}
        case "general", _:
            return {"text": general_text(payload)}
        # Alternating turns, ending with the assistant.
        case "sft", Dialogue(turns, system) if len(turns) > 1:
            return {"messages": messages(turns[: len(turns) // 2 * 2], system)}
        case "sft", Exam():
            return {"messages": messages(exam_turns(payload))}
        case "dpo", Preference(prompt, chosen, rejected, system):
            # Paper §3.3.1: prompt, the preferred and the rejected response, each as messages.
            answers = {"chosen": chosen, "rejected": rejected}
            told = {"prompt": messages(prompt, system)}
            return told | {key: [{"role": "assistant", "content": text}] for key, text in answers.items()}
    return None


def messages(turns: tuple[str, ...], system: str = "") -> list[dict[str, str]]:
    """[{"role", "content"}, …] of alternating texts, the user first, behind the system's turn if there is one."""
    opening = [{"role": "system", "content": system}] if system else []
    return opening + [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]


def exam_turns(exam: Exam) -> tuple[str, str]:
    """The user's and the assistant's turn of an exam question: the prompt is the one that evaluation will use."""
    options = "\n".join(f"{letter} {text}" for letter, text in exam.options)
    explanation = f"\n解释：{exam.explanation}" if exam.explanation else ""
    return f"{exam.question}\n{options}", f"答案：{exam.answer}。{explanation}"


def medical_text(payload: Payload) -> str:
    """Running text for DCPT. Dialogues name the speakers, so that the model sees who says what."""
    match payload:
        case Passage(title, body):
            return f"{title}\n{body}".strip()
        case Disease():
            return "\n".join(_disease_lines(payload))
        case Exam():
            return "\n".join(exam_turns(payload))
        case Dialogue(turns, system):
            named = turns if len(turns) == 2 else [f"{('患者', '医生')[n % 2]}：{turn}" for n, turn in enumerate(turns)]
            return "\n".join([*filter(None, [system]), *named])
        case Preference():
            return "\n".join([*filter(None, [payload.system]), *payload.prompt, payload.chosen])


def general_text(payload: Payload) -> str:
    """Running text for base pre-training and the tokenizer: turns one after the other, no speaker names."""
    if isinstance(payload, Dialogue):
        return "\n".join([*filter(None, [payload.system]), *payload.turns])
    return medical_text(payload)


def _disease_lines(entity: Disease) -> list[str]:
    """The name, "heading：values" of each feature that no question asks for, then each question with its answer."""
    lines, found = [entity.name], dict(entity.features)
    lines += [f"{heading}：{_joined(values)}" for heading, values in entity.features if heading not in _ASKED]
    for question, headings in QUESTIONS:
        if values := [value for heading in headings for value in found.get(heading, ())]:
            lines.append(question.format(name=entity.name) + _joined(values).rstrip("。；") + "。")
    return lines


def _joined(values: Iterable[str]) -> str:
    """Distinct values as one text: sentences one after the other, all else with "、"."""
    parts = (value if value.endswith(("。", "；", "！", "？")) else f"{value}、" for value in dict.fromkeys(values))
    return "".join(parts).removesuffix("、")
