# Two commands for a newcomer: `make run` and `make test`. Everything else is here too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TESTS ?= tests
LOWEST_EXTRAS := export search serve tensorboard
LOWEST_TESTS ?= tests/backbones tests/cli tests/conformance tests/data tests/deploy tests/metrics tests/runs tests/synthesis tests/training

.PHONY: help install run test test-long test-lowest lint format types bench docs wheel clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

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

docs: $(STAMP) ## the documentation as a site: site/index.html
	$(BIN)/python -m docs.generate
	$(BIN)/sphinx-build -q -W -c docs . site

test-long: $(STAMP) ## the tests that take minutes each and that `make test` leaves out
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long $(TESTS)

test-lowest: ## the lowest versions that pyproject.toml promises, in .venv-lowest: most tests
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) -m tests.release.lowest $(LOWEST_EXTRAS) > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet -c .venv-lowest/lowest.txt -e '.[export,search,serve,tensorboard]' \
	  pytest pytest-timeout hypothesis 'scikit-image>=0.25'
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -m 'not slow and not long' $(LOWEST_TESTS)

wheel: $(STAMP) ## build wheel and sdist into dist/
	$(BIN)/python -m build

clean: ## delete environment, caches and builds; keeps data and outputs
	rm -rf $(VENV) .venv-lowest site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
