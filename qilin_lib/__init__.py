"""A reproducibility kit for Qilin-Med (arXiv 2310.09089): ChiMed data, DCPT, SFT, DPO, evaluation, report."""

__version__ = "0.1.0"
