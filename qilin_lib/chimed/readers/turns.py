"""Who says what in a row: system text and turns, in the spellings in which chats, instructions and histories go round.

What would be lost or glued is a Reject by name: tools, content that is not text, a turn without loss, an empty turn
between two others, a system turn after the first, role marks that cannot be told apart.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import Any

from qilin_lib.chimed.readers.decode import Reject, required, string
from qilin_lib.chimed.records import Dialogue

Turn = tuple[str, str]
"""(speaker, text), the speaker being "user", "assistant" or "system"."""

_PATIENT, _DOCTOR = ("病人", "患者", "patient"), ("医生", "doctor")
_SPEAKERS = {"system": "system", "developer": "system", "系统": "system"}
_SPEAKERS |= dict.fromkeys((*_PATIENT, "human", "user", "input", "prompter", "用户", "问"), "user")
_SPEAKERS |= dict.fromkeys((*_DOCTOR, "gpt", "chatgpt", "assistant", "output", "bot", "model", "ai"), "assistant")
_SPEAKERS |= dict.fromkeys(("助手", "助理", "答"), "assistant")
LISTS = ("conversations", "conversation", "messages", "data")
_QUESTIONS = ("instruction", "instruct", "question", "questions", "query", "prompt")
_ANSWERS = ("output", "response", "answer", "answers", "completion")
_REFUSED = dict.fromkeys(("tools", "functions", "tool_calls", "function_call"), "tools")
_REFUSED |= dict.fromkeys(("images", "image", "videos", "audios", "audio"), "content that is not text")
_NO_LOSS = ("loss", "weight", "train")
_EMPTY = ("[]", "{}", "null", "nan", "None")


# --- rows -------------------------------------------------------------------------------------------------------------


def instruction_row(row: Any) -> Dialogue:
    """One row of a chat or instruction set, whichever of its forms it has.

    A list of messages, alone or under `conversations`, `conversation`, `messages` or `data`; {"input": [q, …],
    "output": [a, …]}; [question, answer]; or a question (`instruction`, `prompt`, `question`, `query`; `input` goes on)
    and an answer (`output`, `response`, `answer`, `completion`), after the pairs in `history`. A `system` text stands
    before all of them. Role marks inside a question ("<user>: … <bot>: …", BELLE's "Human:…\\nAssistant:…") are turns.
    """
    if isinstance(row, list) and len(row) == 2 and all(isinstance(text, str) for text in row):
        row = {"question": row[0], "answer": row[1]}
    elif _is_messages(row):
        row = {"messages": row}
    plain(row)
    if isinstance(row, dict) and isinstance(row.get("input"), list):
        return talk(_two_lists(row["input"], row.get("output")), string(row.get("system")))
    system, turns = asked(row)
    if listed(row):
        return talk(turns, system)
    answers = _first_of(row, _ANSWERS)
    if _is_messages(answers):
        return talk([*turns, *messages(answers)], system)
    answer = required(row, *_ANSWERS)
    if nothing(answer):
        raise Reject("empty field", "answer")
    return talk([*turns, ("assistant", answer)], system)


def plain(row: Any) -> None:
    """Reject a row whose answers rest on more than its texts: tools, or content that is not text."""
    if not isinstance(row, dict) or _REFUSED.keys().isdisjoint(row):
        return
    for name, reason in _REFUSED.items():
        if row.get(name) and row[name] not in _EMPTY:
            raise Reject(reason, name)


def listed(row: Any) -> str:
    """The key under which a row has its list of messages, "" when it has none."""
    keys = LISTS if isinstance(row, dict) else ()
    return next((key for key in keys if row.get(key) is not None and (key != "data" or isinstance(row[key], list))), "")


def asked(row: Any) -> tuple[str, list[Turn]]:
    """(system text, turns) of a row up to its question; of a row with a list of messages, all of them."""
    system = string(row.get("system")) if isinstance(row, dict) else ""
    if key := listed(row):
        return system, messages(row[key])
    if isinstance(row, dict) and _is_messages(row.get("prompt")):
        return system, messages(row["prompt"])
    question = required(row, *_QUESTIONS)
    more = string(row.get("input"))
    question = question if nothing(more) else f"{question}\n{more}"
    return system, [*history(row.get("history")), ("user", question)]


def history(value: Any) -> list[Turn]:
    """Turns of a history: [[question, answer], …], rows without one of their own, or a list of messages.

    Reject for another form.
    """
    value = _parsed(value)
    if _is_messages(value):
        value = [_exchange(message) for message in value]
    if not value or isinstance(value, str | float) and not string(value):
        return []
    pairs = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    if not pairs and not _is_messages(value):
        raise Reject("unknown form", "history is no list of pairs")
    return messages(value)


def _exchange(message: dict[str, Any]) -> Any:
    """[question, answer] of an object that has both under the names that rows have for them; any other as it stands."""
    question, answer = _first_of(message, _QUESTIONS), _first_of(message, _ANSWERS)
    return message if question is None or answer is None else [question, answer]


def _first_of(row: Any, names: Iterable[str]) -> Any:
    """The value of the first of `names` that a row has; None for none."""
    return next((row[name] for name in names if name in row), None)


def _parsed(value: Any) -> Any:
    """A list that a table holds as its JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as no:
            raise Reject("unknown form", f"a list as text: {no}") from None
    return value


def _two_lists(questions: list[Any], answers: Any) -> list[Turn]:
    if not isinstance(answers, list) or len(answers) != len(questions):
        raise Reject("unknown form", "input and output are not two lists of one length")
    return messages([list(pair) for pair in zip(questions, answers, strict=True)])


# --- lists of messages ------------------------------------------------------------------------------------------------


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def messages(value: Any) -> list[Turn]:
    """The turns of a list of messages.

    A message is {"from" or "role" or "speaker", "value" or "content" or "text" or "utterance"}, {"human", "assistant"},
    "问：…" with its speaker before it, or [question, answer].
    """
    value = _parsed(value)
    if not isinstance(value, list) or not all(isinstance(message, dict | str | list) for message in value):
        raise Reject("unknown form", "the conversation is no list of messages")
    return [turn for message in value for turn in _turns(message)]


_LABEL = re.compile(r"\s*([^\s：:]{1,9})\s*[：:]\s*(.*)", re.DOTALL)


def _turns(message: dict[str, Any] | str | list[Any]) -> list[Turn]:
    if isinstance(message, list):
        if len(message) != 2:
            raise Reject("unknown form", f"{len(message)} texts where a question and an answer were expected")
        return [("user", text_of(message[0])), ("assistant", text_of(message[1]))]
    if isinstance(message, str):
        label = _LABEL.fullmatch(message)
        return [(speaker_of(label[1]), string(label[2]))] if label else [(speaker_of(message), "")]
    plain(message)
    key = next((key for key in ("from", "role", "speaker") if key in message), "")
    if not key:
        named = [(_SPEAKERS.get(name.lower()), text) for name, text in message.items()]
        if not any(who for who, _ in named):
            raise Reject("unknown form", f"a message without a speaker: {', '.join(list(message)[:8])}")
        return [(who, text_of(text)) for who, text in named if who]
    speaker = speaker_of(message[key])
    if speaker == "assistant" and any(message.get(flag, 1) in (0, "false") for flag in _NO_LOSS):
        raise Reject("turn without loss", f"turn of {message[key]}")
    text = next((message[name] for name in ("value", "content", "text", "utterance") if name in message), None)
    return [(speaker, text_of(text))]


def speaker_of(name: Any) -> str:
    """ "user", "assistant" or "system" of the name that a source gives a speaker; Reject for another."""
    known = _SPEAKERS.get(string(name).lower())
    if known is None:
        raise Reject("unknown speaker", string(name))
    return known


def text_of(content: Any) -> str:
    """The text of a message's content; parts that are all text are joined, Reject where one is not."""
    if isinstance(content, list):
        return "\n".join(filter(None, map(text_of, content)))
    if isinstance(content, dict):
        if not isinstance(content.get("text"), str):
            raise Reject("content that is not text", string(content.get("type")) or "an object")
        return string(content["text"])
    return string(content)


# --- a dialogue of turns ----------------------------------------------------------------------------------------------


def talk(turns: Iterable[Turn], system: str = "") -> Dialogue:
    """The Dialogue of (speaker, text) turns; Reject when nobody answers, and for what `alternating` rejects."""
    texts, system = alternating(turns, system)
    if len(texts) < 2:
        raise Reject("no answer", texts[0] if texts else "no turns")
    return Dialogue(texts, system)


def question_and_answer(question: str, answer: str) -> Dialogue:
    """The Dialogue of one question and its answer."""
    return talk([("user", question), ("assistant", answer)])


def alternating(turns: Iterable[Turn], system: str = "") -> tuple[tuple[str, ...], str]:
    """(texts of user, assistant, user, …, the system's text) of (speaker, text) turns.

    Role marks inside a turn are resolved, turns of one speaker in a row joined by a newline; what is empty at either
    end was never written. Reject: an empty turn between two others, a system turn after the first, the assistant
    speaking first, role marks that cannot be resolved.
    """
    opening, spoken = [system], []
    for speaker, text in turns:
        if speaker != "system":
            spoken += unmarked(speaker, text)
        elif spoken:
            raise Reject("system turn after the first", text)
        else:
            opening.append(text)
    said = [place for place, (_, text) in enumerate(spoken) if text]
    spoken = spoken[said[0] : said[-1] + 1] if said else []
    texts: list[list[str]] = []
    for place, (speaker, text) in enumerate(spoken):
        if not text:
            raise Reject("empty turn", f"of the {speaker}, before: {spoken[place + 1][1]}")
        if (speaker == "user") == (len(texts) % 2 == 0):
            texts.append([text if texts else _question(text)])
        elif texts:
            texts[-1].append(text)
        else:
            raise Reject("the assistant speaks first", text)
    return tuple(map("\n".join, texts)), "\n".join(filter(None, opening))


# A mark is "<user>:" or "<|user|>" anywhere, or a word with a colon at the beginning of a line or sentence, but not of
# an entry of a numbered list.
_WORDS = "|".join((*_PATIENT, *_DOCTOR, "human", "user", "用户", "问", "assistant", "gpt", "bot", "助手", "答"))
_MARK = re.compile(
    rf"(?:<(?P<tag>{_WORDS})>|<\|(?P<token>{_WORDS})\|>[：:]?"
    rf"|(?:^|(?<=[\s。！？!?…；;>])(?<!\d[.、]\s))(?P<word>{_WORDS})[ \t]?)(?:(?(token)|[：:]))",
    re.IGNORECASE,
)


def transcript(text: str) -> list[tuple[str, str]]:
    """(mark, text behind it) of every role mark in a text; text before the first comes with the mark ""."""
    marks = list(_MARK.finditer(text))
    before = (text[: marks[0].start()] if marks else text).strip()
    parts = [] if before in ("", "<s>") else [("", before)]
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    said = (text[mark.end() : end].strip().removesuffix("</s>").strip() for mark, end in zip(marks, ends, strict=True))
    return parts + list(zip((mark[mark.lastgroup].lower() for mark in marks), said, strict=True))


def whole_transcript(text: str) -> list[Turn]:
    """The turns of a text that is a conversation from the user's first word to an answer; [] of any other."""
    parts = transcript(text) if _MARK.search(text) else []
    turns = [(_SPEAKERS.get(name, ""), said) for name, said in parts]
    return turns if len(turns) > 1 and turns[0][0] == "user" and turns[-1][0] == "assistant" else []


def unmarked(speaker: str, text: str) -> list[Turn]:
    """The turns of a turn's text: itself, or those that the role marks inside it tell apart.

    A user's text may begin with the turns before the question, and may end with the mark of the answer to come. One
    mark of the speaker's own goes; a patient or a doctor with a colon is none by itself. Reject for other marks.
    """
    mark = _MARK.search(text)
    if not mark:
        return [(speaker, text)]
    parts = transcript(text)
    speakers = [_SPEAKERS.get(name, "") for name, _ in parts]
    if len(parts) == 1 and speakers == [speaker] and parts[0][0] not in (*_PATIENT, *_DOCTOR):
        return [(speaker, parts[0][1])]
    if len(set(speakers) - {""}) == 1 and mark["word"]:
        return [(speaker, text)]
    if speakers[-1] == "assistant" and not parts[-1][1]:
        parts, speakers = parts[:-1], speakers[:-1]
    if speaker != "user" or speakers[0] != "user" or speakers[-1] != "user":
        raise Reject("role marks inside a turn", text)
    return [(who, said) for who, (_, said) in zip(speakers, parts, strict=True)]


# --- words for nothing ------------------------------------------------------------------------------------------------

_NOTHING = re.compile(
    r"无|暂无|不适用|none|nan|null|nil|n/?a|not applicable|empty|[-–—/]+|(?:无|空|没有|不需要|无需|暂无|no|none|empty)"
    r"[ _-]?(?:任何|额外|附加|其他)?的?(?:输入|输出|input|output)(?:内容|数据|信息)?",
    re.IGNORECASE,
)
_BRACKETS = "<>＜＞〈〉《》[]［］【】()（）{} \t\n。.，,\"'“”"
_LONGEST_NOTHING = 40


def nothing(text: str) -> bool:
    """Whether the text of an Alpaca field is a word for nothing: "无", "<无输入>", "N/A", "<noinput>", "没有输入。"."""
    if len(text) > _LONGEST_NOTHING:
        return False
    bare = html.unescape(text).strip(_BRACKETS)
    return bare == "" or _NOTHING.fullmatch(bare) is not None


def _question(text: str) -> str:
    """A first question without the word for nothing behind it, where an empty field was joined to it."""
    lines = text.split("\n")
    while len(lines) > 1 and lines[-1].strip().startswith(("<", "&lt;")) and nothing(lines[-1]):
        lines.pop()
    text = "\n".join(lines).rstrip()
    title, comma, rest = text.rpartition("，")
    return title if comma and rest in ("无", "无。") and not re.search("[，,：:。；\n]", title) else text
