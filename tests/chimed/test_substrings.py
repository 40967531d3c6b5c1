"""Repeated substrings equal a brute-force search, whatever the chunks, ranges and workers."""

from __future__ import annotations

import itertools
import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qilin_lib.chimed import substrings
from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.substrings import cut, repeated_spans, whole_sentences, write_shard


def oracle(texts: list[str], length: int) -> list[list[tuple[int, int]]]:
    """One window after the other, one character after the other."""
    seen: set[str] = set()
    found = []
    for text in texts:
        gone = [False] * len(text)
        for start in range(len(text) - length + 1):
            if text[start : start + length] in seen:
                gone[start : start + length] = [True] * length
            seen.add(text[start : start + length])
        edges = [at for at, (one, two) in enumerate(itertools.pairwise([False, *gone, False])) if one != two]
        found.append(list(zip(edges[::2], edges[1::2], strict=True)))
    return found


def spans_of(folder: Path, corpus: list[list[str]], length: int, workers: int = 1) -> list[list[tuple[int, int]]]:
    """The spans of every text, of as many as there are in each shard."""
    folder.mkdir(exist_ok=True)
    stems = [folder / f"{number:05d}" for number in range(len(corpus))]
    for stem, texts in zip(stems, corpus, strict=True):
        write_shard(stem, texts)
    with Pool(workers) as pool:
        found = list(repeated_spans(stems, length, folder / "work", pool, lambda line: None))
    assert [len(shard) for shard in found] == [len(texts) for texts in corpus]
    return [spans for shard in found for spans in shard]


def expected(corpus: list[list[str]], length: int) -> list[list[tuple[int, int]]]:
    return oracle([text for texts in corpus for text in texts], length)


texts = st.one_of(
    st.text(alphabet="ab", max_size=60),
    st.text(alphabet="医生\n𠮷a", max_size=40),
    st.lists(st.sampled_from(["头痛三天", "无发热。", "\n", "𠮷野家B超", "ab"]), max_size=12).map("".join),
)
corpora = st.lists(st.lists(texts, max_size=5), max_size=5)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpora, st.integers(2, 12), st.sampled_from([8, 64, 1 << 15]), st.sampled_from([4, 20, 1 << 22]))
def test_equals_brute_force(tmp_path, corpus, length, chunk, windows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(substrings, "CHUNK", chunk)
        patch.setattr(substrings, "RANGE", windows)
        assert spans_of(tmp_path, corpus, length) == expected(corpus, length)


@pytest.mark.slow
def test_number_of_workers_and_chunks_change_nothing(tmp_path, monkeypatch):
    """Random texts that share sentences, some of them with one character changed."""
    dice = random.Random(1)
    sentences = ["".join(dice.choices("头痛发热咳嗽三天无汗𠮷，", k=dice.randint(5, 60))) for _ in range(80)]
    made = ["".join(dice.choices(sentences, k=dice.randint(0, 8))).replace("痛", "甲", n % 3) for n in range(400)]
    corpus = [made[at : at + 40] for at in range(0, 400, 40)]
    two = spans_of(tmp_path / "two", corpus, 10, workers=2)
    assert two == expected(corpus, 10) and sum(map(len, two)) > 100
    for name, value in {"CHUNK": 500, "RANGE": 4000}.items():
        monkeypatch.setattr(substrings, name, value)
    assert spans_of(tmp_path / "one", corpus, 10) == two


# --- extremes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "corpus",
    [
        [],
        [[]],
        [[], [], ["", ""], []],
        [["\n"], ["\n\n\n\n", "\n\n\n"]],
        [["短", "短文", "短文本"]],
        [[], ["𠮷𠮷野家𠮷𠮷野家"], [], ["", "a𠮷𠮷野家𠀀", ""], ["\U0010ffff" * 9, "é" * 5]],
        [["头痛三天，"], ["无发热。"], ["三天，无发"]],  # never across the border of texts
        [["头痛三天，", "无发热。"], ["三天，无发"]],
    ],
)
@pytest.mark.parametrize("length", [2, 3, 4, 50])
def test_small_and_odd(tmp_path, corpus, length):
    assert spans_of(tmp_path, corpus, length) == expected(corpus, length)


@pytest.mark.slow
def test_a_phrase_two_hundred_thousand_times(tmp_path):
    """Linear: 200,000 squared comparisons would not end."""
    phrase = "".join(random.Random(0).choices("头痛发热咳嗽三天无汗，", k=80))
    numbered = [f"{number:08d}{phrase}" for number in range(200_000)]
    found = spans_of(tmp_path, [numbered[at : at + 20_000] for at in range(0, 200_000, 20_000)], 60, workers=2)
    # Digits are repeated as far as an earlier number has the same at its end: all but the first that counts.
    assert found == [[]] + [[(9 - len(str(number)), 88)] for number in range(1, 200_000)]


SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6)


@given(st.lists(st.sampled_from([*"甲乙3.。！”", "\n"]), min_size=1, max_size=60).map("".join), SPANS, st.booleans())
@example("甲。乙\n丙。", [(0, 7)], True)
@settings(max_examples=500, deadline=None)
def test_whole_sentences_leave_lines_of_whole_sentences(text, pairs, headed):
    text = re.sub("\n+", "\n", text).strip("\n") or "甲"
    inside = {at for start, end in pairs for at in range(start, min(end, len(text)))}
    edges = [at for at in range(len(text) + 1) if (at in inside) != (at - 1 in inside)]
    spans = list(zip(edges[::2], edges[1::2], strict=True))
    heading = text.find("\n") + 1 if headed else 0
    cuts = whole_sentences(text, spans, heading)
    assert all(one[1] < two[0] for one, two in itertools.pairwise(cuts)) and all(heading <= start for start, _ in cuts)
    removed = {at for start, end in cuts for at in range(start, end)}
    assert all(at in inside or text[at] == "\n" for at in removed)
    left = cut(text, cuts)
    assert left.startswith(text[:heading].rstrip("\n"))
    assert "\n\n" not in left and (left == text[:heading] or left == left.strip("\n"))
    rest = iter(text.split("\n"))
    for line in filter(None, left.split("\n")):
        assert any(is_part(parts(line), parts(other)) for other in rest)
    # Nothing that could go stays: no whole sentence of the rest lies in a span.
    for line in re.finditer("[^\n]+", text):
        for sentence in re.finditer(SENTENCE, line[0]) if line.start() >= heading else ():
            start, end = (line.start() + at for at in sentence.span())
            assert (start in removed) == (set(range(start, end)) <= inside)


SENTENCE = "[^。！]*[。！]+”*|[^。！]+"


def parts(line):
    return re.findall(SENTENCE, line)


def is_part(some, others):
    rest = iter(others)
    return all(sentence in rest for sentence in some)


# --- real text --------------------------------------------------------------------------------------------------------


def test_real_text_equals_brute_force(tmp_path):
    """Lines of real files, then the second half of them again as shuffled sentences."""
    raw, size = os.environ.get("QILIN_RAW_DIR"), 700_000
    if not raw:
        pytest.skip("QILIN_RAW_DIR is not set: no real text here")
    lines: list[str] = []
    for path in sorted(Path(raw).rglob("*.jsonl")) + sorted(Path(raw).rglob("*.txt")):
        lines += path.read_bytes()[: size // 3].decode("utf-8", errors="ignore").split("\n")
        if sum(map(len, lines)) > size:
            break
    sentences = "".join(lines[len(lines) // 2 :]).split("。")
    random.Random(3).shuffle(sentences)
    lines += ["。".join(sentences[at : at + 9]) for at in range(0, len(sentences), 9)]
    corpus = [lines[at : at + 300] for at in range(0, len(lines), 300)]
    found = spans_of(tmp_path, corpus, 50, workers=2)
    assert found == expected(corpus, 50)
    assert sum(map(len, found)) > 100
