"""The page: self-contained, escaped, and the chain of manifests under it."""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.report import figures, html, tables
from qilin_lib.report.html import Picture, Section, chain, report
from qilin_lib.report.markup import Html
from qilin_lib.report.render import table
from qilin_lib.runs import Run
from tests.report.conftest import Elements
from tests.report.test_browse import in_chromium, with_script


def page(tmp_path: Path, *parts: Any) -> str:
    path = report([Section("Data <1>", parts), Section("End", ())], tmp_path / "report.html", "Run & <smoke>")
    return path.read_text(encoding="utf-8")


def policy_of(text: str) -> dict[str, list[str]]:
    """{directive: its sources} of the page's policy."""
    content = unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1])
    return {words[0]: words[1:] for words in map(str.split, content.split(";"))}


def sha256(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def test_the_policy_lets_in_the_page_s_own_style_alone_and_lets_nothing_out(tmp_path: Path) -> None:
    text = page(tmp_path, Html("<script>document.title = 'taken'</script>"), "</style><script>1</script>")
    policy = policy_of(text)
    assert [policy[name] for name in ("default-src", "form-action", "base-uri")] == [["'none'"]] * 3
    assert policy["script-src"] == [sha256(html.FOLD)]
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert sorted(policy["style-src"]) == sorted(map(sha256, styles)) and policy["img-src"] == ["data:"]
    # Before anything that it is to hold back.
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<script>")


def test_the_page_is_whole_well_formed_and_fetches_nothing(tmp_path: Path, ledger: Any, tokens: Any) -> None:
    picture = Picture(figures.ledger_bar(ledger), 'what "became" of it')
    text = page(tmp_path, tables.data_table(1, ledger, tokens), picture, "plain <i>text</i>", Html("<p>trusted</p>"))
    parser = Elements()
    parser.feed(text)
    assert (parser.open, parser.wrong) == ([], [])
    assert not re.search(r"""(src|href)=["'](?!data:|#|\.\./\d\d_)""", text)
    assert "@import" not in text and "url(" not in text
    assert text.index(html.WARNING) < text.index("<nav")
    assert '<a href="#s1">Data &lt;1&gt;</a>' in text and 'id="s2"' in text
    assert "plain &lt;i&gt;text" in text and "<p>trusted</p>" in text and "&lt;smoke&gt;" in text
    assert 'alt="what "became" of it"' in unescape(text) and "data:image/svg+xml;base64," in text
    assert '"Noto Sans CJK SC"' in text and '"PingFang SC"' in text
    assert 'name="viewport"' in text


def test_a_heavy_figure_becomes_pixels_and_too_large_a_page_is_refused(
    tmp_path: Path, ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(QilinError, match="over the limit of 20: show fewer cases or models"):
        page(tmp_path, "病" * 7_000_000)
    assert not (tmp_path / "report.html").exists()
    monkeypatch.setattr(html, "LARGEST_SVG", 10)
    assert "data:image/png;base64," in page(tmp_path, Picture(figures.ledger_bar(ledger), "x"))


def test_sections_are_folded_on_a_phone_and_open_elsewhere_and_in_print(tmp_path: Path) -> None:
    rows = [[str(number), "x"] for number in range(99)]
    parts = [Section(f"Part {n}", (table("Rows", rows, ["Model", "x"]),)) for n in range(4)]
    path = report(parts, tmp_path / "report.html", "long")
    heights = "document.title = [document.documentElement.scrollHeight, "
    heights += "(dispatchEvent(new Event('beforeprint')), document.documentElement.scrollHeight)].join()"
    with_script(path, heights)
    seen = {width: re.search("<title>([^<]+)", in_chromium(path, width)[0])[1] for width in (390, 1300)}
    (phone, printed), (wide, paper) = (map(int, text.split(",")) for text in seen.values())
    assert phone < 1500 and min(printed, wide, paper) > 8000


def manifest(run: Path, stage: str, digest: str, inputs: dict[str, Any], seconds: float = 5.25) -> None:
    environment = {"git_commit": "abcdef0123456789", "git_dirty": stage == "02_tokenize"}
    content = {"stage": stage, "digest": digest, "key": digest, "inputs": inputs, "outputs": {}}
    content |= {"environment": environment, "wall_seconds": seconds, "peak_memory_mb": 1530.4}
    content["parameters"] = {"profile": "mine"}
    files.write_json(run / stage / "manifest.json", content)


def test_the_chain_of_manifests_follows_digests(tmp_path: Path) -> None:
    run = tmp_path / "smoke"
    manifest(run, "01_build_chimed", "a" * 64, {"raw": {"f1": "x", "f2": "y"}})
    manifest(run, "02_tokenize", "b" * 64, {"01_build_chimed": "a" * 64}, seconds=4000)
    manifest(run, "03_dcpt", "c" * 64, {"02_tokenize": "0" * 64})
    (run / "04_sft").mkdir()
    made = chain(SimpleNamespace(run=Run(run), name="07_case_study"))
    frame = made.words.astype(str).set_index("Stage")
    assert list(frame["Status"])[:4] == ["finished", "finished", "stale: 02_tokenize changed", "unfinished"]
    assert frame.loc["01_build_chimed", "Stands on"] == "2 files of raw"
    assert frame.loc["02_tokenize", "Stands on"] == "01: aaaaaaaaaaaa"
    assert list(frame.loc["02_tokenize"])[-3:] == ["1 h 06 min", "1,530 MB", "abcdef0123, dirty"]
    assert len(frame) == 7
    assert frame.loc["04_sft", "Notebook"] == "notebooks/04_sft.ipynb"
    assert frame.loc["02_tokenize", "Command"] == "python -m qilin_lib.pipeline mine --run smoke --only 02"
    assert '<a href="01_build_chimed/manifest.json" title' in made._repr_html_()
