"""Who answers: an encoder-decoder of transformers (T5, BART). The encoder reads the question, the decoder answers.

The interface is that of backends.TransformersBackend. The forced words of a reply open the decoder's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.backends import single_token, stop_ids, weights_hash
from qilin_lib.evaluate.prompts import AS_IT_COMES, Asking, Prompt
from qilin_lib.evaluate.replies import LENGTH, STOP, Reply, replied
from qilin_lib.models.load import load_tokenizer, quiet_libraries

# Relative positions (T5) set no limit; Huatuo-26M's own runs had 256 tokens of question and 512 of answer.
UNLIMITED = 2048


class SequenceBackend:
    """A loaded encoder-decoder, its tokenizer and its template; `context` bounds question and answer together."""

    likelihood = True

    def __init__(
        self, model: Any, tokenizer: Any, template: Any, batch_size: int, device: str, asking: Asking = AS_IT_COMES
    ) -> None:
        self.model = model.to(device).eval() if not getattr(model, "hf_device_map", None) else model.eval()
        self.tokenizer, self.template = tokenizer, template
        self.batch_size, self.device = batch_size, device
        self.context = int(getattr(model.config, "max_position_embeddings", None) or UNLIMITED)
        self.stop_ids, self.asking = stop_ids(model, tokenizer), asking

    def choice_logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[dict[str, float]]:
        """Natural log-probability of each choice as the decoder's next token after the forced words, one dict a prompt.

        QilinError when a choice is not one token there.
        """
        import torch

        ids = [single_token(self.tokenizer, prompts[0].reply_prefix, choice) for choice in choices]
        with torch.inference_mode():
            logits = self.model(**self._inputs(prompts), use_cache=False).logits[:, -1].float()
        rows = logits.log_softmax(-1)[:, ids].tolist()
        return [dict(zip(choices, row, strict=True)) for row in rows]

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """Greedy answer to each prompt after its forced words, up to the end token (left out) or `max_new_tokens`."""
        inputs = self._inputs(prompts)
        limit, begun = self.asking.max_new_tokens or max_new_tokens, inputs["decoder_input_ids"].shape[1]
        ends = sorted(self.stop_ids)
        out = self.model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=limit, eos_token_id=ends)
        written = [list(takewhile(lambda token: token not in self.stop_ids, row)) for row in out[:, begun:].tolist()]
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
        finishes = [LENGTH if len(ids) == limit else STOP for ids in written]
        return replied(prompts, texts, finishes, ends=self.asking.stop)

    def fingerprint(self) -> str:
        """Hash of the weights."""
        return weights_hash(self.model)

    def _inputs(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """What the encoder reads, padded, and what the decoder begins with: its start token and the forced words."""
        from torch import tensor

        prefixes = {prompt.reply_prefix for prompt in prompts}
        if len(prefixes) > 1:
            raise ValueError(f"the prompts of a chunk begin their replies alike, not with {sorted(prefixes)}")
        prefix = self.tokenizer.encode(*prefixes, add_special_tokens=False) if any(prefixes) else []
        asked = [[*prompt.ids[: len(prompt.ids) - len(prefix)], self.tokenizer.eos_token_id] for prompt in prompts]
        padded = self.tokenizer.pad({"input_ids": asked}, padding_side="right", return_tensors="pt")
        begun = tensor([[self.model.config.decoder_start_token_id, *prefix]] * len(asked))
        inputs = {
            "input_ids": padded["input_ids"],
            "attention_mask": padded["attention_mask"],
            "decoder_input_ids": begun,
        }
        return {name: ids.to(self.device) for name, ids in inputs.items()}


def stand_in(tokenizer_of: Path, target: Path, seed: int) -> Path:
    """`target`, a tiny T5 with random weights drawn from `seed` and the tokenizer of a model folder; made if not there.

    It stands for a real T5 where there is none, and knows nothing before it is fine-tuned.
    """
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    if target.exists():
        return target
    quiet_libraries()
    tokenizer = load_tokenizer(tokenizer_of)
    if tokenizer.pad_token_id is None:
        raise QilinError(f"{tokenizer_of}: the tokenizer has no pad token, with which a T5 starts its answers")
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config)
    work = target.with_name(f".{target.name}.tmp")
    model.save_pretrained(work)
    tokenizer.save_pretrained(work)
    work.rename(target)
    return target
