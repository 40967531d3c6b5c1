"""Passages beside the question: a corpus in pieces, found by BM25 over characters and their pairs, and its controls."""
