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

import pandas as pd
from matplotlib.figure import Figure

from qilin_lib import files, runs
from qilin_lib.errors import QilinError
from qilin_lib.models.names import accepted
from qilin_lib.report.cells import Linked
from qilin_lib.report.charts import png, svg
from qilin_lib.report.markup import STYLE, TEMPLATES, Html, escape, render
from qilin_lib.report.render import Table

WARNING = "Research only, not for clinical use."
LARGEST = 5_000_000
# From the page to the run's folder.
PREFIX = "../"
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
    """A heading and what stands below it: tables, pictures, plain text (escaped) or Html (already escaped).

    Html may hold a script of its own; the page's policy lets no script fetch anything.
    """

    title: str
    parts: tuple[Table | Picture | Html | str, ...]


def report(sections: Iterable[Section], out_path: str | Path, title: str) -> Path:
    """Write the page and return its path. Nothing in it is fetched: style and pictures are inside.

    Raises QilinError for a part of an unknown kind, and when the page would exceed 5 MB.
    """
    sections = [Section(one.title, tuple(_part(part, one.title) for part in one.parts)) for one in sections]
    styles = [(TEMPLATES / "page.css").read_text("utf-8"), STYLE]
    # Of this library's own parts; a script that data brought in would not be Html, and so be text.
    scripts = [script for section in sections for part in section.parts for script in part.scripts]
    policy = POLICY.format(styles=" ".join(map(_hash, styles)), scripts=" ".join(map(_hash, scripts)) or "'none'")
    page = render(
        "page.html.j2", title=title, sections=sections, policy=Html(policy), styles=map(Html, styles), warning=WARNING
    )
    size = len(page.encode("utf-8"))
    if size >= LARGEST:
        raise QilinError(f"{out_path} would be {size / 1e6:.1f} MB, over the limit of 5: show fewer cases")
    files.write_text(out_path, page)
    return Path(out_path)


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode('utf-8')).digest()).decode('ascii')}'"


def _part(part: Any, title: str) -> Html:
    if isinstance(part, Table):
        return part.html(PREFIX)
    if isinstance(part, Picture):
        return _picture(part)
    if isinstance(part, Html):
        return part
    if isinstance(part, str):
        return Html(f"<p>{escape(part)}</p>")
    raise QilinError(f"section '{title}' holds a {type(part).__name__}; a section holds Table, Picture, Html or text")


def _picture(picture: Picture) -> Html:
    # As <img>, each SVG is a document of its own: identifiers of two figures cannot clash.
    data, kind = svg(picture.figure), "svg+xml"
    if len(data) > LARGEST_SVG:
        data, kind = png(picture.figure, dpi=130), "png"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    wide = picture.figure.get_figwidth() > NARROW
    return render("picture.html.j2", source=source, caption=picture.caption, wide=wide)


def manifest_chain(run_dir: str | Path, page: str = "07_case_study") -> Table:
    """The stages of a run from NN_*/manifest.json, up to the one that writes the page: digests, what each stands on,
    cost and code version.

    A stage is "finished", "unfinished" (no manifest), "accepted" as it is, or "stale" when a parent's digest has
    changed since it was made.
    """
    run_dir = Path(run_dir)
    run, names = runs.Run(run_dir), [name for name in runs.PARENTS if name <= page]
    manifests = {name: run.manifest(name) for name in names if run.finished(name)}
    rows = [_chain_row(name, manifests, run) for name in names]
    columns = ["Stage", "Status", "Digest", "Stands on", "Wall time", "Peak memory", "Git commit"]
    notes = [
        "Digest: first 12 digits of the sha256 over a stage's output bytes, from its manifest.json. Each stage names "
        "the digests of those it stands on, back to the sha256 of every raw file.",
        f"A page is written before its own stage has finished, so {page} reads unfinished here.",
        *accepted(run_dir, page),
    ]
    return Table(
        "A2", f"Manifest chain of run {run_dir.name}", pd.DataFrame(rows, columns=columns, dtype=object), notes
    )


def _chain_row(name: str, manifests: dict[str, dict[str, Any]], run: runs.Run) -> list[Any]:
    manifest = manifests.get(name)
    if manifest is None:
        return [name, "unfinished", *["-"] * 5]
    digests = {key: value for key, value in manifest["inputs"].items() if key in runs.PARENTS}
    raw = [f"{len(value)} files of {key}" for key, value in manifest["inputs"].items() if isinstance(value, dict)]
    accepted = run.acceptances(name)
    allowed = [digests, *(note["inputs"] for note in accepted)]
    now = {key: manifests.get(key, {}).get("digest") for key in digests}
    stale = [key for key, value in now.items() if value not in [one.get(key) for one in allowed]]
    parents = [f"{key[:2]}: {value[:12]}" for key, value in digests.items()]
    environment = manifest["environment"]
    commit = environment["git_commit"][:10] or "no git"
    return [
        Linked(name, f"{name}/manifest.json", f"manifest {manifest['digest'][:12]}"),
        f"stale: {', '.join(stale)} changed" if stale else "accepted" if accepted else "finished",
        manifest["digest"][:12],
        ", ".join(raw + parents) or "-",
        _duration(manifest["wall_seconds"]),
        f"{manifest['peak_memory_mb']:,.0f} MB",
        f"{commit}, dirty" if environment["git_dirty"] else commit,
    ]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
