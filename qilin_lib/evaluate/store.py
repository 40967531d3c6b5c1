"""Predictions on disk: parts that grow while models answer, and the finished file in item order.

Every process appends to a part of its own, a whole chunk at a time; a part's first line names what its records belong
to. A kill can tear the last line, which nobody counts. When all items are there the parts become `<model>.jsonl`, and
last of all `<model>.key.json` beside it says that the file is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError, sentence
from qilin_lib.evaluate.replies import ERROR
from qilin_lib.files import read_json, read_jsonl, sha256_file, write_json, write_jsonl

Append = Callable[[Sequence[dict]], None]


def predictions(out_dir: str | Path, protocol: str, benchmark: str, model: str) -> Path:
    """The finished file of one model's records: `out_dir`/predictions/<protocol>/<benchmark>/<model>.jsonl."""
    return Path(out_dir) / "predictions" / protocol / benchmark / f"{model}.jsonl"


def complete(path: Path, key: str) -> bool:
    """Whether the finished file is there, untouched, and belongs to `key`."""
    if not (path.exists() and _key_file(path).exists()):
        return False
    known = read_json(_key_file(path))
    return known["key"] == key and known["sha256"] == sha256_file(path)


def there(path: Path, key: str) -> bool:
    """Whether the finished file of `key` is here, or was in a stage moved aside and now is."""
    if not (complete(path, key) or reuse(path, key)):
        return False
    # What an attempt of another key left unfinished would be taken for this file's.
    for part in _parts(path):
        part.unlink(missing_ok=True)
    return True


def reuse(path: Path, key: str) -> bool:
    """Whether a stage that was moved aside holds the finished file of `key`; then it is here too."""
    out_dir = path.parents[3]
    for old in out_dir.parent.glob(f"{out_dir.name}.old-*"):
        earlier = old / path.relative_to(out_dir)
        if complete(earlier, key):
            path.parent.mkdir(parents=True, exist_ok=True)
            for source, target in ((earlier, path), (_key_file(earlier), _key_file(path))):
                # Another process may do the same; files are replaced, never written in place.
                temporary = target.with_name(f".{target.name}.{os.getpid()}.copy")
                shutil.copyfile(source, temporary)
                os.replace(temporary, target)
            return True
    return False


def carry_over(out_dir: Path, old: Sequence[Path]) -> None:
    """Copy from the last stage that was moved aside what is not keyed by a finished file: parts that grew, bills."""
    for earlier in old[-1:]:
        for source in (*earlier.glob("predictions/*/*/*.part[0-9]*"), *earlier.glob("usage/*.json")):
            target = out_dir / source.relative_to(earlier)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(source, target)


def reopen(path: Path, key: str) -> bool:
    """Make a finished file of `key` unfinished, without the records of refused prompts; False where there are none."""
    records = list(read_jsonl(path))
    answered = [record for record in records if record.get("finish") != ERROR]
    if len(answered) == len(records):
        return False
    write_jsonl(path.with_name(f"{path.stem}.part0"), [{"key": key}, *answered])
    _key_file(path).unlink()
    return True


def note_failure(out_dir: str | Path, model: str, reason: Exception) -> None:
    """Keep why a model could not answer everything: `failures` reads it."""
    write_json(Path(out_dir) / "failures" / f"{model}.json", sentence(reason))


def failures(out_dir: str | Path) -> dict[str, str]:
    """{model: why it could not answer everything} of the last attempt."""
    return {path.stem: read_json(path) for path in sorted(Path(out_dir).glob("failures/*.json"))}


def bill(out_dir: str | Path, model: str, usage: Callable[[], dict[str, Any]]) -> Callable[[], None]:
    """What writes a server's bill: the sum over all attempts, of this one `usage()` so far. What one attempt paid for,
    the next finds in its cache."""
    path = Path(out_dir) / "usage" / f"{model}.json"
    before = read_json(path) if path.exists() else {}

    def write() -> None:
        counts = usage().items()
        write_json(path, {name: None if more is None else more + (before.get(name) or 0) for name, more in counts})

    return write


def bills(out_dir: str | Path) -> dict[str, dict[str, Any]]:
    """{model: what its server counted}."""
    return {path.stem: read_json(path) for path in sorted(Path(out_dir).glob("usage/*.json"))}


def kept(path: Path, key: str) -> dict[str, dict]:
    """Records by id that the parts of an unfinished file already hold under `key`, whichever process wrote them."""
    found: dict[str, dict] = {}
    for part in _parts(path):
        lines = _whole_lines(part)
        if next(lines, {}).get("key") == key:
            found |= {record["id"]: record for record in lines}
    return found


@contextmanager
def appending(path: Path, rank: int, key: str) -> Iterator[Append]:
    """`append(records)` to this process's part, on disk when it returns; what belongs to another key is thrown away."""
    part = path.with_name(f"{path.stem}.part{rank}")
    part.parent.mkdir(parents=True, exist_ok=True)
    lines = list(_whole_lines(part)) if part.exists() else []
    # Written anew without the torn line: appending behind one would spoil the next record too.
    write_jsonl(part, lines if lines and lines[0].get("key") == key else [{"key": key}])
    with open(part, "a", encoding="utf-8") as handle:

        def append(records: Sequence[dict]) -> None:
            handle.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            handle.flush()
            os.fsync(handle.fileno())

        yield append


def fill(
    path: Path,
    rank: int,
    key: str,
    chunks: Iterable[list[str]],
    answer: Callable[[list[str]], Sequence[dict]],
    told: Callable[[int, int], None],
) -> None:
    """Append `answer(ids of a chunk)` of each chunk that the parts do not hold whole; `told(chunks left, of how many)`
    after each."""
    done = kept(path, key)
    todo = [chunk for chunk in chunks if not done.keys() >= set(chunk)]
    with appending(path, rank, key) as append:
        for left, chunk in zip(reversed(range(len(todo))), todo, strict=True):
            append(answer(chunk))
            told(left, len(todo))


def finish(path: Path, ids: Sequence[str]) -> None:
    """Make the finished file, in the order of `ids`, out of the parts; nothing to do where there is none.

    Raises QilinError when an item has no record.
    """
    parts = _parts(path)
    if not parts:
        return
    # Rank 0 takes part in every evaluation, so its part names the key; others may be left from more processes.
    key = next(_whole_lines(path.with_name(f"{path.stem}.part0")))["key"]
    records = kept(path, key)
    if missing := [item for item in ids if item not in records]:
        raise QilinError(
            f"{path} lacks {len(missing)} of {len(ids)} items, e.g. {missing[0]}; run the notebook again: it goes on "
            "where it stopped"
        )
    write_jsonl(path, (records[item] for item in ids))
    write_json(_key_file(path), {"key": key, "records": len(ids), "sha256": sha256_file(path)})
    for part in parts:
        part.unlink()


def count(path: Path) -> int:
    """Records in the parts so far: lines, less the first of each part."""
    return sum(max(0, part.read_bytes().count(b"\n") - 1) for part in _parts(path))


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.part[0-9]*"))


def _key_file(path: Path) -> Path:
    return path.with_name(f"{path.stem}.key.json")


def _whole_lines(part: Path) -> Iterator[dict[str, Any]]:
    with open(part, encoding="utf-8", errors="replace") as handle:
        for line in handle:
            if not line.endswith("\n"):
                return
            yield json.loads(line)
