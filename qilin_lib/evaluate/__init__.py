"""Notebook 06: a benchmark yields items, a backend answers them, scorers turn the records into metrics."""
