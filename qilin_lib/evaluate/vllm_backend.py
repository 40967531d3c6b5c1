"""Who answers: weights that vLLM holds in an interpreter of its own, under TransformersBackend's interface."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib import files
from qilin_lib.evaluate.backends import single_token, stop_ids, text_after, turn_ids
from qilin_lib.evaluate.prompts import AS_IT_COMES, SEED, Asking, Prompt
from qilin_lib.evaluate.replies import ERROR, LENGTH, STOP, Reply, replied
from qilin_lib.evaluate.templates import thinks
from qilin_lib.models.adapters import weights_sha256
from qilin_lib.train import vllm_client
from qilin_lib.train.vllm_client import Answer

_FINISH = {"stop": STOP, "length": LENGTH}
# Engine arguments that say how fast, not what.
SPEED = ("tensor_parallel_size", "gpu_memory_utilization")


class VllmBackend:
    """The full weights in `weights`, read by the vLLM of the interpreter `python`, which starts at the first prompt.

    `settings`: keyword arguments of vllm.LLM (tensor_parallel_size, max_model_len, …). `first`: of the visible GPUs.
    A prompt that vLLM refuses is one item's error. QilinError when its process ends, with its last words.
    """

    def __init__(
        self,
        python: str,
        weights: Path,
        tokenizer: Any,
        template: Any,
        dtype: str,
        work: Path,
        first: int = 0,
        settings: dict[str, Any] | None = None,
        asking: Asking = AS_IT_COMES,
    ) -> None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(weights).get_text_config()
        longest = getattr(config, "max_position_embeddings", None)
        bound = {"max_model_len": longest} if longest else {}
        own = {"dtype": dtype, "enable_prefix_caching": True, **bound, **(settings or {})}
        self.tokenizer, self.template = tokenizer, template
        self.context = own.get("max_model_len") or tokenizer.model_max_length
        path = weights / "generation_config.json"
        generation = SimpleNamespace(**files.read_json(path)) if path.exists() else None
        self.stop_ids = stop_ids(SimpleNamespace(generation_config=generation), tokenizer)
        self.batch_size = vllm_client.TOGETHER
        self.asking = replace(asking, thinks=thinks(template, tokenizer))
        self.likelihood = not self.asking.thinks
        self._weights, self._settings = weights, {name: own[name] for name in sorted(own) if name not in SPEED}
        self._engine = vllm_client.Engine(python, weights, work, first, **own)

    def choice_logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[dict[str, float] | Reply]:
        """Natural log-probability of each choice as the next token, one dict a prompt; the Reply that says why for one
        that vLLM refuses. QilinError when a choice is not one token after the prompt's `reply_prefix`."""
        results: dict[int, dict[str, float] | Reply] = {}
        for forced in dict.fromkeys(prompt.reply_prefix for prompt in prompts):
            places = [place for place, prompt in enumerate(prompts) if prompt.reply_prefix == forced]
            tokens = [single_token(self.tokenizer, forced, choice) for choice in choices]
            answers = self._ask([prompts[place] for place in places], 1, 0.0, logprob_token_ids=tokens)
            for place, answer in zip(places, answers, strict=True):
                if isinstance(answer, str):
                    results[place] = Reply("", ERROR, error=answer)
                else:
                    results[place] = dict(zip(choices, answer.logprobs, strict=True))
        return [results[place] for place in range(len(prompts))]

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """Continuation of each prompt, as `TransformersBackend.generate` gives it."""
        limit, stops = self.asking.max_new_tokens or max_new_tokens, self.stop_ids | turn_ids(self.tokenizer, prompts)
        answers = self._ask(prompts, limit, self.asking.temperature, stop_token_ids=sorted(stops))
        errors = [answer if isinstance(answer, str) else "" for answer in answers]
        ids = [[] if isinstance(answer, str) else answer.ids for answer in answers]
        texts = [text_after(self.tokenizer, prompt.ids, own) for prompt, own in zip(prompts, ids, strict=True)]
        finishes = [ERROR if isinstance(answer, str) else _FINISH.get(answer.reason, ERROR) for answer in answers]
        return replied(prompts, texts, finishes, ends=self.asking.stop, errors=errors)

    def fingerprint(self) -> str:
        """A hash of weights and engine arguments."""
        return files.sha256_text(json.dumps(["vLLM", weights_sha256(self._weights), self._settings]))

    def close(self) -> None:
        """End vLLM's processes."""
        self._engine.close()

    def _ask(self, prompts: Sequence[Prompt], tokens: int, temperature: float, **more: Any) -> list[Answer | str]:
        # A draw is the prompt's own, whatever it stands beside.
        keyed = [(files.sha256_text(str(prompt.ids)), prompt.ids) for prompt in prompts]
        answers = self._engine.ask(keyed, SEED, max_tokens=tokens, temperature=temperature, **more)
        return [answer if isinstance(answer, str) else answer[0] for answer in answers]
