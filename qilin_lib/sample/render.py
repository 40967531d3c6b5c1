"""Renders the embedded sample as a raw folder: every source in its real format, flaws planted and listed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from qilin_lib.errors import QilinError
from qilin_lib.files import naming, sha256_file, sha256_text, write_json
from qilin_lib.sample import dialogue, entities, exams, flaws, further, general, kg, preferences, qa, textbook
from qilin_lib.sample.knowledge import DATA, FILES, Knowledge, load
from qilin_lib.sample.shares import share_out
from qilin_lib.sample.sheets import Sheet, write


def render(target: Path, seed: int = 17, data: Path = DATA) -> dict[str, int]:
    """Write the whole raw folder into `target` (new or empty); returns {relative path: number of records}.

    The same data files and seed give the same bytes everywhere. Raises QilinError when `target` holds anything
    already, or when a data file is malformed.
    """
    target = Path(target)
    if target.exists() and any(target.iterdir()):
        raise QilinError(f"{target} is not empty: give render a new folder, or use raw_dir to reuse a rendered one")
    known = load(data)
    sheets = build(known, seed)
    planted = flaws.plant(sheets, known, seed)
    counts = {sheet.path: write(sheet, target) for sheet in sorted(sheets, key=lambda sheet: sheet.path)}
    write_json(target / "ceval" / "mapping.json", exams.mapping(known.ceval))
    write_json(target / "planted.json", planted)
    return {**counts, "ceval/mapping.json": len(exams.mapping(known.ceval)), "planted.json": len(planted)}


def build(known: Knowledge, seed: int) -> list[Sheet]:
    """All files as records, without flaws."""
    places = share_out(known.diseases, seed)
    return [
        *qa.sheets(places, seed),
        *dialogue.sheets(known.diseases, places, seed),
        *preferences.sheets(places, known.diseases, known.preferences, seed),
        *kg.sheets(known.diseases, seed),
        *textbook.sheets(known.diseases, seed),
        *exams.sheets(known.exams, known.ceval, seed),
        *general.sheets(known, seed),
        *further.sheets(known.diseases, seed),
        *entities.sheets(known.diseases, seed),
    ]


def raw_dir(cache: Path) -> Path:
    """The rendered raw folder below `cache`, made once per version of data and code.

    The folder appears whole or not at all; two processes that render at the same time end with the same folder.
    """
    final = Path(cache) / f"sample-{fingerprint()[:16]}"
    if final.is_dir():
        return final
    with naming(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
        try:
            render(temporary)
            temporary.chmod(0o755)
            os.rename(temporary, final)
        except OSError:
            if not final.is_dir():
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return final


def fingerprint() -> str:
    """Hash of the data files and of the rendering code."""
    code = sorted(Path(__file__).parent.glob("*.py"))
    files = [*code, *(DATA / name for name in FILES)]
    missing = [path.name for path in files if not path.exists()]
    if missing:
        raise QilinError(f"{DATA}: data file {', '.join(missing)} is missing; reinstall the package with its data")
    return sha256_text("".join(f"{path.name}:{sha256_file(path)}\n" for path in files))
