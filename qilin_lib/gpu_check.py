"""`python -m qilin_lib.gpu_check [--tiny] [--out FILE.json]`: what a GPU alone can prove (`train.gpu_check`)."""

import sys

if __name__ == "__main__":
    try:
        from qilin_lib.train.gpu_check import main
    except ImportError as missing:
        sys.exit(print(f"gpu_check: skipped, because the Python package {missing.name} is not installed."))
    main(sys.argv[1:])
