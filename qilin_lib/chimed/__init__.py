"""ChiMed (paper §3.1.1, §3.2.1, §3.3.1).

Raw folders -> clean, de-identified, deduplicated, decontaminated training sets with a ledger.
"""
