"""ChiMed-GPT's published numbers as data, as the README of its repository prints them (arXiv 2311.06025).

Of the paper itself the abstract alone was at hand. Values are in percent. Each table maps a model to its cells, and
every cell keeps the README's own digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qilin_lib.report.paper import Cell

ORIGIN = "README of synlp/ChiMed-GPT"
MODELS = (
    "GPT-3.5",
    "GPT-4",
    "Ziya-v1",
    "Ziya-v2",
    "Baichuan",
    "Taiyi",
    "MedicalGPT (Z)",
    "MedicalGPT (B)",
    "ChiMed-GPT",
)
BENCHMARKS = ("ccks2019", "chimst", "ceval", "cmmlu", "medqa")
"""Our names of the README's benchmarks; F1 of the first two, accuracy of the others."""
METRICS = ("B-1", "B-2", "R-1", "R-2", "R-L")
"""The README's names. Its code computes BLEU-2 and BLEU-3 under the first two (evaluate.variants.README_METRICS)."""
CEVAL_ITEMS = 41
"""Validation items of clinical_medicine and basic_medicine."""

Published = Mapping[str, Mapping[str, Cell]]
"""Model -> column -> cell."""


def _published(columns: Sequence[str], rows: str) -> Published:
    """One line a model, in the order of MODELS."""
    lines = [line.split() for line in rows.strip().splitlines()]
    return {
        model: {name: Cell(float(text), ORIGIN, text) for name, text in zip(columns, line, strict=True)}
        for model, line in zip(MODELS, lines, strict=True)
    }


RESULTS = _published(
    BENCHMARKS,
    """
    31.42 32.15 56.58 49.91 44.50
    41.37 41.25 71.29 69.55 67.99
    25.31 22.26 36.59 29.07 12.50
    27.84 25.76 39.02 49.06 13.00
    24.14 21.20 41.46 45.28 13.00
    30.90 30.55 48.78 45.20 39.20
    29.59 28.12 48.78 34.56 25.99
    23.80 26.16 39.02 43.82 18.50
    40.82 41.04 68.29 52.92 44.50
    """,
)
"""Named entities and multiple choice."""

CHIMED_QA = _published(
    METRICS,
    """
    39.15 32.85 26.61 7.31 16.84
    33.61 28.27 26.51 7.13 16.63
    6.18 5.77 18.59 3.94 12.66
    38.41 31.90 26.91 7.90 18.67
    5.81 5.25 16.91 3.01 11.30
    11.73 9.96 21.76 5.26 15.46
    39.02 32.35 26.76 8.10 18.16
    5.82 5.26 16.61 2.94 11.11
    44.58 37.22 27.11 8.89 19.86
    """,
)
"""Answers to the questions of ChiMed, whose data go out by signed contract only."""

MC_DIALOGUE = _published(
    METRICS,
    """
    24.29 20.17 20.64 8.39 17.14
    18.58 15.76 18.92 6.62 14.55
    15.85 11.75 9.92 3.04 9.02
    14.21 10.99 12.20 4.45 10.61
    3.44 1.61 3.87 0.34 3.49
    5.81 4.67 14.23 4.55 11.99
    20.26 16.42 17.51 5.42 14.21
    3.94 2.19 4.34 0.13 3.50
    33.14 30.86 43.43 34.91 42.16
    """,
)
"""The doctor's last turn in MC, the dialogues of Chunyu."""

ABOUT = (
    f"Published: {ORIGIN}; the paper itself was not at hand. Its code (IDEA-CCNL/Fengshenbang-LM, branch dev_bio) lets "
    "local models sample with top_p 0.85 at temperature 1 and GPT at 0.2; the others get five examples, ChiMed-GPT "
    "none for entities and dialogue. Which checkpoint is the published model is not known."
)
CEVAL_NOTE = (
    f"C-Eval here is clinical_medicine and basic_medicine, validation split, {CEVAL_ITEMS} items in one pot. Every "
    f"published value but GPT-3.5's and GPT-4's is k of {CEVAL_ITEMS} to two decimals (15 for Ziya-v1 to 28 for "
    "ChiMed-GPT), so one item is 2.4 points. Its training data name a file of C-Eval and CMMLU items; of which split, "
    "is not known."
)
ENTITIES_NOTE = (
    "Published F1: micro, over (entity, type) pairs, on the first 200 texts of CCKS-2019's test split and the first "
    "100 of ChiMST's."
)
METRICS_NOTE = (
    "B-1 and B-2 are the README's names of what its code computes as BLEU-2 and BLEU-3, by nltk's corpus_bleu with "
    "weights (.5, .5) and (.333, .333, .334), on a string with a space on both sides of every Chinese character: the "
    "spaces count as tokens, and any two Chinese texts share them. R-1, R-2, R-L: average of the package rouge."
)
TRUE_NOTE = (
    "The BLEU-1 and BLEU-2 columns are what those names mean elsewhere (nltk's corpus_bleu): of the same string, and "
    "of its characters without spaces. Nobody published them."
)
