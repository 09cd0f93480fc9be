# Two commands for a newcomer: `make run` and `make test`. Everything else is here too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TESTS ?= tests

.PHONY: help install run test lint format types bench wheel clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## the virtual environment with everything, from the package registry

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "Python 3.11 to 3.13 is needed; say make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

run: $(STAMP) ## train GLASS on the built-in demo data set; a table and a page of it (minutes)
	$(BIN)/adbench train experiment=quickstart
	$(BIN)/adbench report runs=outputs/glass/demo

test: $(STAMP) lint types ## lint, types and the whole suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(TESTS)

lint: $(STAMP) ## format, lint, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite files in the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP) ## type checker
	$(BIN)/mypy

bench: $(STAMP) ## the timings that the READMEs quote
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/synthesis.py
	$(BIN)/python benchmarks/glass.py

wheel: $(STAMP) ## build the wheel into dist/
	$(BIN)/python -m build --wheel

clean: ## delete environment, caches and builds; keeps data and outputs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
