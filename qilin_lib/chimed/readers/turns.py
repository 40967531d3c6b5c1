"""Who says what in a row: system text and turns, in the spellings in which chats, instructions and histories go round.

What would be lost or glued is a Reject by name: tools, content that is not text, options, a turn without loss, an empty
turn between two others, a system turn after the first, several questions or answers, an answer that nobody wants, role
marks that cannot be told apart.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
from collections.abc import Iterable
from typing import Any

from qilin_lib.chimed.readers.decode import FIELDS, Reject, field, field_text, leaves, list_of, required, string, told
from qilin_lib.chimed.records import Dialogue

# (speaker, text), the speaker being "user", "assistant" or "system"
Turn = tuple[str, str]
CHAT = FIELDS["chat"]
_REASONS = ("tools", "content that is not text", "options beside the question")
_REFUSED = {name: reason for reason in _REASONS for name in CHAT[reason]}
_NAMES = FIELDS["speakers"].items()
_SPEAKERS = {name: who for who, kinds in _NAMES for names in kinds.values() for name in names}
# Those that are also fields of a row name no speaker as the key of a message.
_KEYS = _SPEAKERS.keys() - {*CHAT["question"], *CHAT["below the question"], *CHAT["answer"]}
_ASKED = ("input", *(name for kind in ("messages", "question", "answer") for name in CHAT[kind]))


def instruction_row(row: Any) -> Dialogue:
    """One row of dialogues, questions with answers, chats or instructions, whichever of their forms it has.

    A list of messages, alone or under one of CHAT["messages"]; {"input": [q, …], "output": [a, …]}; [question,
    answer]; {"text": all turns, each behind its role mark}; or a question (`input` or `context` goes on) and an answer,
    a text or messages, after the pairs in `history`. A `system` text stands before all of them. Of a list of questions
    the first is asked, the others are its `wordings`.
    """
    row = _named(row)
    plain(row)
    for flag in CHAT["undesired"] if isinstance(row, dict) else ():
        if string(row.get(flag)).lower() in ("false", "0", "0.0") or row.get(flag) is False:
            raise Reject("undesired answer", flag)
    if isinstance(row, dict) and isinstance(row.get("input"), list):
        return talk(messages(_pairs(row["input"], row.get("output"))), text_of(row.get("system")))
    system, turns = asked(row)
    if listed(row):
        return talk(turns, system)
    if _is_messages(answers := unpacked(field(row, CHAT["answer"]))):
        return talk([*turns, *messages(answers)], system)
    dialogue, questions = talk([*turns, ("assistant", _answer(row, answers))], system), field(row, CHAT["question"])
    wordings = tuple(filter(None, map(field_text, leaves(questions)[1:]))) if isinstance(questions, list) else ()
    return dialogue._replace(wordings=wordings) if wordings else dialogue


def _named(row: Any) -> Any:
    if isinstance(row, list) and len(row) == 2 and all(isinstance(text, str) for text in row):
        return {"question": row[0], "answer": row[1]}
    if isinstance(row, dict):
        row = row | {name: told(row[name]) for name in ("questions", "answers") if isinstance(row.get(name), str)}
    if isinstance(row, dict) and row.keys().isdisjoint(_ASKED):
        marked = [{"role": who, "content": text} for who, text in whole_transcript(string(row.get("text")))]
        return row | {"messages": marked} if marked else row
    return {"messages": row} if _is_messages(row) else row


def _answer(row: Any, answers: Any) -> str:
    answer = _sole(row, "answer")
    if isinstance(answers, list) and len(texts := list(filter(field_text, leaves(answers)))) > 1:
        raise Reject("several answers", " / ".join(map(str, texts)))
    if nothing(answer):
        raise Reject("empty field", "answer")
    if _LINK.fullmatch(answer):
        raise Reject("link instead of an answer", answer)
    return answer


def _sole(row: Any, kind: str, *spare: str) -> str:
    """The question or answer of a row; Reject where its fields say different things, of which some would be lost.

    The fields `spare` are read where those of its kind are not there or empty.
    """
    text = required(row, *CHAT[kind], *spare)
    for name in CHAT[kind]:
        other = field_text(row[name]) if name in row else ""
        if other not in text and text not in other:
            raise Reject(f"several {kind}s", f"{text} / {other}")
    return text


def _pairs(first: Any, second: Any) -> list[list[Any]]:
    if not isinstance(first, list) or not isinstance(second, list) or len(first) != len(second):
        raise Reject("unknown form", "not two lists of one length")
    return list(map(list, zip(first, second, strict=True)))


def plain(row: Any) -> None:
    """Reject a row whose answers rest on more than its texts: tools, content that is not text, options of an exam."""
    if not isinstance(row, dict) or _REFUSED.keys().isdisjoint(row):
        return
    for name in row:
        if name in _REFUSED and row[name] and row[name] not in ("[]", "{}", "null", "nan", "None"):
            raise Reject(_REFUSED[name], name)


def listed(row: Any) -> str:
    """The key under which a row has its list of messages, "" when it has none."""
    keys = CHAT["messages"] if isinstance(row, dict) else ()
    return next((key for key in keys if row.get(key) is not None and (key != "data" or _are_turns(row[key]))), "")


def _are_turns(value: Any) -> bool:
    """Whether what stands under "data" are turns, and not the rows of a file."""
    if not isinstance(value, list):
        return False
    for one in value:
        if isinstance(one, dict) and field(one, CHAT["speaker"]) is None:
            return False
    return all(isinstance(one, dict | str) for one in value)


def asked(row: Any) -> tuple[str, list[Turn]]:
    """(system text, turns) of a row up to its question; of a row with a list of messages, all of them."""
    system = text_of(row.get("system")) if isinstance(row, dict) else ""
    if key := listed(row):
        return system, messages(row[key])
    if isinstance(row, dict) and _is_messages(prompt := unpacked(row.get("prompt"))):
        return system, [*_history(row.get("history")), *messages(prompt)]
    said = [_sole(row, "question", "input")]
    for more in (row[name] for name in CHAT["below the question"] if row.get(name)):
        if isinstance(more, list | dict):
            raise Reject("content that is not text", f"a {type(more).__name__} beside the question")
        said += [string(more)] if string(more) not in said and not nothing(string(more)) else []
    return system, [*_history(row.get("history")), ("user", "\n".join(said))]


def _history(value: Any) -> list[Turn]:
    """Turns of [[question, answer], …], of rows without a history of their own, or of messages."""
    value = _parsed(value)
    if _is_messages(value):
        pairs = [[field(one, CHAT["question"]), field(one, CHAT["answer"])] for one in value]
        value = [one if None in pair else pair for one, pair in zip(value, pairs, strict=True)]
    return [] if not value or isinstance(value, str | float) and not string(value) else messages(value)


def _parsed(value: Any) -> Any:
    """A list that a table holds as its text."""
    return list_of(value.strip()) if isinstance(value, str) and value.lstrip().startswith("[") else value


def unpacked(value: Any) -> Any:
    """Messages that a table holds as their JSON text, or one message alone, as a list; anything else as it is."""
    if isinstance(value, dict) and field(value, CHAT["speaker"]):
        return [value]
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        with contextlib.suppress(ValueError, RecursionError):
            inside = json.loads(value)
            if _is_messages(inside) and all(field(one, CHAT["speaker"]) for one in inside):
                return inside
    return value


_LINK = re.compile(r"(?:https?://|www\.)\S+")
_LABEL = re.compile(r"\s*([^\s：:]{1,9})\s*[：:]\s*(.*)", re.DOTALL)


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def messages(value: Any) -> list[Turn]:
    """The turns of a list of messages, or of [[question, answer], …].

    A message is {"from" or "role" or "speaker", "value" or "content" or "text" or "utterance"}, {"human", "assistant"},
    or "问：…" with its speaker before it. Speakers and utterances may be two lists.
    """
    value = _parsed(value)
    if isinstance(value, dict):
        pairs = _pairs(field(value, CHAT["speaker"]), field(value, CHAT["text"]))
        value = [{"speaker": who, "utterance": said} for who, said in pairs]
    if not isinstance(value, list) or not all(isinstance(message, dict | str | list) for message in value):
        raise Reject("unknown form", "the conversation is no list of messages")
    return [turn for message in value for turn in _turns(message)]


def _turns(message: dict[str, Any] | str | list[Any]) -> list[Turn]:
    if isinstance(message, list):
        if len(message) != 2:
            raise Reject("unknown form", f"{len(message)} texts where a question and an answer were expected")
        return list(zip(("user", "assistant"), map(text_of, message), strict=True))
    if isinstance(message, str):
        label = _LABEL.fullmatch(message)
        return [(speaker_of(label[1]), string(label[2]))] if label else [(speaker_of(message), "")]
    plain(message)
    if (named := field(message, CHAT["speaker"])) is None and not any(name in message for name in CHAT["speaker"]):
        said = [(name.lower(), text) for name, text in message.items() if name.lower() in _KEYS]
        if not said:
            raise Reject("unknown form", f"a message without a speaker: {', '.join(list(message)[:8])}")
        return [(_SPEAKERS[name], text_of(text)) for name, text in said]
    speaker = speaker_of(named)
    if speaker == "assistant" and any(message.get(flag, 1) in (0, "false") for flag in CHAT["no loss"]):
        raise Reject("turn without loss", f"turn of {named}")
    return [(speaker, text_of(field(message, CHAT["text"])))]


def speaker_of(name: Any) -> str:
    """The role of a speaker's name, or of MedDialog's class number (0 the patient, 1 the doctor); else Reject."""
    known = ("user", "assistant")[name] if type(name) is int and name in (0, 1) else _SPEAKERS.get(string(name).lower())
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


def talk(turns: Iterable[Turn], system: str = "") -> Dialogue:
    """The Dialogue of (speaker, text) turns; Reject when nobody answers, and for what `alternating` rejects."""
    texts, system = alternating(turns, system)
    if len(texts) < 2:
        raise Reject("no answer", texts[0] if texts else "no turns")
    return Dialogue(texts, system)


def question_and_answer(question: str, answer: str) -> Dialogue:
    """The Dialogue of a question and its answer."""
    return talk([("user", question), ("assistant", answer)])


def alternating(turns: Iterable[Turn], system: str = "") -> tuple[tuple[str, ...], str]:
    """(texts of user, assistant, user, …, the system's text) of (speaker, text) turns.

    Turns of one speaker in a row are joined by a newline; what is empty at either end was never written. Reject: an
    empty turn between two others, a system turn after the first, the assistant speaking first, role marks in a turn.
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


# A mark is "<user>:", "<|user|>" or "<|im_start|>user" anywhere, a heading "### Instruction:", or a word with a colon
# at the beginning of a line or sentence, but not of an entry of a numbered list.
_WORDS, _HEADINGS = ("|".join(n for _, kinds in _NAMES for n in kinds.get(kind, ())) for kind in ("marks", "headings"))
_MARK = re.compile(
    rf"(?:<(?P<tag>{_WORDS})>|<\|(?P<token>{_WORDS})\|>[：:]?|<\|im_start\|>(?P<chat>{_WORDS})\n"
    rf"|(?<!#)#{{2,5}}[ \t]?(?P<heading>{_HEADINGS}|{_WORDS})[ \t]?"
    rf"|(?:^|(?<=[\s。！？!?…；;>])(?<!\d[.、]\s))(?P<word>{_WORDS})[ \t]?)(?:(?(token)|(?(chat)|[：:])))",
    re.IGNORECASE,
)

# What every mark holds; looked for first, for it is found four times as fast.
_HINT = re.compile(rf"(?:{_WORDS}|{_HEADINGS})[ \t]?[|>:：]|<\|im_start\|>")


def transcript(text: str) -> list[Turn]:
    """(speaker, text behind its mark) of every role mark in a text; text before the first comes with the speaker ""."""
    marks = list(_MARK.finditer(text))
    before = (text[: marks[0].start()] if marks else text).strip()
    parts = [] if before in ("", "<s>") else [("", before)]
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    said = (_unended(text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True))
    return parts + [(_SPEAKERS[mark[mark.lastgroup].lower()], one) for mark, one in zip(marks, said, strict=True)]


def _unended(text: str) -> str:
    return text.strip().removesuffix("</s>").removesuffix("<|im_end|>").strip()


def whole_transcript(text: str) -> list[Turn]:
    """The turns of a text that is a conversation from the user's first word to an answer; [] of any other."""
    turns = transcript(text) if _HINT.search(text.lower()) and _MARK.search(text) else []
    return turns if len(turns) > 1 and turns[0][0] == "user" and turns[-1][0] == "assistant" else []


def unmarked(speaker: str, text: str) -> list[Turn]:
    """The turns of a turn's text: itself, or those that the role marks inside it tell apart.

    A user's text may begin with the turns before the question, and may end with the mark of the answer to come. Reject
    for other marks.
    """
    if not (_HINT.search(text.lower()) and (mark := _MARK.search(text))):
        return [(speaker, text)]
    parts = transcript(text)
    speakers = [who for who, _ in parts]
    if speakers == [speaker]:
        return parts
    if len(set(speakers) - {""}) == 1 and mark["word"]:
        return [(speaker, text)]
    if parts[-1] == ("assistant", ""):
        del parts[-1], speakers[-1]
    if speaker != "user" or speakers[0] != "user" or speakers[-1] != "user":
        raise Reject("role marks inside a turn", text)
    return parts


_NOTHING = re.compile(
    r"无|暂无|不适用|none|nan|null|nil|n/a|(?-i:NA|na)|not applicable|empty|[-–—/]+"
    r"|(?:无|空|没有|不需要|无需|暂无|no|none|empty)[ _-]?(?:任何|额外|附加|其他)?的?"
    r"(?:输入|输出|input|output)(?:内容|数据|信息)?",
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
