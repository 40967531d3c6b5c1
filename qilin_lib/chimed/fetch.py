"""Fetch raw folders from their homes on the Hugging Face hub and GitHub: python -m qilin_lib.chimed.fetch --list

Nothing of the kit does so by itself. Without --yes the licences are shown and no machine is asked. `fetched.json` in a
source's folder records of each file: repository, revision, path there, bytes, sha256, and `blob`, the repository's own
id of the content (git's, or Git LFS's sha256). The same command again goes on after a cut, at the same revision, and
verifies what is there by its sha256. The user's own files stay, and no secret is written down.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import shutil
import sys
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

from huggingface_hub import HfApi

from qilin_lib.chimed.readers.find import FETCHED
from qilin_lib.chimed.sources import BY_NAME, REGISTRY, Place, Source
from qilin_lib.errors import QilinError, nearest
from qilin_lib.files import read_json, sha256_file, write_json

HUB, API, RAW = HfApi(), "https://api.github.com", "https://raw.githubusercontent.com"


def fetch(source: Source, raw_dir: Path) -> None:
    """Bring `source` into its folder below `raw_dir` or verify what an earlier call brought; prints a line per file.

    QilinError: a file there was not fetched or has changed, the repository lacks the files or gives others.
    """
    folder, path = raw_dir / source.name, raw_dir / source.name / FETCHED
    if path.exists():
        record = read_json(path)
    else:
        listed = {name: entry for place in source.fetch for name, entry in _listed(place).items()}
        record = {"source": source.name, "home": source.home, "licence": source.licence, "files": listed}
        if not listed:
            raise QilinError(f"{source.name}: no {source.fetch[0].files[0]} there any more; see {source.home}")
    if "files" not in record:
        raise QilinError(f"{path} is no record made by this command; move it away")
    for name, entry in record["files"].items():
        inside = [(folder / part).resolve() for part in (name, entry["path"], entry["blob"])]
        if not all(place.is_relative_to(folder.resolve()) for place in inside):
            raise QilinError(f"{path}: '{name}' leads out of the folder; move the record away")
        if (folder / name).exists() and sha256_file(folder / name) != entry.get("sha256"):
            raise QilinError(f"{folder / name} is not the file that was fetched; move it away to fetch it")
    # Before a file comes, for its revision, and before it is in its place: whatever stands there is recorded.
    write_json(path, record)
    missing = {name: entry for name, entry in record["files"].items() if not (folder / name).exists()}
    print(f"{source.name}: {len(record['files']) - len(missing)} of {len(record['files'])} files are there, verified")
    for name, entry in missing.items():
        arrived = _download(entry, folder / ".fetching")
        entry["sha256"] = _checked(arrived, entry, source)
        write_json(path, record)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        arrived.replace(folder / name)
        print(f"{source.name}/{name}: {entry['bytes']:,} bytes, sha256 {entry['sha256']}", flush=True)
    shutil.rmtree(folder / ".fetching", ignore_errors=True)


def _listed(place: Place) -> dict[str, dict]:
    """{path below the source's folder: where it comes from} of the files that `place` names; no star is a slash."""
    kind, _, repository = place.repository.partition(":")
    if kind == "hub":
        info = HUB.dataset_info(repository, files_metadata=True)
        revision, files = info.sha, [(f.rfilename, f.size, f.lfs.sha256 if f.lfs else f.blob_id) for f in info.siblings]
    else:
        home = f"{API}/repos/{repository}"
        revision = json.load(urlopen(f"{home}/commits/HEAD", timeout=60))["sha"]
        tree = json.load(urlopen(f"{home}/git/trees/{revision}?recursive=1", timeout=60))
        files = [(blob["path"], blob["size"], blob["sha"]) for blob in tree["tree"] if blob["type"] == "blob"]
        if tree["truncated"]:
            raise QilinError(f"{repository} has more files than GitHub lists; clone it instead")
    origin = {"repository": place.repository, "revision": revision}
    under, into = (f"{folder}/" if folder else "" for folder in (place.under, place.into))
    patterns = [f"{under}{pattern}" for pattern in place.files]
    return {
        into + path.removeprefix(under): {**origin, "path": path, "bytes": size, "blob": blob}
        for path, size, blob in files
        if any(fnmatch.fnmatchcase(path, one) and path.count("/") == one.count("/") for one in patterns)
    }


def _download(entry: dict, staging: Path) -> Path:
    """The file below `staging`, which is hidden from readers; goes on with what an earlier call left there."""
    kind, _, repository = entry["repository"].partition(":")
    if kind == "hub":
        where = {"repo_type": "dataset", "revision": entry["revision"], "local_dir": staging}
        return Path(HUB.hf_hub_download(repository, entry["path"], **where))
    staging.mkdir(parents=True, exist_ok=True)
    with open(staging / entry["blob"], "ab") as out:
        if (begun := out.tell()) < entry["bytes"]:
            url = f"{RAW}/{repository}/{entry['revision']}/{quote(entry['path'])}"
            with urlopen(Request(url, headers={"Range": f"bytes={begun}-"}), timeout=60) as answer:
                if answer.status != 206:
                    out.truncate(0)
                shutil.copyfileobj(answer, out)
    return staging / entry["blob"]


def _checked(arrived: Path, entry: dict, source: Source) -> str:
    """The file's sha256, if it is whole and what the repository says; another is thrown away."""
    size, sha256 = arrived.stat().st_size, sha256_file(arrived)
    if size < entry["bytes"]:
        raise ConnectionError(f"cut after {size:,} of {entry['bytes']:,} bytes of {entry['path']}")
    # Neither home lets a blob that is git's own and not LFS's grow beyond what fits into memory.
    content = arrived.read_bytes() if len(entry["blob"]) == 40 else b""
    if entry["blob"] not in (sha256, hashlib.sha1(b"blob %d\0" % size + content).hexdigest()):
        arrived.unlink()
        raise QilinError(f"{entry['path']} arrived damaged: it is not blob {entry['blob']}; try again")
    if content.startswith(b"version https://git-lfs"):
        raise QilinError(f"{entry['path']} is only a pointer to Git LFS; get the file by hand: {source.home}")
    return sha256


def main(arguments: list[str]) -> int:
    """Show the sources named (all with --list) and, with --yes, fetch them; 2 when something stands in the way."""
    parser = argparse.ArgumentParser("python -m qilin_lib.chimed.fetch", description=__doc__.partition(":")[0])
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="names of the registry, as --list prints them")
    parser.add_argument("--raw-dir", type=Path, default="raw", help="where the sources' folders lie (%(default)s)")
    parser.add_argument("--yes", action="store_true", help="fetch: the licences allow what I am going to do")
    parser.add_argument("--list", action="store_true", help="only print all sources with licence and home")
    given = parser.parse_args(arguments)
    try:
        for name in given.sources:
            if name not in BY_NAME:
                raise QilinError(f"'{name}' is no source{nearest(name, BY_NAME)}; --list names them all")
            if not BY_NAME[name].fetch:
                raise QilinError(f"'{name}' is not to be had by this command; get it: {BY_NAME[name].home}")
        for source in REGISTRY if given.list else map(BY_NAME.__getitem__, given.sources):
            print(f"{source.name}{'' if source.fetch else ', only by hand'}; licence: {source.licence}")
            print(f"  {source.citation}\n  {source.home}", flush=True)
            if given.yes and not given.list:
                fetch(source, given.raw_dir)
    # urllib's, httpx's and the hub client's errors have no common class; behind "?" an address may carry a signature.
    except Exception as reason:
        text = f"{type(reason).__name__}: {reason}".partition("?")[0] + "; the same command again goes on from here"
        print(f"error: {reason if isinstance(reason, QilinError) else text}", file=sys.stderr)
        return 2
    if not (done := given.list or (given.yes and given.sources)):
        print("Nothing was fetched: name sources, and say --yes if their licences allow what you are going to do")
    return 0 if done else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
