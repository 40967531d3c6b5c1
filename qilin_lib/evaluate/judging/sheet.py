"""People as judges: one HTML file to fill in without a network, the key to its hidden sides, and its way back."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, ValidationError

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.judging.comparison import HUMAN
from qilin_lib.evaluate.judging.kinds import WORDS, Pair, verdict_on_a
from qilin_lib.evaluate.judging.verdicts import Preset, record
from qilin_lib.evaluate.replies import Reply
from qilin_lib.files import read_json, sha256_text, write_json, write_text

_TEMPLATES = Path(__file__).parent / "templates"


class Saved(BaseModel):
    """What sheet.html saves; a judge who gives no name goes by the file's."""

    sheet: str
    judge: str = ""
    verdicts: dict[str, Literal["first", "second", "tie"]]


def write(pairs: Sequence[Pair], chosen: Preset, folder: Path, seed: int) -> tuple[Path, Path]:
    """Write sheet.html and key.json to `folder`; which model stands first, and the order of items, go by the seed.

    The key names the models and stays with whoever asks; the sheet holds questions and answers alone.
    """
    draw = random.Random(seed)
    places = draw.sample(range(len(pairs)), len(pairs))
    orders = [draw.choice(("ab", "ba")) for _ in pairs]
    games, key = [], {}
    for place in places:
        pair, order = pairs[place], orders[place]
        first, second = pair.shown(order)
        name = sha256_text(f"{seed} {place} {pair.item}")[:12]
        games.append({"id": name, "question": pair.question, "first": first, "second": second})
        key[name] = {"order": order, "pair": asdict(pair)}
    sheet = sha256_text(str(games))[:12]
    page, secret = folder / "sheet.html", folder / "key.json"
    write_text(page, _page({"sheet": sheet, "criteria": chosen.criteria, "games": games}))
    write_json(secret, {"sheet": sheet, "games": key})
    return page, secret


def _page(sheet: dict[str, Any]) -> str:
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    script, style = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("sheet.js", "sheet.css"))
    hashes = {"script_hash": _hash(script), "style_hash": _hash(style)}
    return environment.get_template("sheet.html.j2").render(sheet=sheet, script=script, style=style, **hashes)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def read(export: Path, key: Path) -> list[dict[str, Any]]:
    """The records of an exported file, in the form of `verdicts.record`; what was not judged has none.

    QilinError: another form or sheet, or a judgment that the key does not know.
    """
    try:
        said = Saved.model_validate(read_json(export))
    except ValidationError as reason:
        first = reason.errors()[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise QilinError(f"{export}: {place}: {first['msg']}; save it from sheet.html again") from None
    secret = read_json(key)
    if said.sheet != secret["sheet"]:
        raise QilinError(
            f"{export} was made by sheet '{said.sheet}', {key} belongs to '{secret['sheet']}': other answers are "
            f"judged now; move it out of {export.parent}, or set back the parameters that it was made with"
        )
    records = []
    for name, verdict in said.verdicts.items():
        if name not in secret["games"]:
            raise QilinError(f"{export}: verdicts: '{name}' is not in {key}; save it from sheet.html again")
        known = secret["games"][name]
        asked, order = Pair(**known["pair"]).asked(known["order"], said.sheet), known["order"]
        judge, reply = HUMAN + (said.judge.strip() or export.stem), Reply(WORDS[verdict])
        records.append(record(asked, judge, reply, verdict_on_a(verdict, order)))
    return records


def read_all(exports: Iterable[Path], key: Path) -> list[dict[str, Any]]:
    """The records of several files as of `read`; QilinError for two by one judge's name, which would count as one."""
    records, known = [], {}
    for export in exports:
        own = read(export, key)
        for judge in {one["judge"] for one in own}:
            if judge in known:
                raise QilinError(
                    f"{export}: judge: '{judge.removeprefix(HUMAN)}' is {known[judge].name}'s too; nearest valid: "
                    "another name there, or only the later file if both are one person's"
                )
            known[judge] = export
        records += own
    return records
