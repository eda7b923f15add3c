# Two commands need no other set-up: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEV_INSTALLED := $(VENV)/.installed-dev
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-long torture torture-depth lint clean

demo: $(INSTALLED)  ## Train a 128-layer CPM-X-L proxy on real Chinese text, score it, let it speak, account for it.
	@FPM=$(BIN)/fpm sh demo.sh

test: $(DEV_INSTALLED)  ## The default tests.
	$(BIN)/python -m pytest

test-long: $(DEV_INSTALLED)  ## The checks that take minutes: many layers, several seeds.
	$(BIN)/python -m pytest -m long

# A row on each core; TORTURE_KILLS=10000, TORTURE_FUZZ=1000000 and TORTURE_SLACK=3 (seconds, on a busy machine) change rows.
torture: $(DEV_INSTALLED)  ## Kills, crashes, full disks, flipped bits, hostile files: about 30 minutes.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "torture or row" --numprocesses 2 --dist load --maxschedchunk 1

torture-depth: $(DEV_INSTALLED)  ## The deepest proxies learn, over three seeds, a bad setting does not: 45 minutes.
	$(BIN)/python -m pytest -m long tests/engine/test_learning.py

lint: $(DEV_INSTALLED)  ## Linter, formatter, type check.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:  ## Remove the environment, the demo's folder and caches.
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(DEV_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
