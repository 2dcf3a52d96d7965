.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
LOCK := requirements.lock
TESTS := tests
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TOOLS := backtesting freqtrade nautilus vectorbt

.PHONY: help install demo tools test oldest matrix soak check format lint types contracts lock bench screenshot audit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## install into .venv, exactly what requirements.lock says

$(STAMP): $(LOCK) pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

demo: install ## backfill, update and query against the embedded exchange
	@$(BIN)/etl demo

tools: $(TOOLS:%=.venv-tools/%/.installed) ## install the tools that etl export writes for, so that their tests run

# Each has an environment of its own, because their pins and ours differ. What is listed is what their parts that we use import.
.venv-tools/%/.installed: tests/export/%.txt | $(STAMP)
	@rm -rf $(@D)
	@$(PYTHON) -m venv --without-pip $(@D)
	@$(BIN)/python -m pip --python $(@D)/bin/python install --quiet --no-deps --no-compile --require-hashes --requirement $<
	@$(if $(filter nautilus,$*),$(WITH_ETL))
	@touch $@

# nautilus writes its catalog itself, so etl runs in that environment; .venv has what builds it.
WITH_ETL = $(BIN)/python -m hatchling build -t wheel:editable -d .venv-tools/etl > /dev/null && \
  $(BIN)/python -m pip --python $(@D)/bin/python install --quiet --no-deps --no-index .venv-tools/etl/*.whl

test: install ## run the whole test suite
	$(BIN)/python -m pytest -n 4 --dist worksteal $(TESTS)

oldest: ## run the tests with the oldest dependencies that pyproject.toml allows
	$(MAKE) test VENV=.venv-oldest LOCK=tests/oldest.txt

matrix: oldest ## run them also on the newer Pythons that this machine has
	@for python in python3.12 python3.13; do if $$python -c '' 2> /dev/null; \
	  then $(MAKE) test VENV=.venv-$$python PYTHON=$$python || exit 1; else echo "there is no $$python: not tested on it" >&2; fi; done

soak: install ## long batteries: 500 kills, every system call on the lake disturbed, every fault alone; about an hour
	ETL_SOAK=1 $(BIN)/python -m pytest tests/crash tests/faults -n 2 --dist worksteal

check: lint types contracts audit test ## everything that must be green before a commit

format: install ## rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

contracts: install
	$(BIN)/lint-imports

bench: install ## measure against peers on the same work (installs them into .venv)
	$(BIN)/python -m pip install --quiet "ccxt>=4.5" "python-binance>=1.0.30"
	$(BIN)/python -m benchmarks

screenshot: install ## make docs/report.png anew from a demo, with Chromium
	$(BIN)/python tools/screenshot.py docs/report.png

audit: ## look for known vulnerabilities of what requirements.lock names (in an environment of its own)
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && \
	  .venv-audit/bin/python -m pip install --quiet "pip-audit>=2.9,<3"; }
	@rm -f .venv-audit/found.json
	@.venv-audit/bin/pip-audit --progress-spinner off --disable-pip --require-hashes --requirement requirements.lock \
	  --format json --output .venv-audit/found.json 2> .venv-audit/log; \
	  .venv-audit/bin/python tools/audit.py .venv-audit/found.json .venv-audit/log $$?

lock: ## resolve the dependencies anew into requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url \
	  --group dev pyproject.toml -o requirements.lock
	uv pip compile --resolution lowest-direct --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --group test pyproject.toml -o tests/oldest.txt
	uv pip compile --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url \
	  --extra nautilus pyproject.toml -o tests/export/nautilus.txt
	for tool in backtesting freqtrade vectorbt; do uv pip compile --no-deps --only-binary :all: --python-version 3.11 \
	  --generate-hashes --no-annotate --no-header --no-emit-index-url tests/export/$$tool.in -o tests/export/$$tool.txt; done

clean: ## remove what was installed and cached
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
