"""An exported folder for others: a GGUF file by llama.cpp's converter, a repository on the Hugging Face hub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from qilin_lib.errors import QilinError
from qilin_lib.models.shapes import is_hub_id

CONVERTER = "convert_hf_to_gguf.py"
GGUF = "model.gguf"


def converter() -> Path:
    """llama.cpp's converter in the folder LLAMA_CPP_DIR, else on PATH; QilinError if there is none."""
    folder = os.environ.get("LLAMA_CPP_DIR")
    # It need not be executable: Python runs it.
    for place in [folder] if folder else os.get_exec_path():
        if (Path(place) / CONVERTER).is_file():
            return Path(place) / CONVERTER
    where = f"in LLAMA_CPP_DIR = '{folder}'" if folder else "on PATH"
    raise QilinError(
        f"--gguf: {CONVERTER} of llama.cpp is not {where}; nearest valid: LLAMA_CPP_DIR set to a checkout of "
        "llama.cpp, or the export without --gguf, converted later"
    )


def to_gguf(folder: Path) -> None:
    """Write model.gguf beside the weights in `folder`, in their own precision; QilinError with what went wrong."""
    script = converter()
    work = folder.with_name(f"{folder.name}.{GGUF}")
    command = [sys.executable, str(script), str(folder), "--outfile", str(work), "--outtype", "auto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not work.is_file():
        work.unlink(missing_ok=True)
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2][:300]
        raise QilinError(f"--gguf: {script} ended with {done.returncode}: {last}")
    shutil.move(work, folder / GGUF)


def check_push(repository: str) -> None:
    """QilinError unless `repository` is owner/name and there is a token to write to it."""
    from huggingface_hub import get_token

    if not is_hub_id(repository) or "@" in repository:
        raise QilinError(f"--push {repository}: no repository of the hub; nearest valid: owner/name")
    if get_token() is None:
        raise QilinError("--push: no token for the hub; nearest valid: `hf auth login`, or HF_TOKEN with a write token")


def push(folder: Path, repository: str) -> None:
    """Upload an export, a folder that holds no record of the data, to a repository that is private if it is new.

    QilinError when the hub refuses; the folder stays.
    """
    from huggingface_hub import HfApi

    hub, name = HfApi(), folder.name
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Upload {name}")
    # huggingface_hub's own errors, httpx's, and ValueError for a bad id have no common class; all mean one thing here.
    except Exception as reason:
        why = " ".join(str(reason).split())[:300]
        raise QilinError(f"--push {repository}: the hub refused ({why}); the export is whole in {folder}") from None
