"""Preference pairs for DPO, whichever form they have: TRL's, LLaMA-Factory's, MedicalGPT's, Zhongjing's ranked lists
(paper §3.3.1)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from qilin_lib.chimed.readers import turns
from qilin_lib.chimed.readers.decode import Reject, parsed_rows, string
from qilin_lib.chimed.readers.turns import CHAT, Turn, listed, messages, text_of
from qilin_lib.chimed.records import Payload, Preference

Ranked = Literal["best_two", "all_pairs"]


def pair_row(row: Any) -> Preference:
    """One row of a set of pairs.

    A prompt: a list of messages (`prompt`, `conversations`, …) or a question (`prompt`, `question`, `instruction` with
    `input`, `query`), after `system` and `history`. Two answers, CHAT["chosen"] and CHAT["rejected"]: texts,
    messages, or whole conversations, which then need no prompt; a list of messages may end with the preferred answer.
    Or `output`, a list of answers, the best first.
    """
    turns.plain(row)
    if not isinstance(row, dict):
        raise Reject("unknown form", f"a {type(row).__name__} where an object was expected")
    if "response_0" in row:
        raise Reject("answers without a ranking", ", ".join(name for name in row if name.startswith("response_")))
    has_prompt = listed(row) or any(name in row for name in (*CHAT["question"], "input"))
    system, prompt = turns.asked(row) if has_prompt else (text_of(row.get("system")), [])
    if "output" in row:
        if not isinstance(answers := row["output"], list) or len(answers) < 2:
            raise Reject("fewer than two answers", f"output is {type(answers).__name__}")
        return _preference(system, prompt, list(map(text_of, answers)))
    if prompt and prompt[-1][0] == "assistant" and not any(name in row for name in CHAT["chosen"]):
        prompt, chosen = prompt[:-1], prompt[-1:]
    else:
        chosen = _side(row, "chosen", bool(prompt))
        # UltraFeedback's messages are the preferred conversation once more.
        prompt = prompt if prompt != chosen else []
    return _preference(system, *_split(prompt, chosen, _side(row, "rejected", bool(prompt))))


def _side(row: Mapping[str, Any], side: str, with_prompt: bool) -> list[Turn]:
    """The turns under `chosen` or `rejected`: an answer alone, or a whole conversation that ends in it."""
    found = [row[name] for name in CHAT[side] if name in row]
    if not found:
        raise Reject("missing field", f"{side} or response_{side}; found {', '.join(list(row)[:8])}")
    if any(other != found[0] for other in found):
        raise Reject("several answers", ", ".join(name for name in CHAT[side] if name in row))
    value = turns.unpacked(found[0])
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, list | dict) and value:
        return messages(value if isinstance(value, list) else [value])
    whole = [] if with_prompt else turns.whole_transcript(string(value))
    return whole or [("assistant", text_of(value))]


def _split(prompt: list[Turn], chosen: list[Turn], rejected: list[Turn]) -> tuple[list[Turn], list[str]]:
    """(the prompt's turns, the two answers); both sides may hold the prompt, which stands there once then."""
    *before, (speaker, answer), (other_speaker, other) = [*chosen, rejected[-1]]
    if (speaker, other_speaker) != ("assistant", "assistant"):
        raise Reject("unknown form", f"answers of the {speaker} and the {other_speaker}")
    if before or len(rejected) > 1:
        if before != rejected[:-1]:
            raise Reject("unknown form", "chosen and rejected do not answer one prompt")
        if prompt and prompt != before[-len(prompt) :]:
            raise Reject("unknown form", "chosen and rejected answer another prompt")
    return before or prompt, [answer, other]


def _preference(system: str, prompt: list[Turn], answers: Sequence[str]) -> Preference:
    if not prompt:
        raise Reject("missing field", "prompt, conversations, question or instruction")
    if next((who for who, text in reversed(prompt) if text), "user") != "user":
        raise Reject("unknown form", "the prompt does not end with the user")
    texts, system = turns.alternating(prompt, system)
    if not texts:
        raise Reject("empty field", "the prompt")
    chosen, rejected, *others = (turns.unmarked("assistant", text)[0][1] for text in answers)
    one = Preference(texts, chosen, rejected, system, tuple(others))
    return one if others else checked(one)


def checked(one: Preference) -> Preference:
    """The pair itself; Reject when a side is empty or both are the same, which would teach nothing."""
    if not (one.chosen and one.rejected):
        raise Reject("empty field", "rejected response" if one.chosen else "chosen response")
    if one.chosen == one.rejected:
        raise Reject("chosen equals rejected", one.chosen)
    return one


def pairs_of(one: Payload | Reject, ranked: Ranked) -> Iterator[Payload | Reject]:
    """The pairs of a ranked list: its best two answers, or all that its order implies; anything else is given on."""
    if not (isinstance(one, Preference) and one.others):
        yield one
        return
    answers = (one.chosen, one.rejected, *one.others)
    if ranked == "best_two":
        yield _pair(one, *answers[:2])
        return
    places: dict[tuple[str, str], int] = {}
    for pair in itertools.combinations(answers, 2):
        yield _pair(one, *pair, places.setdefault(pair, len(places) + 1))


def _pair(one: Preference, better: str, worse: str, place: int = 0) -> Payload | Reject:
    try:
        return checked(Preference(one.prompt, better, worse, one.system, place=place))
    except Reject as no:
        return Reject(no.reason, no.detail, one.prompt[-1])


pairs = partial(parsed_rows, pair_row)
