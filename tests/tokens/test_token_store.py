"""Token stores: the same ids as text by text, whatever reads them, whoever wrote them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.tokens import store
from qilin_lib.tokens.store import Store, rows, temporary, write
from qilin_lib.tokens.template import TEMPLATES, text_ids
from qilin_lib.train.methods import dpo, reward, rl, sft

# Written-out special tokens, an empty text, white space, characters that are not in the vocabulary, several scripts.
ODD = ["</s><reserved_102>咳嗽", "", " \n", "𠮷龘", "aspirin 0.5g\n\n每日 3 次"]


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(itertools.cycle(("user", "assistant")), texts)]  # noqa: B905


@pytest.fixture(scope="module")
def mixed(sentences: Callable) -> list[dict[str, Any]]:
    """Rows of every form, of three sources and both splits."""
    texts = iter([*ODD, *sentences(150, 61)] * 2)
    take = lambda count: [next(texts) for _ in range(count)]  # noqa: E731
    made: list[dict[str, Any]] = []
    for i in range(20):
        made.append({"text": take(1)[0]})
        made.append({"messages": turns(*take(i % 5)), "part": "general" if i % 3 else "medical"})
        asked, good, bad = turns(*take(1 + 2 * (i % 2))), *take(2)
        answers = {
            side: [{"role": "assistant", "content": text}] for side, text in (("chosen", good), ("rejected", bad))
        }
        made.append({"prompt": asked, **answers})
    common = [
        {"id": f"r-{i}", "source": "abc"[i % 3], "split": "heldout" if i % 7 == 0 else "train"} for i in range(60)
    ]
    return [first | second for first, second in zip(common, made, strict=True)]


def ids_of_both(
    row: dict[str, Any], coded: dict[str, Any], tokenizer: Any, limits: SimpleNamespace
) -> Iterator[tuple[Any, Any]]:
    """(what is made of a row's texts, what is made of its stored ids), by everything that trains on such a row."""
    yield [row.get(name, "") for name in ("source", "split", "part")], [coded[n] for n in ("source", "split", "part")]
    if "text" in row:
        yield text_ids(tokenizer, row["text"]), coded["text"].tolist()
    for template in TEMPLATES.values():
        how = (template, tokenizer, limits)
        if "messages" in row:
            yield sft.encode(row["messages"], *how), sft.encode(coded["messages"], *how)
        if "prompt" in row:
            yield dpo.pair(row, *how), dpo.pair(coded, *how)
            yield reward.pair(row, *how), reward.pair(coded, *how)
            yield rl.questions([row], *how, 400), rl.questions([coded], *how, 400)


@pytest.mark.parametrize("size", [(256, 256, 600), (5, 9, 40)])
def test_rows_give_the_ids_that_their_texts_give(size: tuple, mixed: list[dict[str, Any]], tiny_tokenizer: Any) -> None:
    limits = SimpleNamespace(**dict(zip(("max_source_length", "max_target_length", "max_length"), size, strict=True)))
    for row, coded in zip(mixed, temporary(mixed, tiny_tokenizer), strict=True):
        for of_texts, of_ids in ids_of_both(row, coded, tiny_tokenizer, limits):
            assert of_texts == of_ids


def test_a_selection_keeps_numbers_sources_and_lengths(mixed: list[dict[str, Any]], tiny_tokenizer: Any) -> None:
    for values in ({}, {"split": "heldout"}, {"split": "train", "part": "general"}, {"split": "other"}):
        expected = [i for i, row in enumerate(mixed) if all(row.get(name) == value for name, value in values.items())]
        found = temporary(mixed, tiny_tokenizer, **values)
        assert found.numbers.tolist() == expected and len(found) == len(expected)
        assert found.sources().tolist() == [mixed[i]["source"] for i in expected]
        own = [[text for *_, text in store.contents(mixed[i])] for i in expected]
        tokens = [sum(len(text_ids(tiny_tokenizer, text)) for text in texts) for texts in own]
        assert found.lengths().tolist() == tokens
        assert [row["source"] for row in found] == found.sources().tolist()


def test_processes_write_the_same_bytes_as_one_alone_and_count_by_source(
    mixed: list[dict[str, Any]], tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_jsonl(tmp_path / "sft.jsonl", mixed)
    counts = write(tmp_path / "sft.jsonl", tmp_path / "alone", tiny_tokenizer)
    monkeypatch.setattr(store, "BATCH", 700)
    monkeypatch.setattr(store, "SMALL", 0)
    assert write(tmp_path / "sft.jsonl", tmp_path / "many", tiny_tokenizer) == counts
    for path in (tmp_path / "alone").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()
    documents = [row["text"] for row in mixed if "text" in row]
    read = Store(tmp_path / "many").documents(range(57, -1, -3))
    assert [ids.tolist() for ids in read] == [text_ids(tiny_tokenizer, text) for text in documents[::-1]]
    for source in "abc":
        texts = [text for row in mixed if row["source"] == source for *_, text in store.contents(row)]
        tokens = sum(len(text_ids(tiny_tokenizer, text)) for text in texts)
        sizes = {"chars": sum(map(len, texts)), "bytes": sum(len(text.encode()) for text in texts)}
        assert counts[source] == {"samples": 20, "tokens": tokens, **sizes}


def test_the_fast_way_gives_what_transformers_gives_and_leaves_the_tokenizer_as_it_was(
    tiny_tokenizer: Any, sentences: Callable
) -> None:
    texts = [*ODD, *sentences(300, 62), "".join(sentences(400, 63))]
    backend = tiny_tokenizer.backend_tokenizer
    backend.enable_truncation(5)
    backend.encode_special_tokens = False
    found = [row["text"].tolist() for row in temporary([{"text": text} for text in texts], tiny_tokenizer)]
    assert backend.truncation["max_length"] == 5 and not backend.encode_special_tokens
    backend.no_truncation()
    assert found == tiny_tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_a_slow_tokenizer_and_a_large_vocabulary_are_served(tiny_tokenizer: Any) -> None:
    class Slow:
        is_fast = False

        def get_vocab(self) -> dict[str, int]:
            return {"a": 70_000}

        def __call__(self, texts: list[str], **how: Any) -> dict[str, list[list[int]]]:
            assert how == {"add_special_tokens": False, "split_special_tokens": True}
            return {"input_ids": [[ord(letter) for letter in text] for text in texts]}

    found = temporary([{"text": "ab𠮷"}, {"text": ""}], Slow())
    assert [row["text"].tolist() for row in found] == [[97, 98, 0x20BB7], []] and found.ids.dtype == np.uint32
    assert list(temporary([], tiny_tokenizer)) == []


def test_a_job_reads_what_02_wrote_or_its_own_file(tiny_tokenizer: Any, tmp_path: Path) -> None:
    for name, text in (("one", "咳嗽"), ("two", "头痛")):
        files.write_jsonl(tmp_path / f"{name}.jsonl", [{"text": text}])
    write(tmp_path / "two.jsonl", tmp_path / "two", tiny_tokenizer)
    paths = SimpleNamespace(data=tmp_path / "one.jsonl")
    assert rows(paths, tiny_tokenizer)[0]["text"].tolist() == text_ids(tiny_tokenizer, "咳嗽")
    paths.store = tmp_path / "two"
    assert rows(paths, None)[0]["text"].tolist() == text_ids(tiny_tokenizer, "头痛")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"sft.jsonl, line 2: no row of a set \(JSONDecodeError"),
        ("[]", r"sft.jsonl, line 2: no row of a set \(AttributeError"),
        ('{"messages": [{"role": "user"}]}', r"sft.jsonl, line 2: no row of a set \(KeyError: 'content'\)"),
        ('{"text": 7}', r"sft.jsonl, line 2: no row of a set \(TypeError: .*int found"),
        (r'{"text": "\ud83d"}', r"sft.jsonl, line 2: no row of a set \(UnicodeEncodeError"),
    ],
)
def test_what_is_no_row_is_named(line: str, message: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(QilinError, match=r"sft.jsonl does not exist"):
        write(tmp_path / "sft.jsonl", tmp_path / "out", tiny_tokenizer)
    (tmp_path / "sft.jsonl").write_text(f'{{"text": "a"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(QilinError, match=message):
        write(tmp_path / "sft.jsonl", tmp_path / "out", tiny_tokenizer)
    assert not list((tmp_path / "out").iterdir())
