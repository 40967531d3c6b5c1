"""The reader of attitude scales: what it takes, and one sentence for each thing it does not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import scales

SMALL: dict[str, Any] = {
    "name": "small",
    "title": "Small",
    "citation": "none",
    "licence": "CC0-1.0",
    "language": "zh",
    "instruction": "是否同意。\n{options}\n{item}",
    "options": ["同意", "说不清", "不同意"],
    "reversed": [7],
    "high_total": "more",
    "low_total": "less",
    "items": [
        {"number": 3, "text": "甲句。", "subscale": "one", "paraphrases": ["乙句。"]},
        {"number": 7, "text": "丙句。", "subscale": "two"},
    ],
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], scales.Scale]:
    """`read(content)`: the scale of a YAML file with that content, or with that text."""

    def made(content: Any) -> scales.Scale:
        path = tmp_path / "own.yaml"
        text = content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return scales.read(str(path))

    return made


def changed(**changes: Any) -> dict[str, Any]:
    return deepcopy(SMALL) | changes


def with_item(place: int, **changes: Any) -> dict[str, Any]:
    content = deepcopy(SMALL)
    content["items"][place] |= changes
    return content


def test_a_scale_is_read_with_its_arithmetic(read: Callable):
    scale = read(SMALL)
    first, second = scale.items
    assert (first.number, first.wordings, first.subscale) == (3, ("甲句。", "乙句。"), "one")
    assert (second.number, second.wordings) == (7, ("丙句。",))
    assert (scale.range, scale.midpoint) == ((2, 6), 4)
    assert [scale.points(first, n) for n in (1, 2, 3)] == [1, 2, 3]
    assert [scale.points(second, n) for n in (1, 2, 3)] == [3, 2, 1]
    assert [scale.always(n) for n in (1, 2, 3)] == [4, 4, 4]
    assert read(changed(reversed=[])).always(3) == 6
    assert read(changed(high_total="other")).sha256 != scale.sha256


FAULTS: dict[str, tuple[Any, str]] = {
    "no YAML": ("name: [", r"own.yaml, line 1: not valid YAML"),
    "key twice": ("name: a\nname: b\n", r"own.yaml, line 2: key 'name' stands twice"),
    "unknown key": (changed(optoins=[]), r"optoins = \[\]: unknown key \(did you mean 'options'\?\)"),
    "name": (changed(name="a b/c"), r"name = 'a b/c': is no file name; nearest valid: 'a-b-c'"),
    "no place for options": (changed(instruction="{item}"), r"instruction = .*: holds \{options\} 0 times"),
    "options alike": (changed(options=["是", "否", "是 "]), r"options = .*: '是' stands there twice"),
    "item key": (with_item(1, paraphrase=[]), r"items.1.paraphrase = \[\]: unknown key \(did you mean 'paraphrases'"),
    "paraphrase again": (with_item(0, paraphrases=["甲句。"]), r"items.0 = .*a paraphrase repeats the statement"),
    "reversed no item": (changed(reversed=[6]), r"reversed names 6, which is no item; nearest valid: 7"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_sentence_with_its_place(read: Callable, fault: str):
    content, said = FAULTS[fault]
    with pytest.raises(QilinError, match=said) as error:
        read(content)
    assert "own.yaml" in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_scale_names_the_nearest_and_a_wrong_encoding_its_byte(tmp_path: Path):
    with pytest.raises(QilinError, match=r"bias.scales names 'exampel' \(did you mean 'example'\?\)"):
        scales.read("exampel")
    path = tmp_path / "gbk.yaml"
    path.write_bytes("name: 量表".encode("gbk"))
    with pytest.raises(QilinError, match="gbk.yaml, byte 6: not UTF-8"):
        scales.read(str(path))


def test_the_27_item_cami_converts_and_reads(read: Callable):
    """The items of a public repository, English; they stay outside the kit."""
    root = os.environ.get("QILIN_RAW_DIR")
    if root is None or not (Path(root) / "attitude_scales" / "cami27_items.json").exists():
        pytest.skip("QILIN_RAW_DIR is not set, or holds no attitude_scales/cami27_items.json")
    found = json.loads((Path(root) / "attitude_scales" / "cami27_items.json").read_text(encoding="utf-8"))
    options = [line.partition("- ")[2] for line in found["response"]]
    # Of this test: statements 4 to 10 and 19 to 24 speak for patients, and 27 does.
    friendly = [*range(4, 11), *range(19, 25), 27]
    content = changed(
        name="cami27",
        language="en",
        instruction="Do you agree?\n{options}\n{item}",
        options=options,
        reversed=friendly,
        items=[{"number": n, "text": text} for n, text in enumerate(found["items"], start=1)],
    )
    scale = read(content)
    assert scale.range == (27, 135) and scale.options[0] == "Agree" and len(scale.options) == 5
    assert scale.items[3].wordings == ("Mental illness is an illness like any other.",)
    assert scale.always(1) == 13 * 1 + 14 * 5 and scale.always(3) == scale.midpoint
