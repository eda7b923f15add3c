# `make demo` and `make test` create the environment themselves; `. .venv/bin/activate` puts `fpm` on the PATH.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEV_INSTALLED := $(VENV)/.installed-dev
KERNELS := $(VENV)/.kernels
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo install-note test test-long torture torture-depth gpu bench bench-compare lint docs clean

demo: install-note $(KERNELS)  ## Train a 128-layer CPM-X-L proxy on Chinese text, evaluate it, generate text, report the cost.
	@FPM=$(BIN)/fpm sh demo.sh

install-note:
	@[ -f $(INSTALLED) ] || echo "Installing fpm with torch, deepspeed, datasets and what they need into $(VENV):" \
		"2 GB, two to five minutes. Nothing is installed elsewhere."

test: $(DEV_INSTALLED) $(KERNELS)  ## The default tests, a file at a time on each of two processes.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-long: $(DEV_INSTALLED) $(KERNELS)  ## The tests that take minutes: many layers, several seeds.
	$(BIN)/python -m pytest -m long

# One test on each core. TORTURE_KILLS and TORTURE_FUZZ set counts; TORTURE_SLACK adds seconds to time limits.
torture: $(DEV_INSTALLED)  ## Kills, crashes, full disks, flipped bits, hostile files: about 30 minutes.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "torture or row" --numprocesses 2 --dist load --maxschedchunk 1

torture-depth: $(DEV_INSTALLED)  ## The deepest proxies train over three seeds, a known-bad setting does not: 45 minutes.
	$(BIN)/python -m pytest -m long tests/engine/test_learning.py

gpu: $(DEV_INSTALLED)  ## The first ten minutes on a machine with GPUs: what works, and figures beside the plan, in gpu-results/.
	$(BIN)/python -m benchmarks.gpu

# ONLY="step kernels" measures these parts again; without it, parts already measured at this commit are kept.
# DATA is the folder of public texts that two parts need, by default ../shared/data.
bench: $(DEV_INSTALLED) $(KERNELS)  ## Every stage beside its peer; wants two quiet cores.
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.suite $(if $(ONLY),--only $(ONLY)) $(if $(DATA),--data $(DATA))

bench-compare:  ## What became slower from one result to another: make bench-compare A=old.json B=new.json
	$(BIN)/python -m benchmarks.suite --compare $(A) $(B)

lint: $(DEV_INSTALLED)  ## Linter, formatter, type check.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(INSTALLED)  ## The documentation as a site in site/; broken links are errors.
	$(BIN)/pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict --quiet

clean:  ## Remove the environment, the demo folder and caches.
	rm -rf $(VENV) demo site .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(DEV_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Without a compiler everything runs through the reference operators, which the build says once.
$(KERNELS): $(wildcard kernels/*/cpu* kernels/*/*.h) | $(INSTALLED)
	@$(BIN)/fpm kernels build || echo "Continuing with the reference operators."
	@touch $@
