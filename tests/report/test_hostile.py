"""A hostile run: nothing in names, replies, file names or parameters runs in a page, breaks it, or leaves it."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import chains, files
from qilin_lib.report import browse, case_study, figures, html, whole
from qilin_lib.report.markup import Box, card
from qilin_lib.report.render import table
from tests.report.conftest import Elements
from tests.report.test_browse import in_chromium

RUN = "document.title='taken';console.log('taken');alert(1)"
PAYLOADS = [
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"</style></title></textarea></template><svg onload={RUN}>",
    f'"><img src=x onerror="{RUN}"><iframe srcdoc="<script>{RUN}</script>">',
    f"`${{{RUN}}}` {{{{ 7 * 191 }}}} {{% raw %}} [a](javascript:{RUN}) ![b](http://host/x.png)",
    "<form action=http://host><button autofocus>x</button></form><meta http-equiv=refresh content='0;url=http://host'>",
    "<base href=http://host><link rel=prefetch href=http://host>--><!--",
    "\x1b[2J\x1b]0;taken\x07\u202egnp.exe\u2066",
    '=HYPERLINK("http://host")|$\\foo$|\\input{/etc/passwd}|\'"',
]
NAME = "".join(PAYLOADS)


def record(model: str, number: int) -> dict[str, Any]:
    text = PAYLOADS[number]
    words = {"prompt": text, "output": f"{model}{text}", "reference": text, "subject": text, "template": text}
    return {"id": text, "benchmark": "huatuo", "model": model, **words, "groups": {text: text}, "shots": 0}


@pytest.fixture
def stage(tmp_path: Path) -> Any:
    folder = tmp_path / "run" / "06_eval"
    for model in ("base", "dpo", "<img src=x onerror=alert(1)>"):
        rows = [record(model, number) for number in range(len(PAYLOADS))]
        rows[0]["reference"] += "half \ud83d"
        # The kit's own writer refuses half a character; another's file may hold it.
        path = folder / "predictions" / "fixed" / "huatuo" / f"{model}.jsonl"
        files.write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))
    names = {"base": PAYLOADS[1], "dpo": PAYLOADS[3]}
    files.write_json(folder / "scores.json", {"run": {"names": names}})
    parameters = SimpleNamespace(seed=1, cases=9, chain=chains.DEFAULT)
    return SimpleNamespace(parent=lambda name: tmp_path / "run" / name, parameters=parameters)


@pytest.fixture
def page(stage: Any, scores: Any, tmp_path: Path) -> Path:
    scores["run"]["names"] |= dict(zip(("base", "dcpt", "sft", "dpo"), PAYLOADS, strict=False))
    scores["cmexam"][NAME] = scores["cmexam"]["sft"]
    for entry in scores["cmexam"].values():
        groups = entry["groups"]["department"]
        groups |= {text: groups["内科"] for text in PAYLOADS[:7]}
    sections = whole.result_sections(scores, whole.result_tables(scores | {"digest": NAME}))
    parts = (
        NAME,
        html.Picture(figures.length_histogram({NAME: [1, 2]}, 9), NAME),
        card(NAME, [Box(NAME, NAME, NAME, NAME)]),
    )
    shown = table(NAME, [[text, text] for text in PAYLOADS], ["Model", NAME], [NAME], NAME)
    sections += [html.Section(NAME, (*parts, shown)), html.Section("cases", (case_study.cases(stage, "huatuo"),))]
    sections.append(html.Section("search", (browse.section(stage),)))
    return html.report(sections, tmp_path / "run" / "07_case_study" / "report.html", NAME)


def test_no_text_of_a_run_becomes_an_element_or_an_attribute(page: Path) -> None:
    parser = Elements()
    parser.feed(page.read_text(encoding="utf-8"))
    tags = [tag for tag, _ in parser.found]
    assert tags.count("script") == 3 and not {"iframe", "svg", "button", "base", "link", "template"} & set(tags)
    assert [one["http-equiv"] for tag, one in parser.found if tag == "meta" and "http-equiv" in one] == [
        "Content-Security-Policy"
    ]
    assert not [name for _, attributes in parser.found for name in attributes if name.startswith("on")]
    for _, attributes in parser.found:
        for name in ("href", "src"):
            assert re.match(r"#s\d+$|\.\./|data:image/(svg\+xml|png);base64,", attributes.get(name) or "#s1"), (
                attributes
            )


@pytest.mark.slow
def test_a_hostile_page_says_nothing_to_the_browser_and_shows_every_text(page: Path) -> None:
    dom, console = in_chromium(page, 1300)
    assert console == "" and "<title>taken" not in dom and "records match" in dom
    shown = unescape(dom)
    for text in PAYLOADS[:7]:
        assert text in shown, text
    assert r"\x1b[2J\x1b]0;taken\x07\u202egnp.exe\u2066" in shown and r"half \ud83d" in shown
