"""One-stage training (HuatuoGPT-II, arXiv 2311.09774): DCPT's passages as instructions, learned together with SFT.

HuatuoGPT-II lets an LLM write a question to each passage and rewrite the passage as its answer (`unified`, a file of
`evaluate.unification`). Without it rules make the instruction from what the record states, and the passage itself is
the answer, which is weaker. The order is that of its public code (FreedomIntelligence/HuatuoGPT-II, 88ddf9a,
data_process.py): all examples are drawn once, without replacement, each draw in proportion to a weight of its source;
32, 16, 8 or 4 for kinds of passages, 1 for SFT.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from qilin_lib import files, strict_yaml
from qilin_lib.errors import QilinError, nearest
from qilin_lib.tokens import corpus, store
from qilin_lib.tokens.template import Message, text_ids

ROLES = {"患者": "user", "医生": "assistant"}
SPEAKER = re.compile(r"^(患者|医生)：", re.MULTILINE)
SECTION = re.compile(r"^第[一二三四五六七八九十百\d]+[章节篇]\s*(.{1,30})$", re.MULTILINE)
HEADING = re.compile(r"【([^】\n]{1,12})】|^([^：\n，。]{1,12})：", re.MULTILINE)
NUMBERING = re.compile(r"^[\d\s\-_.、]+")
SENTENCE_END = re.compile(r"[。！？；\n]")
OPENING = re.compile(r"\s*(.{6,20}?)(?=[，。！？；\n]|\Z)", re.DOTALL)
PHRASES: dict[str, list[str]] = strict_yaml.read(Path(__file__).with_name("instructions.yaml"))
CONTINUED = "接着上文，"
# What is counted of every source. The last two: rows made of its documents, and 02's tokens of those.
COUNTS = ("documents", "conversations", "instructed", "unified", "held_out", "examples", "document_tokens")


def passages(job: SimpleNamespace, tokenizer: Any) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
    """The documents that 02 packed for DCPT as rows {source, messages}, and the counts of every source.

    Of a source's `documents` some stay `conversations` and some are `instructed`, `unified` of them by a model and the
    others by rules, `held_out` because ChiMed-SFT holds the same conversation out. `examples` counts the rows,
    `document_tokens` is what 02 counted.
    """
    taken = list(documents(job.paths.chimed, job.paths.tokens))
    ids = {row["id"] for row, _ in taken}
    # Conversations of sft.jsonl that are records of DCPT too.
    known = {row["id"]: (row["split"], row["messages"]) for row in files.read_jsonl(job.paths.data) if row["id"] in ids}
    written = unified(Path(path)) if (path := job.parameters.one_stage.get("unified")) else {}
    rows: list[dict[str, Any]] = []
    counts: dict[str, dict[str, int]] = {}
    for row, tokens in taken:
        split, messages = known.get(row["id"], ("train", None))
        turns = None if split == "heldout" else conversation(row["text"], messages)
        parts = turns and exchanges(turns, job.template, tokenizer, job.parameters)
        count = counts.setdefault(row["source"], dict.fromkeys(COUNTS, 0))
        count["documents"] += 1
        count["document_tokens"] += tokens
        count["held_out"] += split == "heldout"
        count["conversations" if parts else "instructed"] += 1
        if not parts and row["id"] in written:
            parts = exchanges(written[row["id"]], job.template, tokenizer, job.parameters)
            count["unified"] += parts is not None
        parts = parts or instructed(row, tokenizer, job.parameters)
        count["examples"] += len(parts)
        rows += [{"source": row["source"], "messages": part} for part in parts]
    return rows, counts


def unified(path: Path) -> dict[str, list[Message]]:
    """{id of a document: question and answer} of a file of rows {id, question, answer} (`evaluate.unification`).
    QilinError for a file that is not there, and for a row of another form."""
    if not path.is_file():
        raise QilinError(f"one_stage.unified: {path}: no file; nearest valid: null (rules write the questions)")
    found = {}
    for line, row in enumerate(files.read_jsonl(path), start=1):
        texts = [row.get(name) for name in ("id", "question", "answer")] if isinstance(row, dict) else [None]
        if not all(isinstance(text, str) and text for text in texts):
            raise QilinError(f"{path}:{line}: no row with texts id, question, answer")
        name, *said = texts
        found[name] = [{"role": role, "content": text} for role, text in zip(ROLES.values(), said, strict=True)]
    return found


def documents(chimed: Path, tokens: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """(row, tokens) of every document that 02 packed for 03, in the order of its draw, given the folders of 01
    and 02."""
    for name in corpus.PACKED:
        numbers = np.load(tokens / f"{name}_documents.npy").tolist()
        lengths = store.Store(corpus.folder(tokens, name)).lengths()
        rows = dict(zip(sorted(numbers), store.lines(chimed / f"{name}.jsonl", numbers), strict=True))
        yield from ((rows[number], int(lengths[number])) for number in numbers)


# --- a passage as instruction and answer ------------------------------------------------------------------------------


def conversation(text: str, known: list[Message] | None) -> list[Message] | None:
    """The turns of a passage: the `known` ones if they spell `text`, else what stands after the speakers' names; None
    where nobody asks and answers."""
    if known is not None and text in spellings(known):
        return known
    before, *parts = SPEAKER.split(text)
    spoken = zip(parts[::2], parts[1::2], strict=True)
    turns = [{"role": ROLES[name], "content": words.removesuffix("\n")} for name, words in spoken]
    alternate = all(turn["role"] == ("user", "assistant")[i % 2] for i, turn in enumerate(turns))
    return turns if not before and len(turns) > 1 and alternate else None


def spellings(messages: list[Message]) -> tuple[str, str]:
    """How 01 writes a conversation as running text, a turn per line: of two turns, and of more with speakers' names."""
    names = {role: f"{name}：" for name, role in ROLES.items()} | {"system": ""}
    return (
        "\n".join(message["content"] for message in messages),
        "\n".join(names[message["role"]] + message["content"] for message in messages),
    )


def exchanges(turns: list[Message], template: Any, tokenizer: Any, parameters: Any) -> list[list[Message]] | None:
    """`turns` as conversations of whole exchanges within `max_length` tokens, a system text before each; an answer
    longer than `max_target_length` goes on in further exchanges, its question asked again. None if a question would be
    cut, or have no answer."""
    limits = (parameters.max_source_length, parameters.max_target_length)
    system = [turn for turn in turns[:1] if turn["role"] == "system"]
    turns = turns[len(system) :]
    if any(len(text_ids(tokenizer, turn["content"])) > limits[0] for turn in [*system, *turns[::2]]):
        return None
    parts: list[list[Message]] = []
    room = 0
    for question, answer in itertools.zip_longest(turns[::2], turns[1::2]):
        for number, piece in enumerate(pieces(answer["content"], tokenizer, limits[1]) if answer else [None]):
            asked = {"role": "user", "content": CONTINUED * (number > 0) + question["content"]}
            exchange = [asked, *([{"role": "assistant", "content": piece}] if answer else [])]
            length = len(template.encode_with_labels(exchange, tokenizer, *limits, follows="assistant")[0])
            if length > room:
                parts.append([*system])
                room = parameters.max_length
                length = len(template.encode_with_labels([*system, *exchange], tokenizer, *limits)[0])
            parts[-1] += exchange
            room -= length
    return parts if all(len(part) > 1 + len(system) for part in parts) else None


def instructed(row: dict[str, Any], tokenizer: Any, parameters: Any) -> list[list[Message]]:
    """The passage of a record {id, text} as answers of at most `max_target_length` tokens, which together are the text,
    character for character. The phrasing of their instructions is drawn by seed and id."""
    draw = random.Random(f"{parameters.seed} {row['id']}")
    text, start, made = row["text"], 0, []
    for piece in pieces(text, tokenizer, parameters.max_target_length):
        asked = CONTINUED * (start > 0) + instruction(text, start, piece, draw)
        made.append([{"role": "user", "content": asked}, {"role": "assistant", "content": piece}])
        start += len(piece)
    return made


def pieces(text: str, tokenizer: Any, limit: int) -> list[str]:
    """`text` in parts of at most `limit` tokens, halved at the sentence end nearest to the middle, else in the
    middle."""
    if len(text) < 2 or len(text_ids(tokenizer, text)) <= limit:
        return [text]
    middle = len(text) // 2
    quarter = max(1, len(text) // 4)
    ends = [match.end() for match in SENTENCE_END.finditer(text, middle - quarter, middle + quarter)]
    # A sentence's closing quotation mark or bracket belongs to it.
    ends = [end + (text[end : end + 1] in tuple("”）》」")) for end in ends]
    at = min((end for end in ends if end < len(text)), key=lambda end: abs(end - middle), default=middle)
    return pieces(text[:at], tokenizer, limit) + pieces(text[at:], tokenizer, limit)


def instruction(text: str, start: int, piece: str, draw: random.Random) -> str:
    """A request to which `piece`, which stands at character `start` of `text`, is the answer."""
    subject = subject_of(text, start)
    if not subject:
        found = OPENING.match(piece)
        opening = found.group(1) if found else piece.strip()[:20]
        return draw.choice(PHRASES["from_opening"]).format(opening=" ".join(opening.split()))
    found = [first or second for first, second in HEADING.findall(piece)]
    headings = "、".join(dict.fromkeys(name for name in found if name not in ROLES)).split("、")
    phrasings = PHRASES["about_subject" if headings == [""] else "about_headings"]
    return draw.choice(phrasings).format(subject=subject, headings="、".join(headings[:4]) + "等" * (len(headings) > 4))


def subject_of(text: str, start: int) -> str:
    """The section that character `start` of `text` stands in, else the title (a short first line that ends no
    sentence), else ""."""
    # Where a piece begins just before a section's heading, the section is what it is about.
    sections = [match for match in SECTION.finditer(text) if match.start() <= start + 1]
    if sections:
        return sections[-1].group(1).strip()
    title, _, rest = text.partition("\n")
    title = NUMBERING.sub("", title).strip()
    return title if rest and len(title) <= 30 and not re.search(r"[，。！？；：?!]", title) else ""


# --- the order --------------------------------------------------------------------------------------------------------


def weights(sources: Sequence[str] | np.ndarray, one_stage: Mapping[str, Any]) -> np.ndarray:
    """The sampling weight of every passage, given its source; floats, shape (n,). QilinError for a source in
    `priorities` that is not there."""
    named = one_stage["priorities"] or {}
    check_sources("one_stage.priorities", named, sources, "the documents that DCPT learns")
    return np.array([named.get(source, one_stage["priority"]) for source in sources], dtype=np.float64)


def check_sources(parameter: str, named: Iterable[str], sources: Iterable[str], what: str) -> None:
    """QilinError for a source that a parameter names and that is not there."""
    there = sorted(set(sources))
    for source in named:
        if source not in there:
            near = nearest(source, there)
            raise QilinError(f"{parameter}: '{source}' is no source of {what}{near}; there are {there}")


def order(weights: Sequence[float] | np.ndarray, seed: int) -> np.ndarray:
    """Every index once, in the order of a draw without replacement in proportion to `weights`; integers, shape (n,):
    exponential times with these rates, sorted (Efraimidis & Spirakis 2006)."""
    times = np.random.default_rng([seed, len(weights)]).exponential(size=len(weights))
    return np.argsort(times / np.asarray(weights, dtype=np.float64), kind="stable")


# --- what the two arms see --------------------------------------------------------------------------------------------


def measured(made: Any) -> dict[str, int]:
    """{examples, input_tokens, assistant_tokens} of `sft.Examples`."""
    return {
        "examples": len(made),
        "input_tokens": int(made.tokens.sum()),
        "assistant_tokens": int(made.learned.sum()),
    }


def compare_tokens(packing: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Rows (quantity, two stages, one stage) of one epoch: 02's packing.json and 04's facts. What the texts say is
    equal; what the forms add (DCPT: an end per document) and which tokens carry loss is not."""
    passages, said = facts["one_stage"]["passages"], facts["one_stage"]["conversations"]
    read = {name: sum(count[name] for count in facts["one_stage"]["sources"].values()) for name in COUNTS}
    ends, tokens, loss = packing["documents"], packing["tokens"], packing["tokens_with_loss"]
    own, heard = said["input_tokens"], said["assistant_tokens"]
    yield "documents of DCPT", ends, read["documents"]
    yield "their tokens", tokens, read["document_tokens"]
    form = ends * (1 + len(packing.get("begin", ())))
    yield "tokens that the form adds to them", form, passages["input_tokens"] - read["document_tokens"]
    yield "tokens with loss in them", loss, passages["assistant_tokens"]
    yield "conversations of SFT", said["examples"], said["examples"]
    yield "their tokens, role tags and ends included", own, own
    yield "tokens with loss in those", heard, heard
    yield "all tokens that enter the model", tokens + form + own, passages["input_tokens"] + own
    yield "all tokens with loss", loss + heard, passages["assistant_tokens"] + heard
