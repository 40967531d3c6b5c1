"""Who answers: an encoder-decoder of transformers (T5, BART). The encoder reads the question, the decoder answers.

The forced words of a reply open the decoder's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.backends import TransformersBackend, single_token
from qilin_lib.evaluate.prompts import AS_IT_COMES, Asking, Prompt
from qilin_lib.evaluate.replies import LENGTH, STOP, Reply, replied
from qilin_lib.models.load import load_tokenizer, quiet_libraries

# Relative positions (T5) set no limit; Huatuo-26M's own runs had 256 tokens of question and 512 of answer.
UNLIMITED = 2048


class SequenceBackend(TransformersBackend):
    """A loaded encoder-decoder, its tokenizer and its template; `context` bounds question and answer together."""

    def __init__(
        self, model: Any, tokenizer: Any, template: Any, batch_size: int, device: str, asking: Asking = AS_IT_COMES
    ) -> None:
        if asking.temperature:
            raise QilinError(
                f"temperature: {asking.temperature}: an encoder-decoder answers greedily; nearest valid: 0"
            )
        super().__init__(model, tokenizer, template, batch_size, device, asking)
        self.context = int(getattr(model.config, "max_position_embeddings", None) or UNLIMITED)
        self.asking, self.likelihood = asking, True

    # The likelihood of a whole reply is measured of causal models alone.
    reference_logprobs = None

    def choice_logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[dict[str, float]]:
        """Natural log-probability of each choice as the decoder's next token after the forced words, one dict a prompt.

        QilinError when a choice is not one token there.
        """
        import torch

        prefix, encoded = self._read(prompts)
        ids = [single_token(self.tokenizer, prompts[0].reply_prefix, choice) for choice in choices]
        with torch.inference_mode():
            logits = self.model(**encoded, decoder_input_ids=prefix, use_cache=False).logits[:, -1].float()
        rows = logits.log_softmax(-1)[:, ids].tolist()
        return [dict(zip(choices, row, strict=True)) for row in rows]

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """Greedy answer to each prompt after its forced words, up to the end token (left out) or `max_new_tokens`."""
        import torch
        from transformers import GenerationConfig

        chosen, encoded = self._read(prompts)
        # None of the checkpoint's own settings: beams, penalties and the like are no part of the protocol.
        greedy = GenerationConfig(
            max_new_tokens=self.asking.max_new_tokens or max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(self.stop_ids),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with torch.inference_mode():
            out = self.model.generate(**encoded, decoder_input_ids=chosen, generation_config=greedy)
        texts, finishes = [], []
        for ids in out[:, chosen.shape[1] :].tolist():
            end = next((place for place, token in enumerate(ids) if token in self.stop_ids), None)
            texts.append(self.tokenizer.decode(ids[:end], skip_special_tokens=True))
            finishes.append(LENGTH if end is None else STOP)
        return replied(prompts, texts, finishes, ends=self.asking.stop)

    def _read(self, prompts: Sequence[Prompt]) -> tuple[Any, dict[str, Any]]:
        """(the decoder's first ids: start token and forced words, the encoder's output with its mask)."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        prefixes = {prompt.reply_prefix for prompt in prompts}
        if len(prefixes) > 1:
            raise ValueError(f"the prompts of a chunk begin their replies alike, not with {sorted(prefixes)}")
        prefix = self.tokenizer.encode(*prefixes, add_special_tokens=False) if any(prefixes) else []
        asked = [[*prompt.ids[: len(prompt.ids) - len(prefix)], self.tokenizer.eos_token_id] for prompt in prompts]
        rows = [torch.tensor(ids) for ids in asked]
        ids = pad_sequence(rows, batch_first=True).to(self.device)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(self.device)
        with torch.inference_mode():
            states = self.model.get_encoder()(input_ids=ids, attention_mask=mask)
        first = torch.tensor([[self.model.config.decoder_start_token_id, *prefix]] * len(asked), device=self.device)
        return first, {"encoder_outputs": states, "attention_mask": mask}


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
