"""What retrieval finds and keeps out, against bm25s, against words, and against planted leaks."""

import json
import os
from pathlib import Path

import bm25s
import jieba
import numpy as np
import pytest

from qilin_lib.chimed import decontaminate, sources
from qilin_lib.chimed.items import items_of
from qilin_lib.chimed.leaks import KINDS, leaks
from qilin_lib.chimed.letters import folded
from qilin_lib.chimed.records import Record, content
from qilin_lib.errors import QilinError
from qilin_lib.retrieval import dense, index, passages
from qilin_lib.sample import raw_dir

SENTENCES = (
    "高血压的治疗包括限盐、减重和药物。",
    "糖尿病的典型症状是多饮、多食、多尿和体重减轻。",
    "支气管哮喘发作时首选吸入沙丁胺醇。",
    "阑尾炎常见转移性右下腹痛，治疗以手术为主。",
    "Vitamin C缺乏引起坏血病。",
)


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    items = [*items_of(raw_dir())]
    stem = tmp_path_factory.mktemp("items") / "benchmarks"
    decontaminate.Index(items).save(stem)
    return stem, items


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "a.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    (folder / "b.jsonl").write_text(json.dumps({"title": "咳嗽", "text": "干咳三周以上应拍胸片。"}), encoding="utf-8")
    return folder


def pairs_of_letters(text):
    (own,) = folded([text])
    return [*own, *(own[at : at + 2] for at in range(len(own) - 1))]


def made_of(folder, shards):
    """An index of texts, by shards."""
    facts = [index.write_shard(folder / f"{n:05d}", texts, [""] * len(texts)) for n, texts in enumerate(shards)]
    names = [f"{n:05d}" for n in range(len(shards))]
    (folder / "index.json").write_text(json.dumps({"terms": sum(facts), "shards": names}), encoding="utf-8")
    return index.Index(folder)


@pytest.mark.parametrize("cut", [5, 2, 1])
def test_the_scores_are_those_of_bm25s_over_the_whole_corpus_however_it_is_cut(tmp_path, cut):
    own = made_of(tmp_path, [SENTENCES[at : at + cut] for at in range(0, len(SENTENCES), cut)])
    oracle = bm25s.BM25(k1=index.K1, b=index.B)
    oracle.index([pairs_of_letters(text) for text in SENTENCES], show_progress=False)
    for query in ("糖尿病有什么症状", "治疗治疗高血压", "ＶＩＴＡＭＩＮ　ｃ"):
        np.testing.assert_allclose(own.scores(query), oracle.get_scores(pairs_of_letters(query)), atol=1e-5)


def test_nothing_is_found_that_shares_nothing_and_equals_come_in_order(tmp_path):
    own = made_of(tmp_path, [["肺炎", "胃炎"], ["肺炎", "骨折"]])
    assert [hit.number for hit in own.search("肺炎", 9)] == [0, 2, 1]
    assert own.search("xyz", 3) == own.search("！？", 3) == own.search("", 3) == own.search("肺炎", 0) == []


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_shard_whose_documents_all_hold_test_items_takes_nothing_from_the_others(tmp_path, place):
    shards = [SENTENCES[:2], SENTENCES[2:]]
    whole = made_of(tmp_path, shards).search("高血压和阑尾炎", 9)
    shards.insert(place, ())
    (tmp_path / "cut").mkdir()
    assert len(whole) > 1 and made_of(tmp_path / "cut", shards).search("高血压和阑尾炎", 9) == whole


@pytest.mark.parametrize("text", ["", "。", "短句。", "一" * 1000, "一二三，" * 300, "病人咳嗽。" * 200, "a b " * 500])
def test_passages_lose_no_letter_and_keep_to_their_length(text):
    pieces = passages.passages(text)
    assert all(0 < len(piece) <= passages.PASSAGE_CHARS for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_a_folder_is_read_to_its_depth_and_what_nothing_reads_is_counted(corpus, benchmarks, tmp_path):
    deep = corpus / "呼吸" / "成人" / "en"
    deep.mkdir(parents=True)
    (deep / "a.txt").write_text("大叶性肺炎常见铁锈色痰。", encoding="utf-8")
    (corpus / "c.jsonl").write_text('{"title": "无正文"}\n', encoding="utf-8")
    # Half of a surrogate pair is valid JSON, and a control sequence is no text.
    (deep / "b.jsonl").write_text('{"text": "百日咳有\\ud83d鸡鸣样\\u001b[31m回声。"}', encoding="utf-8")
    (corpus / "notes.md").write_text("# 胃炎", encoding="utf-8")
    (corpus / "nothing.txt").write_text("", encoding="utf-8")
    own = index.build(corpus, tmp_path / "out", benchmarks[0], 0.5, workers=1, show=lambda line: None)
    assert [hit.origin for hit in own.search("铁锈色痰", 1)] == ["呼吸/成人/en/a.txt:1"]
    assert [hit.origin for hit in own.search("咳嗽应做什么检查", 1)] == ["b.jsonl:1"]
    (whoop,) = own.search("鸡鸣样回声", 1)
    assert whoop.text == "百日咳有?鸡鸣样[31m回声。"
    left_out = own.facts["left_out"]
    assert [*left_out.values()] == [1, 1, 1] and {"not read: missing field", "not read: empty file"} < left_out.keys()
    assert any("jsonl" in reason for reason in left_out), left_out


def test_a_killed_build_goes_on_with_its_shards_and_any_number_of_workers_gives_the_same(
    corpus, benchmarks, tmp_path, monkeypatch
):
    monkeypatch.setattr(index, "SHARD_CHARS", 20)
    whole = index.build(corpus, tmp_path / "one", benchmarks[0], 0.5, workers=1, show=lambda line: None)
    assert len(whole.facts["shards"]) > 1
    written = []
    original = index.write_shard
    monkeypatch.setattr(index, "write_shard", lambda stem, *rest: written.append(stem) or original(stem, *rest))
    for path in (tmp_path / "one").glob("00001*"):
        path.unlink()
    (tmp_path / "one" / "index.json").unlink()
    again = index.build(corpus, tmp_path / "one", benchmarks[0], 0.5, workers=1, show=lambda line: None)
    assert written == [tmp_path / "one" / "00001"]
    monkeypatch.undo()
    monkeypatch.setattr(index, "SHARD_CHARS", 20)
    two = index.build(corpus, tmp_path / "two", benchmarks[0], 0.5, workers=2, show=lambda line: None)
    assert two.facts == again.facts == whole.facts
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_corpus_without_a_passage_is_refused_by_name(benchmarks, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "book.pdf").write_bytes(b"%PDF")
    with pytest.raises(QilinError, match=f"retrieval: corpus: .*{folder}.*(no folder|not read: not )"):
        index.build(tmp_path / folder, tmp_path / "out", benchmarks[0], 0.5, workers=1)


def test_no_passage_gives_a_test_item_away_in_any_of_the_known_ways(corpus, benchmarks, tmp_path):
    stem, items = benchmarks
    planted = [(kind, content(payload)) for kind, _, payload in leaks(items, 17, 20)]
    assert len({kind for kind, _ in planted}) >= 0.8 * len(KINDS)
    rows = [json.dumps({"text": text}, ensure_ascii=False) for _, text in planted]
    (corpus / "cpt.jsonl").write_text("\n".join([*rows, json.dumps({"text": SENTENCES[0]})]), encoding="utf-8")
    own = index.build(corpus, tmp_path / "out", stem, 0.5, workers=1, show=lambda line: None)
    missed = [planted[int(own.hit(n).origin.partition(":")[2]) - 1] for n in range(len(own) - 1)]
    assert len(missed) <= 0.01 * len(planted), missed
    assert own.hit(len(own) - 1).text == SENTENCES[0]
    assert sum(own.facts["left_out"].values()) >= len(planted) - len(missed)


def test_both_rankings_together_stand_by_reciprocal_ranks(tmp_path):
    assert [number for number, _ in dense.fused([[3, 1, 2], [1, 9]], 3)] == [1, 3, 9]
    own = made_of(tmp_path, [["肺炎", "胃炎"], ["骨折"]])
    axes = {"肺炎": 0, "胃炎": 1, "骨折": 2}
    kept = dense.vectors(own, lambda texts: np.eye(3)[[axes[text] for text in texts]], tmp_path / "v.npy", at_once=2)
    query = np.array([0.1, 0.9, 0.2], dtype=np.float32)
    assert [number for number, _ in dense.nearest_vectors(kept, query, 2, at_once=2)] == [1, 2]


@pytest.mark.slow
def test_public_questions_find_their_answers_more_often_than_by_words(tmp_path):
    raw = Path(os.environ.get("QILIN_RAW_DIR", "/nowhere"))
    if not (raw / "huatuo26m_test").is_dir():
        pytest.skip("QILIN_RAW_DIR has no huatuo26m_test")
    reads = [unit.read for unit in sources.units(sources.BY_NAME["huatuo26m_test"], raw, ("eval",))]
    questions, answers = zip(*(read.payload.turns[:2] for read in reads if isinstance(read, Record)), strict=True)
    own = made_of(tmp_path, [answers])
    words = bm25s.BM25(k1=index.K1, b=index.B)
    words.index([jieba.lcut(answer) for answer in answers], show_progress=False)

    def found(scores):
        return [n in [number for number, _ in index.best(scores(question), 10)] for n, question in enumerate(questions)]

    gain = np.subtract(found(own.scores), found(lambda text: words.get_scores(jieba.lcut(text))), dtype=float)
    half = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
    assert gain.mean() >= 0.04 and gain.mean() - half > 0
