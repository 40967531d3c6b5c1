"""Searching all records: what the page holds, and what its script shows in a browser without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import zlib
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib.files import write_json, write_jsonl
from qilin_lib.report import browse, html

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\">\x00\u202e\u2028'`${1}"
SHOTS = "以下是考试。\n第一题\nA. 甲\n答：答案：B</s>问："
SUBJECTS = ("law", "physician")
INFINITY = {"-Infinity": "-inf"}
QUESTIONS = ("下列关于发热的是", "下列关于CT检查的是", "下列关于B超 的是")


def exam(model: str, subject: str, n: int) -> dict[str, Any]:
    prediction = ("A", "B", None)[(n + len(model)) % 3]
    return {
        "id": f"{subject}-{n}",
        "benchmark": "ceval",
        "model": model,
        "protocol": "fixed",
        "template": "plain",
        "prompt": f"{subject}{SHOTS}{QUESTIONS[n % 3]}{n}\nA. 甲\n答：答案：",
        "output": "",
        "reference": "",
        "truncated": False,
        "shots": 5,
        "gold": "A",
        "prediction": prediction,
        "correct": prediction == "A",
        "groups": {},
        "subject": subject,
        "scores": {"A": -0.1 * (n + 1), "B": float("-inf") if n == 4 else -2.0},
    }


def answer(model: str, n: int, protocol: str = "fixed") -> dict[str, Any]:
    return {
        "id": f"test-{n}",
        "benchmark": "huatuo",
        "model": model,
        "protocol": protocol,
        "template": "plain",
        "prompt": f"问：头痛{n}天怎么办？\n答：",
        "output": HOSTILE if n == 3 else f"{model}：建议休息{n}天" * (n + 1),
        "reference": None if n == 5 else f"多喝水{n}",
        "truncated": n == 6,
        # Equal in Python, different in JSON.
        "shots": (0, False, 0.0)[n % 3],
    }


@pytest.fixture
def stage(tmp_path: Path) -> Any:
    folder = tmp_path / "06_eval" / "predictions"
    for model in ("base", "dpo", "GPT-4 (0314)"):
        exams = [exam(model, subject, n) for subject in SUBJECTS for n in range(7)]
        if model == "dpo":
            exams[2] |= {"explanation": "因为发热"}
            exams[0] |= {"passages": [{"origin": "cpt.jsonl:7", "score": 9.5, "text": "合同自成立时生效。"}]}
        write_jsonl(folder / "fixed" / "ceval" / f"{model}.jsonl", exams)
        write_jsonl(folder / "fixed" / "huatuo" / f"{model}.jsonl", [answer(model, n) for n in range(12)])
    write_jsonl(folder / "released" / "huatuo" / "base.jsonl", [answer("base", n, "released") for n in range(12)])
    write_json(tmp_path / "06_eval" / "scores.json", {"run": {"names": {}}})
    (tmp_path / "07_case_study").mkdir()
    return SimpleNamespace(parent=lambda name: tmp_path / name, parameters=SimpleNamespace(seed=3), dir=tmp_path)


def rows_of(stage: Any) -> list[browse.Row]:
    return browse.load(stage.parent("06_eval"))


def unpacked(data: str) -> list[Any]:
    return json.loads(zlib.decompress(base64.b64decode(data)))


def test_the_packed_data_decode_to_exactly_the_records(stage: Any) -> None:
    expected = set()
    for path in sorted((stage.dir / "06_eval" / "predictions").rglob("*.jsonl")):
        protocol, benchmark = path.parts[-3:-1]
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            # As JSON, because in Python False is 0; infinity is no JSON and travels as its text.
            record = json.dumps(json.loads(line, parse_constant=INFINITY.get), sort_keys=True)
            expected.add((f"{benchmark} ({protocol})", path.stem, record))
    decoded = set()
    for row in unpacked(browse.pack(rows_of(stage))):
        record = row["record"] | {"prompt": row["record"]["prompt_beginning"] + row["record"]["prompt"]}
        del record["prompt_beginning"]
        decoded.add((row["task"], row["model"], json.dumps(record, sort_keys=True)))
    assert decoded == expected and len(expected) == 3 * 14 + 4 * 12


def test_prompts_are_cut_before_the_question_even_where_questions_begin_alike(stage: Any) -> None:
    exams = [row for row in rows_of(stage) if row.task == "ceval (fixed)"]
    assert {row.beginning for row in exams} == {f"{subject}{SHOTS}" for subject in SUBJECTS}
    assert all(row.question.startswith("下列关于") for row in exams)
    assert all(row.beginning + row.question == row.record["prompt"] for row in exams)
    assert browse.beginnings([exam("base", "law", 1)]) == [""]
    assert browse.beginnings([answer("base", 1), answer("base", 2)]) == ["", ""]


def test_over_the_budget_whole_items_stay_and_the_page_says_how_many(stage: Any) -> None:
    rows = rows_of(stage)
    whole = len(browse.pack(rows))
    data, kept = browse.fitted(rows, 3, whole * 2 // 3)
    assert len(data) <= whole * 2 // 3 and 0 < len(kept) < len(rows)
    assert len(unpacked(data)) == len(kept)
    items = {row.item for row in kept}
    assert [row for row in rows if row.item in items] == kept, "an item lost a model's record"
    assert {row.task for row in kept} == {row.task for row in rows}
    assert browse.fitted(rows, 3, whole * 2 // 3)[1] == kept != browse.fitted(rows, 4, whole * 2 // 3)[1]
    page = unescape(browse.section(stage, whole * 2 // 3))
    assert f"{len(kept)} of this run's {len(rows)} records are in this page" in page and "seed 3" in page
    here = sum(row.path == "fixed/huatuo/dpo.jsonl" for row in kept)
    assert f"fixed/huatuo/dpo.jsonl</a>: {here} of 12 records" in page
    page = browse.section(stage)
    links = re.findall(r'href="(\.\./06_eval/[^"]*)"', page)
    assert f"All {len(rows)} records" in page and len(links) == 7
    assert "../06_eval/predictions/fixed/ceval/GPT-4%20%280314%29.jsonl" in links
    shutil.rmtree(stage.dir / "06_eval" / "predictions")
    assert "This run has no records: nothing to search." in browse.section(stage)


QUERIES = [
    {"words": ""},
    {"words": "ct检查"},
    {"words": "发热 physician"},
    {"words": "第一题"},
    {"words": "休息1天 头痛1天"},
    {"words": "因为发热"},
    {"words": "(.*"},
    {"words": "", "task": "huatuo (released)"},
    {"words": "", "model": "GPT-4 (0314)"},
    {"words": "下列", "verdict": "unparsed", "subject": "law"},
    {"words": "", "verdict": "right"},
    {"words": "多喝水3", "task": "huatuo (fixed)", "model": "base"},
]
# Records found and the items they are of, counted by hand. "第一题" stands in the shots alone, which would make every
# item of a subject match.
FOUND = [(90, 38), (12, 4), (9, 3), (0, 0), (4, 2), (1, 1), (0, 0), (12, 12), (26, 26), (6, 4), (16, 10), (1, 1)]


# --- in the browser ---------------------------------------------------------------------------------------------------

DRIVER = """
(async () => {
  const root = document.querySelector(".qm-browse"), part = name => root.querySelector(`[data-part="${name}"]`);
  while (part("form").hidden) await new Promise(done => setTimeout(done, 5));
  const told = [];
  for (const query of %s) {
    for (const name of ["task", "model", "verdict", "subject"]) {
      part(name).value = query[name] || "all";
      part(name).dispatchEvent(new Event("change"));
    }
    part("words").value = query.words;
    part("words").dispatchEvent(new Event("input"));
    const cards = [...root.querySelectorAll("article")];
    told.push({status: part("status").textContent, cards: cards.map(card => card.querySelector(".head").textContent),
      hits: [...new Set([...root.querySelectorAll("mark")].map(mark => mark.textContent))],
      text: cards.length ? cards[0].textContent : "", first: part("top").hidden});
  }
  part("task").value = "all"; part("words").value = "onerror"; part("task").dispatchEvent(new Event("change"));
  const hostile = {images: root.querySelectorAll("img, script:not([data-part])").length, title: document.title,
    text: root.querySelector("article").textContent};
  const unnamed = [...root.querySelectorAll("input, select")].filter(field => !field.labels.length).length;
  const width = [document.documentElement.scrollWidth, innerWidth];
  const out = document.createElement("pre");
  out.id = "told";
  out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify({told, hostile, unnamed, width}))));
  document.body.append(out);
})();
"""


def in_chromium(page: Path, width: int) -> tuple[str, str]:
    """(the page after its scripts, what the browser had to say), without a network."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium here: the report's script can only run in a browser")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    flags += ["--enable-logging=stderr", "--v=0", f"--window-size={width},900", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [found, *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, "".join(line for line in done.stderr.splitlines(keepends=True) if "CONSOLE" in line)


def with_script(page: Path, script: str) -> None:
    """Add a script of the test's own, and let the page's policy know its hash."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = page.read_text("utf-8").replace("script-src ", f"script-src 'sha256-{digest}' ")
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")


def test_the_search_finds_what_was_counted_by_hand(stage: Any) -> None:
    page = html.report([html.Section("All", (browse.section(stage),))], stage.dir / "07_case_study" / "r.html", "kept")
    with_script(page, DRIVER % json.dumps(QUERIES))
    dom, console = in_chromium(page, 390)
    assert console == ""
    told = json.loads(base64.b64decode(re.search(r'<pre id="told">([^<]+)</pre>', dom)[1]))
    for (records, items), seen in zip(FOUND, told["told"], strict=True):
        assert seen["status"] == f"{records} of 90 records match, in {items} items."
        assert len(seen["cards"]) == min(items, 5)
    first, ct, _, _, several, explained, *_ = told["told"]
    assert [card.partition(":")[2][:6] for card in first["cards"]] == [f" law-{n}" for n in range(5)]
    for shown in (
        "5 examples before it",
        "[1] cpt.jsonl:7, 9.5: 合同自成立时生效。",
        "prompt, template plain",
        "Answer: A",
        "Read as: B",
        "log p: A -0.10  B -2.00",
    ):
        assert shown in first["text"], shown
    assert "Read as: unparsed" in explained["text"] and "因为发热" in explained["text"]
    assert ct["hits"] == ["CT检查"] and sorted(several["hits"]) == ["休息1天", "头痛1天"]
    assert told["hostile"] == {"images": 0, "title": "kept", "text": told["hostile"]["text"]}
    assert HOSTILE.replace("\x00", r"\x00").replace("\u202e", r"\u202e") in told["hostile"]["text"]
    assert told["unnamed"] == 0
    assert told["width"][0] <= told["width"][1], "the page is wider than its window"


def test_the_script_writes_text_only_and_fetches_nothing() -> None:
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "fetch(", "XMLHttp", "http", "eval("):
        assert way not in browse.SCRIPT
    assert "</" not in browse.SCRIPT
