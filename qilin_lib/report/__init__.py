"""Notebooks 06 and 07: the paper's own numbers, Tables 1-6 beside ours, figures, case study, one-page report."""
