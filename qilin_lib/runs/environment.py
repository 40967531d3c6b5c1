"""What made a stage: versions, code, hardware. Recorded in its manifest and shown; no part of its key."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.params import ROOT

PACKAGES = (
    *("torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "deepspeed", "tokenizers", "numpy", "pandas"),
    *("sacrebleu", "rouge-score", "papermill"),
)


def peak_memory_mb() -> float:
    """Largest resident set (MB) of this process or of any child that ended."""
    own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(max(own.ru_maxrss, children.ru_maxrss) / 1024, 1)


@cache
def describe() -> dict[str, Any]:
    """Versions, code, hardware and git state; a version of None means the package is not installed."""
    library = Path(__file__).parents[1]
    code = [[str(path.relative_to(library)), files.sha256_file(path)] for path in sorted(library.rglob("*.py"))]
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader").splitlines(),
        "code": files.sha256_text(json.dumps(code)),
        "git_commit": _output("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        # A notebook that JupyterLab saved with its outputs is no other code.
        "git_dirty": bool(_output("git", "-C", str(ROOT), "status", "--porcelain", "--", "qilin_lib", "params")),
    }


def provenance(manifest: dict[str, Any]) -> str:
    """What made a stage, where it was not this code on this Python: "made by other code: …"; "" if nothing differs."""
    then, now = manifest.get("environment", {}), describe()
    packages, told = then.get("packages", {}), []
    if then.get("code") != now["code"]:
        told.append(f"other code: commit {then.get('git_commit', '')[:7] or 'unknown'}")
    for name, version in now["packages"].items():
        if packages.get(name, version) != version:
            told.append(f"{name} {packages[name]} (now {version})")
    if then.get("python", now["python"]).split(".")[:2] != now["python"].split(".")[:2]:
        told.append(f"Python {then['python']} (now {now['python']})")
    return f"made by {', '.join(told)}" if told else ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    """Standard output of a command, or the empty string where the program is missing or says no."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode else done.stdout.strip()
