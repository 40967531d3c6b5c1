"""Answers by vLLM: `PYTHON vllm_worker.py FOLDER` with an interpreter that has vLLM. Imports nothing of the kit.

FOLDER/request.json: {"engine": keyword arguments of vllm.LLM, "sampling": those of SamplingParams, "seed"}.
FOLDER/prompts.jsonl: {"key", "ids"} a line. Appends to FOLDER/answers.jsonl, in their order, {"key", "answers": [[ids,
reason that it ended], ...]} a line. The draws of a prompt depend on the seed and its key alone.
"""

import hashlib
import json
import sys
from pathlib import Path

# Prompts that vLLM gets at a time: it batches within them, and what they gave is on disk before the next.
TOGETHER = 256


# Else a module beside this file would stand for one of vLLM's of the same name.
sys.path.pop(0)


def main(folder: Path) -> None:
    """Answer all prompts of the folder."""
    from vllm import LLM, SamplingParams

    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    prompts = [json.loads(line) for line in (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    engine = LLM(**request["engine"])
    with open(folder / "answers.jsonl", "a", encoding="utf-8") as file:
        for start in range(0, len(prompts), TOGETHER):
            part = prompts[start : start + TOGETHER]
            settings = [
                SamplingParams(**request["sampling"], seed=seed_of(request["seed"], one["key"]), detokenize=False)
                for one in part
            ]
            ids = [{"prompt_token_ids": one["ids"]} for one in part]
            for one, result in zip(part, engine.generate(ids, settings, use_tqdm=False), strict=True):
                answers = [[list(output.token_ids), output.finish_reason] for output in result.outputs]
                file.write(json.dumps({"key": one["key"], "answers": answers}) + "\n")
            file.flush()


def seed_of(seed: int, key: str) -> int:
    """What vLLM takes as a seed: 31 bits."""
    return int(hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()[:8], 16) >> 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
