"""vLLM without vLLM: a package of that name, with the signatures of vLLM 0.33 as far as the worker uses them, in which
transformers computes. Keyword arguments that 0.33 does not have are refused here as there."""

from __future__ import annotations

import sys
from pathlib import Path

from qilin_lib import files

PACKAGE = """
import os, sys
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM
from vllm.exceptions import VLLMValidationError


class SamplingParams:
    def __init__(self, n=1, *, temperature=1.0, top_p=1.0, seed=None, stop_token_ids=None, max_tokens=16, logprobs=None,
                 prompt_logprobs=None, detokenize=True, allowed_token_ids=None, logprob_token_ids=None):
        assert not detokenize, "there is no tokenizer"
        self.__dict__.update(locals())


class LLM:
    def __init__(self, model, *, skip_tokenizer_init=False, tensor_parallel_size=1, dtype="auto", seed=0,
                 gpu_memory_utilization=0.92, enable_prefix_caching=None, max_model_len=None):
        assert skip_tokenizer_init and max_model_len
        print("EngineCore", tensor_parallel_size, enable_prefix_caching, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
        self.longest, self.model = max_model_len, AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        pairs = [(one["prompt_token_ids"], how) for one, how in zip(prompts, sampling_params, strict=True)]
        for ids, how in pairs:
            if len(ids) + how.max_tokens > self.longest or max(ids) >= self.model.config.vocab_size:
                raise VLLMValidationError(f"a prompt of {len(ids)} tokens is not taken", parameter="prompt")
            if ids == [5, 5, 5]:
                print("(EngineCore pid=7) ERROR torch.OutOfMemoryError: CUDA out of memory.", file=sys.stderr)
                raise RuntimeError("Engine core failed. See root cause above.")
        return [SimpleNamespace(outputs=[self.written(ids, how, k) for k in range(how.n)]) for ids, how in pairs]

    @torch.inference_mode()
    def written(self, ids, how, number):
        whole, logprobs = list(ids), []
        noise = torch.Generator().manual_seed(how.seed + number)
        while True:
            row = self.model(torch.tensor([whole]), use_cache=False).logits[0, -1].float().log_softmax(-1)
            drawn = torch.multinomial((row / how.temperature).softmax(-1), 1, generator=noise) if how.temperature else 0
            token = int(drawn if how.temperature else row.argmax())
            wanted = [token, *(how.logprob_token_ids or [])]
            logprobs.append({i: SimpleNamespace(logprob=row[i].item(), rank=1, decoded_token=None) for i in wanted})
            whole.append(token)
            stopped = token in (how.stop_token_ids or [])
            if stopped or len(whole) == len(ids) + how.max_tokens:
                kept = logprobs if how.logprob_token_ids else None
                return SimpleNamespace(
                    token_ids=tuple(whole[len(ids):]), finish_reason="stop" if stopped else "length", logprobs=kept
                )
"""
EXCEPTIONS = """
class VLLMClientError(Exception):
    pass


class VLLMValidationError(VLLMClientError):
    def __init__(self, message, *, parameter=None, value=None):
        super().__init__(message)
"""


def python_with_vllm(folder: Path) -> Path:
    """An interpreter in `folder` that has the stand-in, and no kit."""
    site = folder / "site"
    files.write_text(site / "vllm" / "__init__.py", PACKAGE)
    files.write_text(site / "vllm" / "exceptions.py", EXCEPTIONS)
    files.write_text(site / "vllm-0.33.0.dist-info" / "METADATA", "Name: vllm\nVersion: 0.33.0\n")
    script = folder / "python"
    files.write_text(script, f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return script
