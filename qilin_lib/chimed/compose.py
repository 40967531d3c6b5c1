"""Payload -> one line of cpt, sft, dpo or general.jsonl; one conversation format for every source (paper §3.2.1)."""

from __future__ import annotations

from typing import Any

from qilin_lib.chimed import aggregate
from qilin_lib.chimed.records import Dialogue, Disease, Exam, Passage, Payload, Preference

_SPEAKERS = ("user", "assistant")


def compose(name: str, payload: Payload) -> dict[str, Any] | None:
    """The keys of a record that only set `name` ("cpt", "sft", "dpo", "general") has; None: the payload has none."""
    match name:
        case "cpt":
            return {"text": medical_text(payload)}
        case "general":
            return {"text": general_text(payload)}
        case "sft" if turns := conversation(payload):
            return {"messages": messages(turns, payload.system if isinstance(payload, Dialogue) else "")}
        case "dpo" if isinstance(payload, Preference):
            # Paper §3.3.1: prompt, the preferred and the rejected response, each as messages.
            answers = {"chosen": payload.chosen, "rejected": payload.rejected}
            prompt = messages(payload.prompt, payload.system)
            return {"prompt": prompt} | {k: [{"role": "assistant", "content": v}] for k, v in answers.items()}
    return None


def messages(turns: tuple[str, ...], system: str = "") -> list[dict[str, str]]:
    """[{"role", "content"}, …] of alternating texts, the user first, behind the system's turn if there is one."""
    opening = [{"role": "system", "content": system}] if system else []
    return opening + [{"role": _SPEAKERS[number % 2], "content": turn} for number, turn in enumerate(turns)]


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
            return "\n".join([aggregate.text(payload), *map("".join, aggregate.questions(payload))])
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


def conversation(payload: Payload) -> tuple[str, ...]:
    """Alternating turns for SFT, ending with the assistant; () when the payload is not asked and answered."""
    match payload:
        case Dialogue(turns):
            return turns[: len(turns) // 2 * 2]
        case Exam():
            return exam_turns(payload)
    return ()
