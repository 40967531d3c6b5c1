"""Numbers that other projects published, beside Tables 4-6 of the paper but never inside them.

Qilin-Med's baseline rows resemble these, yet where the paper took its cells from is not known, and metric code differs
between projects (tokenisation, smoothing, ROUGE variant): only rows of one table may be compared with each other.
Values are as printed: percent, except Distinct-1 and Distinct-2 of Huatuo-26M, which it prints as fractions. CMExam's
printed standard deviations are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from qilin_lib.report.paper import CEVAL_COLUMNS, CMEXAM_COLUMNS, HUATUO_COLUMNS


@dataclass(frozen=True)
class ExternalTable:
    """A table of another project: `origin` says whose; a row holds one value a column, None where "-" is printed."""

    beside: int
    title: str
    origin: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


CEVAL_README = ExternalTable(
    4,
    "C-Eval, 5-shot test, as Baichuan published it",
    "README of Baichuan-7B (quoted, not checked by us); not the paper's Table 4",
    (CEVAL_COLUMNS["average"], CEVAL_COLUMNS["average_hard"]),
    (
        ("Baichuan-7B", (42.8, 31.5)),
        ("ChatGLM-6B", (34.5, 23.1)),
        ("Ziya-LLaMA-13B-pretrain", (30.2, 22.7)),
        ("BLOOMZ-7B", (35.7, 25.8)),
        ("LLaMA-7B", (27.1, 25.9)),
    ),
)

CEVAL_CATEGORIES = ExternalTable(
    4,
    "C-Eval by category, 5-shot test, as Baichuan published it",
    "README of Baichuan-7B (quoted, not checked by us); not the paper's Table 4",
    ("STEM", "Social science", "Humanities", "Other"),
    (("Baichuan-7B", (38.2, 52.0, 46.2, 39.3)),),
)

CMEXAM_OWN = ExternalTable(
    5,
    "CMExam's own results table",
    "picture docs/overall_comparison.jpg of the CMExam repository (Liu et al. 2023); not the paper's Table 5",
    tuple(CMEXAM_COLUMNS.values()),
    (
        ("GPT-3.5-turbo", (46.4, 46.1, 3.56, 1.49, 33.80, 16.39, 14.83)),
        ("GPT-4", (61.6, 61.7, 0.17, 0.06, 29.74, 14.84, 11.51)),
        ("ChatGLM-6B", (26.3, 25.7, 16.51, 5.00, 35.18, 15.73, 17.09)),
        ("LLaMA-7B", (0.4, 0.3, 11.99, 5.70, 27.33, 11.88, 10.78)),
        ("Vicuna-7B", (5.0, 4.8, 20.15, 9.26, 38.43, 16.90, 16.33)),
        ("Alpaca-7B", (8.5, 8.4, 4.75, 2.50, 22.52, 9.54, 8.40)),
        ("Huatuo-7B", (12.9, 7.0, 0.21, 0.12, 25.11, 11.56, 9.73)),
        ("MedAlpaca-7B", (20.0, 10.7, 0.00, 0.00, 1.90, 0.04, 0.52)),
        ("DoctorGLM-6B", (None, None, 9.43, 2.65, 21.11, 6.86, 9.99)),
        ("PromptCLUE-base-CMExam", (None, None, 18.75, 6.65, 40.88, 21.90, 18.31)),
        ("Bart-base-chinese-CMExam", (None, None, 23.00, 10.35, 44.33, 24.29, 20.80)),
        ("Bart-large-chinese-CMExam", (None, None, 26.37, 11.65, 44.92, 24.34, 21.75)),
        ("BERT-CMExam", (31.8, 31.2, None, None, None, None, None)),
        ("RoBERTa-CMExam", (37.1, 36.7, None, None, None, None, None)),
        ("MedAlpaca-CMExam", (30.5, 30.4, 16.35, 9.78, 44.31, 27.05, 24.55)),
        ("Huatuo-CMExam", (28.6, 29.3, 29.04, 16.72, 43.85, 25.36, 21.72)),
        ("ChatGLM-CMExam", (45.3, 45.2, 31.10, 18.94, 43.94, 31.48, 29.39)),
        ("LLaMA-CMExam", (18.3, 20.6, 29.25, 16.46, 45.88, 26.57, 23.31)),
        ("Alpaca-CMExam", (21.1, 24.9, 29.57, 16.40, 45.48, 25.53, 22.97)),
        ("Vicuna-CMExam", (27.3, 28.2, 29.82, 17.30, 44.98, 26.25, 22.44)),
        ("Random", (3.1, 5.1, None, None, None, None, None)),
        ("Human", (71.6, None, None, None, None, None, None)),
    ),
)

HUATUO_OWN = ExternalTable(
    6,
    "Huatuo-26M's own generation table (first version)",
    "picture img/NLG.png of the Huatuo-26M repository, blob 1f5b9a5 (Li et al. 2023); not the paper's Table 6",
    tuple(HUATUO_COLUMNS.values()),
    (
        ("T5", (0.33, 0.18, 0.12, 0.07, 0.10, 0.67, 0.19, 0.63, 0.01, 0.02)),
        ("T5 (fine-tuned)", (26.63, 16.74, 11.77, 8.46, 11.38, 33.21, 13.26, 24.85, 0.51, 0.68)),
        ("GPT2", (10.04, 4.60, 2.67, 1.62, 3.34, 14.26, 3.42, 12.07, 0.17, 0.22)),
        ("GPT2 (fine-tuned)", (23.42, 14.00, 9.35, 6.33, 9.47, 30.48, 11.36, 23.15, 0.43, 0.58)),
    ),
)

HUATUO_OWN_CURRENT = ExternalTable(
    6,
    "Huatuo-26M's own generation table (current version)",
    'current picture of the Huatuo-26M repository, its "Table 7"; not the paper\'s Table 6',
    tuple(HUATUO_COLUMNS.values()),
    (
        ("Baichuan2-7B-Chat (zero-shot)", (20.73, 11.06, 6.05, 3.38, 5.95, 26.75, 6.83, 17.45, 0.73, 0.92)),
        ("InternLM-7B-Chat", (18.26, 10.00, 5.92, 3.50, 5.49, 27.74, 8.02, 18.12, 0.64, 0.84)),
        ("Qwen-7B-Chat", (18.94, 10.04, 5.58, 3.11, 6.30, 29.03, 7.36, 18.13, 0.58, 0.87)),
        ("ChatGLM3-6B", (14.18, 7.50, 4.16, 2.31, 4.72, 26.44, 6.23, 16.98, 0.54, 0.82)),
        ("HuatuoGPT", (20.59, 11.00, 6.16, 3.44, 6.83, 28.36, 7.72, 16.15, 0.67, 0.93)),
        ("DISC-MedLLM", (18.37, 8.94, 4.48, 2.27, 5.67, 26.92, 5.98, 14.96, 0.70, 0.96)),
        ("ChatGPT", (18.44, 6.95, 2.87, 1.13, 4.87, 19.60, 2.82, 12.46, 0.69, 0.89)),
        ("Baichuan2 + Huatuo-Lite FT", (22.52, 12.43, 7.04, 4.06, 6.99, 28.80, 8.13, 18.53, 0.78, 0.94)),
        ("InternLM + FT", (23.36, 12.99, 7.71, 4.60, 7.53, 30.32, 8.79, 18.95, 0.62, 0.86)),
        ("Qwen + FT", (27.30, 15.08, 8.85, 5.24, 7.82, 29.82, 8.66, 18.63, 0.71, 0.92)),
        ("ChatGLM3 + FT", (25.65, 14.24, 8.38, 4.97, 7.69, 29.37, 8.67, 18.92, 0.75, 0.93)),
        ("HuatuoGPT + FT", (25.39, 13.53, 7.63, 4.35, 7.20, 28.75, 7.87, 18.00, 0.76, 0.95)),
        ("DISC-MedLLM + FT", (21.52, 11.52, 6.37, 3.60, 6.67, 27.99, 7.60, 17.62, 0.82, 0.97)),
    ),
)

TABLES = (CEVAL_README, CEVAL_CATEGORIES, CMEXAM_OWN, HUATUO_OWN, HUATUO_OWN_CURRENT)
