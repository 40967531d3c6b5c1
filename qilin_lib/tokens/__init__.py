"""02: how text becomes tokens. One template for SFT, DPO, evaluation and chat; packing; token counts."""
