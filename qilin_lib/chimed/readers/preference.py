"""Preference pairs for DPO: MedicalGPT reward, Zhongjing_rlhf, and general Chinese pairs (paper §3.3.1)."""

from __future__ import annotations

from typing import Any

from qilin_lib.chimed.readers.decode import Reject, json_reader, required, string
from qilin_lib.chimed.readers.dialogue import speaker_turns
from qilin_lib.chimed.records import Preference


def triplet(prompt: tuple[str, ...], chosen: str, rejected: str) -> Preference:
    """A Preference; Reject when a side is empty or both are the same, which would teach nothing."""
    if not (chosen and rejected):
        raise Reject("empty field", "rejected response" if chosen else "chosen response")
    if chosen == rejected:
        raise Reject("chosen equals rejected", chosen)
    return Preference(prompt, chosen, rejected)


def reward_row(row: Any) -> Preference:
    """MedicalGPT: {question, response_chosen (a doctor's), response_rejected (BenTsao's)}."""
    question = required(row, "question")
    return triplet((question,), string(row.get("response_chosen")), string(row.get("response_rejected")))


def zhongjing_row(row: Any) -> Preference:
    """Zhongjing_rlhf: {instruction, output: [best, …, worst]}; the first answer is preferred to the second."""
    question = required(row, "instruction")
    answers = row.get("output")
    if not isinstance(answers, list) or len(answers) < 2:
        raise Reject("fewer than two answers", f"output is {type(answers).__name__}")
    return triplet((f"{question}\n{string(row.get('input'))}".strip(),), string(answers[0]), string(answers[1]))


def pair_row(row: Any) -> Preference:
    """{"conversations": [… human], "chosen": str | {"from", "value"}, "rejected": …}.

    A system turn opens the first user turn.
    """
    if not isinstance(row, dict) or "conversations" not in row:
        raise Reject("missing field", "conversations")
    return triplet(_prompt(row["conversations"]), _response(row.get("chosen")), _response(row.get("rejected")))


def _prompt(messages: Any) -> tuple[str, ...]:
    turns = [(who, said) for who, said in speaker_turns(messages) if said]
    system = "\n".join(said for who, said in turns if who == "system")
    spoken = [(who, said) for who, said in turns if who != "system"]
    expected = ["human" if number % 2 == 0 else "gpt" for number in range(len(spoken))]
    if not spoken or len(spoken) % 2 == 0 or [who for who, _ in spoken] != expected:
        raise Reject("unknown form", "the prompt does not alternate human and gpt, ending with human")
    return (f"{system}\n{spoken[0][1]}".strip(), *(said for _, said in spoken[1:]))


def _response(value: Any) -> str:
    return string(value.get("value", value.get("content")) if isinstance(value, dict) else value)


medicalgpt_reward = json_reader(reward_row)
zhongjing_rlhf = json_reader(zhongjing_row)
pairs = json_reader(pair_row)
