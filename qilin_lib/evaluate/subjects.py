"""C-Eval's 52 subjects (Huang et al. 2023, arXiv 2305.08322), from data/ceval_subjects.yaml."""

from __future__ import annotations

from pathlib import Path

from qilin_lib.strict_yaml import read

_SUBJECTS = read(Path(__file__).parent / "data" / "ceval_subjects.yaml")

NAMES: dict[str, str] = {subject: facts["name"] for subject, facts in _SUBJECTS.items()}
CATEGORIES: dict[str, frozenset[str]] = {
    category: frozenset(subject for subject, facts in _SUBJECTS.items() if facts["category"] == category)
    for category in ("stem", "social_science", "humanities", "other")
}
TEST_QUESTIONS: dict[str, int] = {subject: facts["test"] for subject, facts in _SUBJECTS.items()}
"""Questions of the test split, numbered from 0 in each subject."""
HARD = frozenset(subject for subject, facts in _SUBJECTS.items() if facts.get("hard"))
"""C-Eval Hard: the eight subjects of the paper's second average."""
MEDICAL = ("clinical_medicine", "physician", "basic_medicine")
"""The three medical columns of Table 4, in the paper's order."""
