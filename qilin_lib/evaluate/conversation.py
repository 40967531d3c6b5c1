"""A conversation with a trained stage of a run, in the template that the model was trained with, in several turns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from qilin_lib import params, runs
from qilin_lib.errors import QilinError, nearest, visible
from qilin_lib.evaluate import evidence
from qilin_lib.evaluate.backends import text_after
from qilin_lib.evaluate.models import loaders
from qilin_lib.evaluate.prompts import with_passages
from qilin_lib.models.names import places
from qilin_lib.schema import Retrieval

DISCLAIMER = "Research only, not for clinical use. 仅供研究，不得用于临床。"
COMMANDS = ("/reset", "/exit")
HELP = "/reset forgets the conversation, /exit or Ctrl-D ends it."
# A character can span tokens: a single byte may still change what the bytes before it mean, so it is shown later.
BYTE = re.compile("<0x[0-9A-F]{2}>")

Write = Callable[[str], None]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: temperature 0 takes the likeliest, else a seeded draw from the top-p nucleus."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise QilinError(f"--temperature {self.temperature}: must be 0 (greedy) or more; 0.7 is usual")
        if not 0 < self.top_p <= 1:
            raise QilinError(f"--top-p {self.top_p}: must be above 0 and at most 1; 0.9 is usual")
        if self.top_p < 1 and self.temperature == 0:
            raise QilinError(f"--top-p {self.top_p} changes nothing at temperature 0; give --temperature 0.7, say, too")
        if not 0 <= self.seed < 2**63:
            raise QilinError(f"--seed {self.seed}: must be 0 to 2**63 - 1")


@dataclass
class Chat:
    """A conversation with a loaded model (a TransformersBackend).

    With `search`, what it finds for a message stands before it, and in `shown` afterwards; the conversation keeps the
    message alone.
    """

    backend: Any
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    search: evidence.Search | None = None
    shown: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        import torch

        context = self.backend.context
        self.max_new_tokens = min(256, context // 4) if self.max_new_tokens is None else self.max_new_tokens
        if not 0 < self.max_new_tokens < context:
            raise QilinError(
                f"--max-new-tokens {self.max_new_tokens}: must be 1 to {context - 1}, less than the model's context"
            )
        self.generator = torch.Generator(self.backend.device).manual_seed(self.sampling.seed)

    def reset(self) -> None:
        """Forget what was said and start the seed anew."""
        self.messages.clear()
        self.generator.manual_seed(self.sampling.seed)

    def say(self, text: str, write: Write = lambda piece: None) -> tuple[str, int]:
        """(the answer to `text`, how many earlier messages no longer fitted and were forgotten).

        `write` gets the answer piece by piece. Raises QilinError, and keeps the conversation as it was, when `text`
        alone is too long for the model.
        """
        # Bytes that are not UTF-8 reach Python as lone surrogates, which no tokenizer takes.
        asked = {"role": "user", "content": text.encode("utf-8", "replace").decode("utf-8")}
        kept, ids = self._fitting([*self.messages, asked])
        forgotten = len(self.messages) + 1 - len(kept)
        answer = self._answer(ids, write)
        self.messages = [*kept, {"role": "assistant", "content": answer}]
        return answer, forgotten

    def _fitting(self, messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[int]]:
        """The longest ending of the conversation that leaves room for an answer, question and answer at a time.

        Passages are left out before a turn is, the worst first.
        """
        room = self.backend.context - self.max_new_tokens
        beside = [evidence.as_passage(hit) for hit in self.search(messages[-1]["content"])] if self.search else []
        fewer = [(0, beside[:many]) for many in range(len(beside), 0, -1)]
        for first, passages in [*fewer, *((first, []) for first in range(0, len(messages), 2))]:
            asked = with_passages(messages[first:], tuple(passages))
            ids = self.backend.template.encode(asked, self.backend.tokenizer, add_generation_prompt=True)
            if len(ids) <= room:
                self.shown = passages
                return messages[first:], ids
        raise QilinError(
            f"this message has {len(ids)} tokens, but the model's context of {self.backend.context} leaves {room} "
            f"beside {self.max_new_tokens} new ones: say it shorter or give a smaller --max-new-tokens"
        )

    def _answer(self, ids: list[int], write: Write) -> str:
        written: list[int] = []
        text = shown = ""
        for token in self._tokens(ids):
            written.append(token)
            text = text_after(self.backend.tokenizer, ids, written)
            if not (text.endswith("\ufffd") or self._is_byte(token)):
                write(text[len(shown) :])
                shown = text
        write(text[len(shown) :])
        return text

    def _is_byte(self, token: int) -> bool:
        # Embeddings can be larger than the vocabulary: such an id has no token.
        return bool(BYTE.fullmatch(self.backend.tokenizer.convert_ids_to_tokens(token) or ""))

    def _tokens(self, ids: list[int]) -> Iterator[int]:
        """New tokens one by one, up to the end token (left out) or the limit."""
        import torch

        backend, read, cache = self.backend, list(ids), None
        inputs = torch.tensor([ids], device=backend.device)
        for _ in range(self.max_new_tokens):
            with torch.inference_mode():
                out = backend.model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
                token = self._choose(out.logits[:, -1].float(), read)
            if token in backend.stop_ids:
                return
            yield token
            read.append(token)
            cache, inputs = out.past_key_values, torch.tensor([[token]], device=backend.device)

    def _choose(self, logits: Any, read: list[int]) -> int:
        if self.sampling.temperature == 0:
            return self.backend.likeliest(logits, [read])[0]
        from transformers import TopPLogitsWarper

        scores = TopPLogitsWarper(self.sampling.top_p)(None, logits / self.sampling.temperature)
        return int(scores.softmax(-1).multinomial(1, generator=self.generator))


def load(run: str, stage: str) -> Any:
    """The backend of a finished stage of a run (see `names.STAGES`), on the GPU if there is one.

    Raises QilinError for a run or stage that does not exist (with the nearest name) or has not finished.
    """
    import torch

    run_dir = runs.find(run).dir
    chain = runs.Run(run_dir).chain
    known = places(chain)
    if stage not in known:
        raise QilinError(f"--stage {stage}: unknown{nearest(stage, known)}; there are {', '.join(known)}")
    profile = runs.read_manifest(run_dir, known[stage])["parameters"]["profile"]
    given = {"profile": profile, "run": run, "chain": chain, "models": [stage], "baselines": {}}
    asked = params.load("09_bias", given)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    # Of 09 only its parents are read here: it is the notebook that any stage can answer in.
    return loaders(runs.Stage(asked, run_dir, "", {}, False), device)[stage]()


def found_in(run: str, k: int) -> evidence.Search:
    """The search for `k` passages of a run's ChiMed, which stand before a message. QilinError below 1."""
    if k < 1:
        raise QilinError(f"--retrieval {k}: must be 1 or more; 3 is usual")
    return evidence.search_in(runs.find(run).dir, Retrieval(k=k), lambda line: None)


def converse(chat: Chat, read: Callable[[str], str], write: Write) -> None:
    """Ask and answer until /exit, Ctrl-D or Ctrl-C; `read(prompt)` gives a line, `write(text)` shows a piece."""
    write(f"{DISCLAIMER}\n{HELP}\n")
    try:
        while (line := read("you> ").strip()) != "/exit":
            if line == "/reset":
                chat.reset()
                write(f"(forgotten) {DISCLAIMER}\n")
            elif line.startswith("/"):
                write(f"unknown command {visible(line)}{nearest(line, COMMANDS)}; there are {', '.join(COMMANDS)}\n")
            elif line:
                _turn(chat, line, write)
    except (EOFError, KeyboardInterrupt):
        write("\n")


def _turn(chat: Chat, line: str, write: Write) -> None:
    write("model> ")
    try:
        answer, forgotten = chat.say(line, lambda piece: write(visible(piece)))
    except QilinError as error:
        write(f"error: {error}\n")
        return
    write("\n" if answer else "(empty answer)\n")
    for number, passage in enumerate(chat.shown, start=1):
        write(visible(f"[{number}] {passage['origin']}: {passage['text']}\n"))
    if forgotten:
        write(f"({told_forgotten(forgotten)})\n")


def told_forgotten(number: int) -> str:
    """What a user is told when the context was full; "" if nothing was forgotten."""
    return f"{number} earlier messages no longer fit the model's context and were forgotten" if number else ""
