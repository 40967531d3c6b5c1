"""ChiMed (paper §3.1.1, §3.2.1, §3.3.1): raw folders -> training sets with a ledger."""
