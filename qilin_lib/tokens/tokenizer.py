"""A byte-fallback BPE tokenizer trained on the spot, for the tiny base model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Any

# Baichuan's chat tokens are part of the vocabulary, so the tiny model is asked with the same template as the 7B one.
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<reserved_102>", "<reserved_103>"]


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> Any:
    """A `PreTrainedTokenizerFast` of at most `vocab_size` tokens; every string survives encode and decode.

    Letters, digits and punctuation are cut off from Chinese text first, so "答案：" + "A" is the prefix's ids plus one
    id (EleutherAI/lm-evaluation-harness#2346). The same texts in the same order give the same tokenizer.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=False))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[A-Za-z]|[0-9]|\s|[^\p{L}\p{N}]"), "isolated")
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    every = [f"<0x{byte:02X}>" for byte in range(256)]
    texts = list(texts)
    counts = Counter(chain.from_iterable(texts))
    # Of equally frequent ones the lower code point stays.
    frequent = sorted(counts, key=lambda one: (-counts[one], one))
    characters = sorted(frequent[: min(vocab_size // 2, vocab_size - len(SPECIAL + every))])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL + every,
        # By itself the library drops any of the characters that are equally rare, others in each process.
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        max_token_length=6,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    # The trainer only takes byte tokens as special ones; decoding would drop them, so they become ordinary here.
    state = json.loads(core.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL[4:],
        model_max_length=max_length,
    )
