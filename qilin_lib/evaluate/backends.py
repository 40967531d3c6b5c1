"""Who answers: a causal language model of transformers.

Both kinds of answer depend on the prompt's tokens alone: batches are left-padded, padding is masked and takes no
position, and results come back in input order whatever the batch size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from qilin_lib.errors import QilinError

Progress = Callable[[int], None]
"""Called after each batch with the number of prompts it finished."""


class TransformersBackend:
    """A loaded model, its tokenizer and the template it was trained with; `context` is its longest input in tokens."""

    def __init__(self, model: Any, tokenizer: Any, template: Any, batch_size: int, device: str) -> None:
        self.model = model.to(device).eval() if not getattr(model, "hf_device_map", None) else model.eval()
        self.tokenizer, self.template = tokenizer, template
        self.batch_size, self.device = batch_size, device
        self.context = int(model.config.max_position_embeddings)
        self.stop_ids = _stop_ids(model, tokenizer)

    def choice_logprobs(
        self, prompt_ids: list[list[int]], choices: list[str], reply_prefix: str = "", progress: Progress | None = None
    ) -> list[dict[str, float]]:
        """Natural log-probability of each choice as the next token, one dict a prompt; one forward pass each.

        `reply_prefix` is the text that the prompts end with. QilinError when a choice is not one token after it.
        """
        import torch

        ids = [single_token(self.tokenizer, reply_prefix, choice) for choice in choices]
        results: list[dict[str, float]] = [{} for _ in prompt_ids]
        for batch in self._batches(prompt_ids, new_tokens=0):
            with torch.inference_mode():
                inputs = self._padded([prompt_ids[index] for index in batch])
                logits = self.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float()
            for index, row in zip(batch, logits.log_softmax(-1)[:, ids].tolist(), strict=True):
                results[index] = dict(zip(choices, row, strict=True))
            _tell(progress, len(batch))
        return results

    def generate(self, prompt_ids: list[list[int]], max_new_tokens: int, progress: Progress | None = None) -> list[str]:
        """Greedy continuation of each prompt as text, up to the end token (left out) or `max_new_tokens`."""
        results = [""] * len(prompt_ids)
        for batch in self._batches(prompt_ids, max_new_tokens):
            texts = self._greedy([prompt_ids[index] for index in batch], max_new_tokens)
            for index, ids in zip(batch, texts, strict=True):
                results[index] = self.tokenizer.decode(ids, skip_special_tokens=True)
            _tell(progress, len(batch))
        return results

    def fingerprint(self) -> str:
        """A hash of the weights (a sample of every tensor): predictions of one model are never taken for another's."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            flat = tensor.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 4096)].float().cpu().numpy()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + sample.tobytes())
        return digest.hexdigest()

    def _greedy(self, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        # transformers' generate() would mix in the model's own generation_config (repetition penalty, minimum length).
        import torch

        inputs, cache = self._padded(prompts), None
        mask, written = inputs["attention_mask"], [[] for _ in prompts]
        running = [True] * len(prompts)
        for _ in range(max_new_tokens):
            with torch.inference_mode():
                out = self.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, chosen = out.past_key_values, out.logits[:, -1].float().argmax(-1)
            for row, token in enumerate(chosen.tolist()):
                running[row] = running[row] and token not in self.stop_ids
                if running[row]:
                    written[row].append(token)
            if not any(running):
                break
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
            positions = inputs["position_ids"][:, -1:] + 1
            inputs = {"input_ids": chosen[:, None], "attention_mask": mask, "position_ids": positions}
        return written

    def _batches(self, prompt_ids: list[list[int]], new_tokens: int) -> Iterator[list[int]]:
        """Indices, longest prompts first: little padding, and a batch too large for memory fails at once."""
        for index, ids in enumerate(prompt_ids):
            if not ids or len(ids) + new_tokens > self.context:
                raise QilinError(
                    f"prompt {index} has {len(ids)} tokens; the model's context of {self.context} takes 1 to "
                    f"{self.context - new_tokens} beside {new_tokens} new ones"
                )
        order = sorted(range(len(prompt_ids)), key=lambda index: (-len(prompt_ids[index]), index))
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _padded(self, prompts: list[list[int]]) -> dict[str, Any]:
        import torch

        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        tensors = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}


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


def _stop_ids(model: Any, tokenizer: Any) -> set[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    configured = configured if isinstance(configured, list) else [configured]
    return {token for token in [tokenizer.eos_token_id, *configured] if token is not None}


def _tell(progress: Progress | None, finished: int) -> None:
    if progress is not None:
        progress(finished)
