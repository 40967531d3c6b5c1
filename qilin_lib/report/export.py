"""A finished stage as a folder to hand on: weights or adapter, tokenizer, template, model card, GGUF, a hub repository.

python -m qilin_lib.report.export RUN STAGE TARGET [--adapter | --gguf] [--push OWNER/NAME]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from qilin_lib import chains, files, runs
from qilin_lib.errors import QilinError, as_command, nearest
from qilin_lib.models.adapters import base_of
from qilin_lib.models.load import load_tokenizer
from qilin_lib.models.merge import merge
from qilin_lib.models.names import accepted, describe
from qilin_lib.models.shapes import is_hub_id
from qilin_lib.report import card
from qilin_lib.tokens.own_template import choose, written
from qilin_lib.tokens.template import as_trained

EXAMPLE = "感冒了要看哪个科？"
NOTE = "qilin.json"
CONVERTER = "convert_hf_to_gguf.py"
GGUF = "model.gguf"


@as_command
def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code, 2 after an error (one sentence on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m qilin_lib.report.export", description=__doc__)
    parser.add_argument("run", help="name of a run, e.g. smoke")
    parser.add_argument("stage", help="03_dcpt, 04_sft or 05_dpo; dcpt, sft and dpo will do")
    parser.add_argument("target", type=Path, help="folder to make; must not exist or be empty")
    parser.add_argument("--adapter", action="store_true", help="the LoRA adapter instead of the merged model")
    parser.add_argument("--gguf", action="store_true", help="also model.gguf, by llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to this repository of the hub")
    options = parser.parse_args(arguments)
    made = export(**vars(options))
    print(f"{made}: {len(list(made.iterdir()))} files, checked against the run's manifest; read README.md first")
    if options.push:
        print(f"uploaded to https://huggingface.co/{options.push}; a new repository there is private")
    return 0


def export(
    run: str, stage: str, target: Path, adapter: bool = False, gguf: bool = False, push: str | None = None
) -> Path:
    """Copy `stage` of `run` to `target` with README.md and qilin.json; every copied file is checked first.

    The folder appears under its name only when it is whole. Raises QilinError: `target` is not empty, an unknown run
    or stage, a stage that is unfinished or stale or has no adapter, a file that is not what its manifest says, and
    whatever forbids to convert it (`gguf`) or to upload it to the repository `push`.
    """
    found = runs.find(run)
    trained = {name: chains.folder(name) for name in found.chain}
    name = trained.get(stage, stage)
    if name not in trained.values():
        choices = [*trained.values(), *trained]
        raise QilinError(f"stage '{stage}': has no weights to export{nearest(stage, choices)}; there are {choices}")
    if gguf and adapter:
        raise QilinError("--gguf: an adapter alone is no model that llama.cpp runs; leave --adapter out")
    if gguf:
        _converter()
    if push is not None:
        _check_push(push)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise QilinError(f"target {target}: exists and is not empty; choose a new folder")
    manifests = found.line_of(name, "the export")
    target = target.resolve()
    work = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        work.mkdir(parents=True)
        _fill(found, name, manifests, work, adapter, gguf)
        work.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if push is not None:
        _push(target, push)
    return target


def _fill(
    run: runs.Run, name: str, manifests: dict[str, dict[str, Any]], work: Path, adapter: bool, gguf: bool
) -> None:
    """All files of the export below `work`."""
    manifest = manifests[name]
    trained = {chains.name_of(at): at for at in manifests if chains.trains(at)}
    facts = {own: manifests[at]["facts"] for own, at in trained.items()}
    chain = [own for own in manifest["parameters"].get("chain", chains.DEFAULT) if own in trained]
    conversed = chains.conversed(chain, chains.name_of(name))
    base = _content(run, manifests, "02_tokenize", "base.json")
    parent = "02_tokenize" if "one_stage" in facts[chains.name_of(name)] else chains.start(chain, name)
    _weights(run, name, manifest, adapter, work)
    tokenizer = load_tokenizer(work)
    # Plain text before any conversation was learnt, as 06_eval asks it.
    template = as_trained(manifest["facts"], name, name) if conversed else choose("plain", tokenizer)
    tokenizer.chat_template = written(template, tokenizer)
    files.write_text(work / "chat_template.jinja", tokenizer.chat_template)
    _beside(run, base, template.end(tokenizer), work)
    if adapter:
        # Both name where the base lay on the machine that trained; the card says by sha256 which one it was.
        for file, key in (("adapter_config.json", "base_model_name_or_path"), (NOTE, "base")):
            files.write_json(work / file, files.read_json(work / file) | {key: f"{run.name}/{parent}"})
    if gguf:
        _to_gguf(work)
    # What 06_eval said of exactly these weights, if it has finished.
    evaluated = {"06_eval": run.manifest("06_eval")} if run.finished("06_eval") else {}
    if evaluated and evaluated["06_eval"]["inputs"].get(name) != manifest["digest"]:
        evaluated = {}
    asked = [{"role": "user", "content": EXAMPLE}]
    made = card.Export(
        run=run.name,
        stage=name,
        below=parent,
        adapter=adapter,
        manifests=manifests,
        base=base,
        about=describe(base, facts, chain),
        ledger=_content(run, manifests, "01_build_chimed", "ledger.json"),
        heldout={at: _content(run, manifests, at, "heldout.json") for at in trained.values()},
        scores=_content(run, evaluated, "06_eval", "scores.json") if evaluated else None,
        template=template.name,
        rendered=tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True),
        files={path.name: files.sha256_file(path) for path in sorted(work.iterdir()) if path.name != NOTE},
        base_weights=_base_weights(run, name, parent, manifests),
        accepted=accepted(run.dir, name),
        plain=not conversed,
    )
    # An adapter has such a note already, by which `adapters.described` knows its base: ours adds to it.
    note = files.read_json(work / NOTE) if (work / NOTE).exists() else {}
    files.write_json(work / NOTE, note | template.described | card.identity(made))
    files.write_text(work / "README.md", card.markdown(made))


def _weights(run: runs.Run, name: str, manifest: dict[str, Any], adapter: bool, work: Path) -> None:
    """The adapter, the full weights, or base plus adapter merged, below `work`; each file read is checked first."""
    outputs = manifest["outputs"]
    folder = "adapter" if any(file.startswith("adapter/") for file in outputs) else "model"
    listed = [file for file in outputs if file.startswith(f"{folder}/") and file.count("/") == 1]
    if adapter and folder != "adapter":
        raise QilinError(
            f"--adapter: {name} of run '{run.name}' was trained with finetuning: "
            f"{manifest['parameters']['finetuning']} and has no adapter; leave --adapter out"
        )
    if not any(file.endswith(".safetensors") for file in listed):
        raise QilinError(f"{name} of run '{run.name}' has no weights: run {chains.shown_by(name)} again")
    run.check(name, {"outputs": {file: outputs[file] for file in listed}}, every_byte=True)
    source = run.folder(name) / folder
    if folder == "adapter" and not adapter:
        # The adapter's note has the hash of its base.
        merge(base_of(source), source, work)
        return
    for path in (run.folder(name) / file for file in listed):
        # peft writes an empty card; ours takes its place.
        if path.name != "README.md":
            shutil.copyfile(path, work / path.name)


def _beside(run: runs.Run, base: dict[str, Any], end: int, work: Path) -> None:
    """The base's SentencePiece file, which other programs read, and the token that ends an answer as one more end."""
    pieces = run.folder("02_tokenize") / base["path"] / "tokenizer.model"
    if pieces.is_file() and not (work / pieces.name).exists():
        shutil.copyfile(pieces, work / pieces.name)
    path = work / "generation_config.json"
    if path.exists():
        config = files.read_json(path)
        ends = config.get("eos_token_id")
        ends = ends if isinstance(ends, list) else [ends] * (ends is not None)
        if end not in ends:
            files.write_json(path, config | {"eos_token_id": [end, *ends]})


def _content(run: runs.Run, manifests: dict[str, dict[str, Any]], stage: str, file: str) -> Any:
    """A JSON file of a stage, after checking that it is the one its manifest lists."""
    outputs = manifests[stage]["outputs"]
    if file not in outputs:
        raise QilinError(f"{stage} of run '{run.name}' has no {file}: run {chains.shown_by(stage)} again")
    run.check(stage, {"outputs": {file: outputs[file]}}, every_byte=True)
    return files.read_json(run.folder(stage) / file)


def _base_weights(run: runs.Run, name: str, parent: str, manifests: dict[str, dict[str, Any]]) -> dict[str, str]:
    """{file: sha256} of the full weights that training started from: merged by the stage itself, or its parent's."""
    for stage, folder in ((name, "start/"), (parent, "model/")):
        outputs = manifests[stage]["outputs"]
        kept = [file for file in outputs if file.startswith(folder) and file.endswith(".safetensors")]
        if kept:
            return {Path(file).name: outputs[file]["sha256"] for file in kept}
    return _content(run, manifests, "02_tokenize", "base_weights.json")


# --- for others: llama.cpp, the hub -----------------------------------------------------------------------------------


def _converter() -> Path:
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


def _to_gguf(folder: Path) -> None:
    """Write model.gguf beside the weights in `folder`, in their own precision; QilinError with what went wrong."""
    script = _converter()
    work = folder.with_name(f"{folder.name}.{GGUF}")
    command = [sys.executable, str(script), str(folder), "--outfile", str(work), "--outtype", "auto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not work.is_file():
        work.unlink(missing_ok=True)
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2][:300]
        raise QilinError(f"--gguf: {script} ended with {done.returncode}: {last}")
    shutil.move(work, folder / GGUF)


def _check_push(repository: str) -> None:
    """QilinError unless `repository` is owner/name and there is a token to write to it."""
    from huggingface_hub import get_token

    if not is_hub_id(repository) or "@" in repository:
        raise QilinError(f"--push {repository}: no repository of the hub; nearest valid: owner/name")
    if get_token() is None:
        raise QilinError("--push: no token for the hub; nearest valid: `hf auth login`, or HF_TOKEN with a write token")


def _push(folder: Path, repository: str) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
