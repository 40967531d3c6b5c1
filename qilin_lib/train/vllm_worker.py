"""Answers by vLLM: `PYTHON vllm_worker.py FOLDER` with an interpreter that has vLLM. Imports nothing of the kit.

FOLDER/engine.json: keyword arguments of vllm.LLM. FOLDER/asked.jsonl grows by a line {"prompts": [[key, token ids],
...], "seed", "sampling": keyword arguments of SamplingParams} for all that is asked at a time. Appends to
FOLDER/answers.jsonl, in their order, a line {"key", "answers": [[ids, reason that it ended, log-probabilities of
logprob_token_ids or null], ...]} for each prompt, or {"key", "error"} for one that vLLM refuses. The draws of a prompt
depend on the seed and its key alone. It ends when it is ended.
"""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

# Else a module beside this file would stand for one of vLLM's of the same name.
sys.path.pop(0)


def main(folder: Path) -> None:
    """Answer what is asked in the folder, for ever."""
    from vllm import LLM, SamplingParams

    engine = LLM(**json.loads((folder / "engine.json").read_text(encoding="utf-8")))
    with (
        open(folder / "asked.jsonl", encoding="utf-8") as asked,
        open(folder / "answers.jsonl", "a", encoding="utf-8") as file,
    ):
        line = ""
        while True:
            line += asked.readline()
            if not line.endswith("\n"):
                time.sleep(0.01)
                continue
            request, line, settings = json.loads(line), "", []
            for key, _ in request["prompts"]:
                # What vLLM takes as a seed: 31 bits.
                seed = int(hashlib.sha256(f"{request['seed']}:{key}".encode()).hexdigest()[:8], 16) >> 1
                settings.append(SamplingParams(**request["sampling"], seed=seed, detokenize=False))
            prompts = [{"prompt_token_ids": ids} for _, ids in request["prompts"]]
            wanted = request["sampling"].get("logprob_token_ids")
            for (key, _), answer in zip(request["prompts"], answers(engine, prompts, settings, wanted), strict=True):
                file.write(json.dumps({"key": key, **answer}) + "\n")
            file.flush()


def answers(engine: Any, prompts: list, settings: list, wanted: list[int] | None) -> list[dict]:
    """One answer a prompt; vLLM refuses all that it was given together for one of them, so each is asked alone then."""
    try:
        results = engine.generate(prompts, settings, use_tqdm=False)
    except refusals() as reason:
        if len(prompts) == 1:
            return [{"error": " ".join(str(reason).split())}]
        return [one for pair in zip(prompts, settings, strict=True) for one in answers(engine, *zip(pair), wanted)]
    return [{"answers": [written(output, wanted) for output in result.outputs]} for result in results]


def refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for a prompt that it does not take; in later ones these errors have a class of their own."""
    import vllm.exceptions

    return ValueError, getattr(vllm.exceptions, "VLLMClientError", ValueError)


def written(output: Any, wanted: list[int] | None) -> list:
    """[ids, reason, log-probabilities of the `wanted` tokens after the prompt]."""
    logprobs = [output.logprobs[0][token].logprob for token in wanted] if wanted else None
    return [list(output.token_ids), output.finish_reason, logprobs]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
