"""report.html: one self-contained page with the tables, figures and cases of a run, and the chain of its manifests.

The page lies in a stage's folder; links to the run's other files start with "../" and work from disk. Nothing is
fetched: style, pictures and the search's own script are inside, and a policy in the head forbids anything else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from qilin_lib import chains, files, runs
from qilin_lib.errors import QilinError
from qilin_lib.models.names import accepted
from qilin_lib.report.cells import Linked
from qilin_lib.report.charts import png, svg
from qilin_lib.report.markup import STYLE, TEMPLATES, Html, escape, render
from qilin_lib.report.render import Table, view

WARNING = "Research only, not for clinical use."
# Of a run of four models it is two million, of forty eight.
LARGEST = 20_000_000
FOLD = (TEMPLATES / "fold.js").read_text("utf-8")
# Scripts and styles are let in by their sha256: what a text might smuggle in has another. `form-action` and `base-uri`
# are not covered by `default-src`.
POLICY = (
    "default-src 'none'; img-src data:; style-src {styles}; script-src {scripts}; form-action 'none'; base-uri 'none'"
)
# Inches up to which a picture is shrunk to a narrow screen; a wider one is scrolled there, so that it can be read.
NARROW = 6
# Above this a picture of many points is smaller as pixels than as paths.
LARGEST_SVG = 400_000


@dataclass(frozen=True)
class Picture:
    """A figure and the sentence under it, which is also what a screen reader reads out."""

    figure: Figure
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it: tables, pictures, plain text (escaped) or Html (already escaped)."""

    title: str
    parts: tuple[Table | Picture | Html | str, ...]


def report(sections: Iterable[Section], out_path: str | Path, title: str) -> Path:
    """Write the page and return its path; QilinError when it would exceed LARGEST bytes."""
    sections = [Section(one.title, tuple(map(_part, one.parts))) for one in sections]
    styles = [(TEMPLATES / "page.css").read_text("utf-8"), STYLE]
    # Of this library's own parts; a script that data brought in would not be Html, and so be text.
    scripts = [FOLD, *(script for section in sections for part in section.parts for script in part.scripts)]
    style_hashes, script_hashes = (
        " ".join(f"'sha256-{_base64(hashlib.sha256(one.encode('utf-8')).digest())}'" for one in contents)
        for contents in (styles, scripts)
    )
    policy = Html(POLICY.format(styles=style_hashes, scripts=script_hashes))
    shown = {"title": title, "sections": sections, "warning": WARNING}
    page = render("page.html.j2", policy=policy, styles=map(Html, styles), fold=Html(FOLD), **shown)
    size = len(page.encode("utf-8"))
    if size >= LARGEST:
        limit = f"the limit of {LARGEST / 1e6:.0f}"
        raise QilinError(f"{out_path} would be {size / 1e6:.1f} MB, over {limit}: show fewer cases or models")
    files.write_text(out_path, page)
    return Path(out_path)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _part(part: Table | Picture | Html | str) -> Html:
    if isinstance(part, Table):
        # From the page to the run's folder.
        return part.html("../")
    if not isinstance(part, Picture):
        return part if isinstance(part, Html) else Html(f"<p>{escape(part)}</p>")
    # As <img>, each SVG is a document of its own: identifiers of two figures cannot clash.
    data, kind = svg(part.figure), "svg+xml"
    if len(data) > LARGEST_SVG:
        data, kind = png(part.figure, dpi=130), "png"
    source, wide = f"data:image/{kind};base64,{_base64(data)}", part.figure.get_figwidth() > NARROW
    return render("picture.html.j2", source=source, caption=part.caption, wide=wide)


def chain(stage: runs.Stage) -> Table:
    """The stages of a run up to `stage`, which writes the page: what makes each, its digest, what it stands on, cost
    and code version.

    A stage is "finished", "unfinished" (no manifest), "accepted" as it is, or "stale" when a parent's digest has
    changed since it was made.
    """
    run, page = stage.run, stage.name
    names = [name for name in chains.graph(run.chain) if name <= page]
    manifests = {name: run.manifest(name) for name in names if run.finished(name)}
    rows = []
    for name in names:
        if name in manifests:
            rows.append(_chain_row(name, manifests, run))
        else:
            rows.append([name, "unfinished", chains.shown_by(name), *["-"] * 6])
    return view("chain", "digests", rows, number="A2", after=accepted(run.dir, page), run=run.name, page=page)


def _chain_row(name: str, manifests: dict[str, dict[str, Any]], run: runs.Run) -> list[Any]:
    manifest, acceptances = manifests[name], run.acceptances(name)
    raw, parents, stale = [], [], []
    for key, made_from in manifest["inputs"].items():
        if isinstance(made_from, dict):
            raw.append(f"{len(made_from)} files of {key}")
            continue
        parents.append(f"{key[:2]}: {made_from[:12]}")
        allowed = [made_from, *(note["inputs"].get(key) for note in acceptances)]
        if manifests.get(key, {}).get("digest") not in allowed:
            stale.append(key)
    environment, profile, seconds = manifest["environment"], manifest["parameters"]["profile"], manifest["wall_seconds"]
    minutes, rest = divmod(round(seconds), 60)
    hours = f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
    return [
        Linked(name, f"{name}/manifest.json", f"manifest {manifest['digest'][:12]}"),
        f"stale: {', '.join(stale)} changed" if stale else "accepted" if acceptances else "finished",
        chains.shown_by(name),
        f"python -m qilin_lib.pipeline {profile} --run {run.name} --only {chains.short(name)}",
        manifest["digest"][:12],
        ", ".join(raw + parents) or "-",
        f"{seconds:.1f} s" if seconds < 60 else hours,
        f"{manifest['peak_memory_mb']:,.0f} MB",
        (environment["git_commit"][:10] or "no git") + ", dirty" * bool(environment["git_dirty"]),
    ]
