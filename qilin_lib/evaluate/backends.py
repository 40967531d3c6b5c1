"""Who answers: a causal language model of transformers.

A call gets one chunk of prompts and is one batch. Scores come from a chunk's content alone, bit for bit, whatever was
scored before. Greedy text in float32 is that of the prompt alone, whatever batch it is in and however it is padded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.prompts import AS_IT_COMES, SEED, Asking, Prompt
from qilin_lib.evaluate.replies import LENGTH, STOP, Reply, replied
from qilin_lib.evaluate.templates import thinks
from qilin_lib.models import decode
from qilin_lib.models.examine import context as longest
from qilin_lib.tokens.template import tag_ids
from qilin_lib.train import sampling
from qilin_lib.train.heldout import labelled, sequence_logprobs

MASKED = ("sdpa", "eager")
PACK_TOKENS = 512
"""Tokens of different prompts in one forward when choices are scored: attention's waste is quadratic in it."""
# gpt-oss and Gemma say in special tokens where a thought begins and ends.
_CHANNEL = re.compile("channel|think", re.IGNORECASE)
TIE = 1e-4
"""A gap between two logits, relative to the largest, that float32 arithmetic in another batch could turn round."""


class TransformersBackend:
    """A loaded model, its tokenizer and the template it was trained with; `context` is its longest input in tokens.

    A model that thinks first writes its letters (`likelihood` False): scored at once they would be its thought's.
    """

    def __init__(
        self, model: Any, tokenizer: Any, template: Any, batch_size: int, device: str, asking: Asking = AS_IT_COMES
    ) -> None:
        self.model = model.to(device).eval() if not getattr(model, "hf_device_map", None) else model.eval()
        self.tokenizer, self.template = tokenizer, template
        self.batch_size, self.device = batch_size, device
        self.context = int(longest(model.config) or tokenizer.model_max_length)
        self.stop_ids = stop_ids(model, tokenizer)
        self.asking = replace(asking, thinks=thinks(template, tokenizer))
        self.likelihood = not self.asking.thinks
        self._prefix: tuple[tuple[int, ...], list[tuple[Any, Any]]] = ((), [])

    def choice_logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[dict[str, float]]:
        """Natural log-probability of each choice as the next token, one dict a prompt.

        Prompts with the same first `shared` tokens read one cache of keys and values: it is computed alone, once, and
        kept until another one is needed. The rest of the prompts stands side by side in one sequence, each with its own
        positions and a mask that hides the others (no padding, and no copy of the cache for every prompt).
        A model without full attention and explicit positions (windows, ALiBi, recurrence) reads prompts of equal length
        together, which need neither padding nor a mask. QilinError when a choice is not one token after the prompt's
        `reply_prefix`, or a prompt is longer than the context.
        """
        import torch

        self._check(prompts, 0)
        forced = {prompt.reply_prefix for prompt in prompts}
        tokens = {words: [single_token(self.tokenizer, words, choice) for choice in choices] for words in forced}
        results: list[dict[str, float]] = [{} for _ in prompts]
        with torch.inference_mode():
            for pack, logits in self._packed(prompts) if self._maskable() else self._plain(prompts):
                for index, row in zip(pack, logits.log_softmax(-1), strict=True):
                    values = row[tokens[prompts[index].reply_prefix]].tolist()
                    results[index] = dict(zip(choices, values, strict=True))
        return results

    def _packed(self, prompts: Sequence[Prompt]) -> Iterator[tuple[list[int], Any]]:
        """(indices, logits after their prompts), prompts with the same first tokens in one sequence, as many at a time
        as stay within PACK_TOKENS."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, prompt in enumerate(prompts):
            groups.setdefault(_shared(prompt), []).append(index)
        for prefix, members in groups.items():
            rests = [prompts[index].ids[len(prefix) :] for index in members]
            first = size = 0
            for place, rest in enumerate(rests):
                if place > first and size + len(rest) > PACK_TOKENS:
                    yield members[first:place], self._last_logits(prefix, rests[first:place])
                    first, size = place, 0
                size += len(rest)
            yield members[first:], self._last_logits(prefix, rests[first:])

    def _plain(self, prompts: Sequence[Prompt]) -> Iterator[tuple[list[int], Any]]:
        """(indices, logits after their prompts), prompts of equal length in one batch."""
        import torch

        lengths: dict[int, list[int]] = {}
        for index, prompt in enumerate(prompts):
            lengths.setdefault(len(prompt.ids), []).append(index)
        for pack in lengths.values():
            ids = torch.tensor([prompts[index].ids for index in pack], device=self.device)
            yield pack, self.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].float()

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """Continuation of each prompt, up to the end token or a next turn (left out) or `max_new_tokens`; `asking` may
        set this limit, and a temperature, without which the likeliest tokens are taken.

        Tokens that all prompts share are read once, as in `choice_logprobs`. QilinError when a prompt and its new
        tokens are longer than the context.
        """
        import torch

        max_new_tokens = self.asking.max_new_tokens or max_new_tokens
        self._check(prompts, max_new_tokens)
        prefixes = {_shared(prompt) for prompt in prompts}
        prefix = prefixes.pop() if len(prefixes) == 1 and self._maskable() else ()
        asked = [prompt.ids for prompt in prompts]
        with torch.inference_mode():
            cache = self._prefix_cache(prefix, len(prompts)) if prefix else None
        written = decode.write(
            self.model,
            asked,
            self.stop_ids | turn_ids(self.tokenizer, prompts),
            max_new_tokens,
            self._chooser(asked),
            prefix,
            cache,
        )
        texts = [text_after(self.tokenizer, ids, new) for ids, new in zip(asked, written, strict=True)]
        finishes = [LENGTH if len(new) == max_new_tokens else STOP for new in written]
        return replied(prompts, texts, finishes, ends=self.asking.stop)

    def reference_logprobs(self, prompts: Sequence[Prompt], references: Sequence[str]) -> list[tuple[float, int]]:
        """(natural log-probability as the whole reply, characters) of each reference, of a long one the beginning that
        fits into the context behind its prompt."""
        sequences, characters = [], []
        for prompt, reference in zip(prompts, references, strict=True):
            ids = self.tokenizer.encode(reference, add_special_tokens=False)
            fitting = ids[: self.context - len(prompt.ids)]
            characters.append(len(reference if fitting == ids else self.tokenizer.decode(fitting)))
            sequences.append(labelled(prompt.ids, fitting))
        return list(zip(sequence_logprobs(self.model, sequences).tolist(), characters, strict=True))

    def _chooser(self, asked: list[list[int]]) -> decode.Choose:
        """Who takes the next tokens: the likeliest, or a draw whose noise is each prompt's own."""
        if not self.asking.temperature:
            return lambda logits, contexts: self.likeliest(logits, list(contexts.values()))
        sources = [sampling.generator(SEED, str(ids)) for ids in asked]

        def draw(logits: Any, contexts: dict[int, list[int]]) -> list[int]:
            noise = sampling.gumbel([sources[row] for row in contexts], logits.shape[-1], logits.device)
            return sampling.draw(logits, noise, self.asking.temperature, 1.0).tolist()

        return draw

    def fingerprint(self) -> str:
        """Predictions of one model are never taken for another's."""
        return weights_hash(self.model)

    def _last_logits(self, prefix: tuple[int, ...], rests: list[list[int]]) -> Any:
        """Logits after each of `rests`, read after the common `prefix`: (prompts, vocabulary), float32."""
        import torch

        lengths = torch.tensor([len(rest) for rest in rests])
        owner = torch.repeat_interleave(torch.arange(len(rests)), lengths)
        seen = (owner[:, None] == owner).tril()
        seen = torch.cat([seen.new_ones(len(owner), len(prefix)), seen], dim=1)
        # Additive, because eager attention would add a boolean mask as zeros and ones.
        mask = torch.zeros(seen.shape, dtype=self.model.dtype).masked_fill(~seen, float("-inf"))
        ids, positions = torch.tensor(sum(rests, [])), torch.cat([torch.arange(len(rest)) for rest in rests])
        inputs = {"input_ids": ids, "attention_mask": mask[None], "position_ids": positions + len(prefix)}
        out = self.model(
            **{name: tensor[None].to(self.device) for name, tensor in inputs.items()},
            past_key_values=self._prefix_cache(prefix, 1),
            use_cache=True,
            logits_to_keep=(lengths.cumsum(0) - 1).to(self.device),
        )
        return out.logits[0].float()

    def _prefix_cache(self, prefix: tuple[int, ...], rows: int) -> Any:
        """A new cache with `prefix` in every row; what the model appends goes into new tensors, the kept ones stay."""
        import torch
        from transformers import DynamicCache

        if not prefix:
            return DynamicCache()
        if self._prefix[0] != prefix:
            self._prefix = ((), [])  # the old keys and values go before the new ones come
            cache = DynamicCache()
            ids = torch.tensor([prefix]).to(self.device)
            self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self._prefix = (prefix, [(layer.keys, layer.values) for layer in cache.layers])
        return DynamicCache([tuple(t.expand(rows, -1, -1, -1) for t in layer) for layer in self._prefix[1]])

    def likeliest(self, logits: Any, contexts: list[list[int]]) -> list[int]:
        """The likeliest next token of each row. Near ties in float32 are settled by reading the row's tokens alone."""
        import torch

        best, tokens = logits.topk(2)
        chosen = tokens[:, 0].tolist()
        if self.model.dtype == torch.float32:
            close = best[:, 0] - best[:, 1] <= TIE * logits.abs().amax(-1)
            for row in close.nonzero().flatten().tolist():
                chosen[row] = decode.alone(self.model, contexts[row]).argmax().item()
        return chosen

    def _check(self, prompts: Sequence[Prompt], new_tokens: int) -> None:
        for index, prompt in enumerate(prompts):
            if not prompt.ids or len(prompt.ids) + new_tokens > self.context:
                raise QilinError(
                    f"prompt {index} has {len(prompt.ids)} tokens; the model's context of {self.context} takes 1 to "
                    f"{self.context - new_tokens} beside {new_tokens} new ones"
                )

    def _maskable(self) -> bool:
        """Whether prompts can stand side by side in one sequence: every layer attends as the mask says."""
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None) or self.context
        kinds = set(getattr(config, "layer_types", None) or ())
        return (
            not kinds - {"full_attention"}
            and (bool(kinds) or window >= self.context)
            and not getattr(config, "alibi", False)
            and decode.takes_positions(self.model)
            and config._attn_implementation in MASKED
        )


def single_token(tokenizer: Any, prefix: str, choice: str) -> int:
    """The one token of `choice` written directly after `prefix`.

    Encoding the choice alone would give "▁A" with a SentencePiece tokenizer, which is not what follows "答案：".
    Raises QilinError when it is not one token, or when it melts into the prefix.
    """
    before = tokenizer.encode(prefix, add_special_tokens=False) if prefix else []
    after = tokenizer.encode(prefix + choice, add_special_tokens=False)
    if len(after) != len(before) + 1 or after[: len(before)] != before:
        raise QilinError(
            f"choice '{choice}' after '{prefix}' is {len(after) - len(before)} tokens for this tokenizer, and scoring "
            "by the next token needs one; use a tokenizer that keeps Latin letters apart from Chinese text"
        )
    return after[-1]


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a reply: the tokenizer's end token and those of the model's generation_config."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    configured = configured if isinstance(configured, list) else [configured]
    return {token for token in [tokenizer.eos_token_id, *configured] if token is not None}


def turn_ids(tokenizer: Any, prompts: Sequence[Prompt]) -> set[int]:
    """Special tokens with which a next turn begins (`Prompt.stop`); decoding leaves them out, so no text shows them."""
    first = {tag_ids(tokenizer, tag)[0] for tag in {tag for prompt in prompts for tag in prompt.stop}}
    # Llama 3's tags are special to the vocabulary that decodes, and stand in no list of the tokenizer.
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {token for token, one in added.items() if one.special} | set(tokenizer.all_special_ids)
    return first & special - {tokenizer.unk_token_id}


def weights_hash(model: Any) -> str:
    """A hash of a model's weights (a sample of every tensor)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 4096)].float().cpu().numpy()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()


def _shared(prompt: Prompt) -> tuple[int, ...]:
    """The ids to read once; at least one is left over, after which the reply begins."""
    return tuple(prompt.ids[: min(prompt.shared, len(prompt.ids) - 1)])


def text_after(tokenizer: Any, before: list[int], ids: list[int]) -> str:
    """The text of `ids` as it follows `before`: decoded alone, SentencePiece's "▁A" would lose its blank. Special
    tokens are left out, unless they mark a thought."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    if any(_CHANNEL.search(added[token].content) for token in ids if token in added):
        return tokenizer.decode(ids, skip_special_tokens=False)
    tail = tokenizer.decode(before[-2:], skip_special_tokens=True)
    whole = tokenizer.decode([*before[-2:], *ids], skip_special_tokens=True)
    return whole.removeprefix(tail) if whole.startswith(tail) else tokenizer.decode(ids, skip_special_tokens=True)
