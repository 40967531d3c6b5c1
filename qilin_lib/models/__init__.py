"""02-06: base models, loading in fp32, bf16 or NF4, adapters and their merge."""
