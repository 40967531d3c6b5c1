"""The paper's cells: exactly those that its text and abstracts state, and none from elsewhere."""

from __future__ import annotations

from qilin_lib.report import paper

# Copied from the text and the abstracts, cell by cell: adding one here must mean having read it there.
STATED = {
    (1, "CMD", "samples", 392_000, "paper text §3.1.1"),
    (1, "Total", "size_mb", 3_000, "paper text §3.1.1"),
    (3, "Zhongjing_rlhf", "samples", 20_000, "paper text §3.3.1"),
    (3, "MedicalGPT", "samples", 4_000, "paper text §3.3.1"),
    (3, "Total", "samples", 24_000, "our sum of paper text §3.3.1"),
    (4, "Baichuan-7B", "average", 42.8, "paper text §4.3"),
    (4, "Baichuan-7B", "basic_medicine", 45.1, "paper text §4.3"),
    (4, "ChatGLM-6B", "basic_medicine", 36.6, "paper text §4.3"),
    (4, "Qilin-Med-7B-SFT", "average", 40.1, "paper text §4.3"),
    (5, "ChatGLM-6B", "accuracy", 26, "paper text §4.3"),
    (5, "Vicuna-7B", "accuracy", 5, "paper text §4.3"),
    (5, "Baichuan-7B", "accuracy", 33.5, "v1 abstract"),
    (5, "Qilin-Med-7B-CPT", "accuracy", 38.4, "v1 abstract"),
    (5, "Qilin-Med-7B-SFT", "accuracy", 40.0, "v1 abstract"),
    (5, "Qilin-Med-RAG (v2)", "accuracy", 42.8, "v2 abstract"),
    (6, "Qilin-Med-7B-CPT", "bleu_1", 10.63, "paper text §4.3"),
    (6, "Qilin-Med-7B-SFT", "bleu_1", 12.69, "v1 abstract"),
    (6, "Qilin-Med-7B-SFT", "rouge_1", 24.21, "v1 abstract"),
    (6, "Qilin-Med-7B-DPO", "bleu_1", 16.66, "v1 abstract"),
    (6, "Qilin-Med-7B-DPO", "rouge_1", 27.44, "v1 abstract"),
}


def test_the_known_cells_are_exactly_the_stated_ones() -> None:
    known = {
        (number, row.label, name, cell.value, cell.origin)
        for number, table in paper.TABLES.items()
        for row in table.rows
        for name, cell in row.known.items()
    }
    assert known == STATED


def test_external_spot_values() -> None:
    named = {table.title: table.rows for table in paper.EXTERNAL}
    cmexam = named["CMExam's own results table"]
    assert cmexam["ChatGLM-CMExam"] == [45.3, 45.2, 31.10, 18.94, 43.94, 31.48, 29.39]
    assert cmexam["Human"] == [71.6, *[None] * 6]
    assert named["Huatuo-26M's own generation table (first version)"]["T5 (fine-tuned)"][0] == 26.63
