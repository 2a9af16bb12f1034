# Everything a newcomer or CI needs; `make` alone lists it. The virtual environment is made here and kept in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Of `make chaos`: how long, which faults in which order, which kinds of them (all, none, or some by comma).
MINUTES ?= 3
SEED ?= 1
FAULTS ?= all

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench chaos clean

help:  ## Show this list.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /make \1\t/' | expand -t 14

demo: $(VENV)/.local  ## Bring up the whole mesh on this machine and tour it (ARGS=--once ends after the tour).
	$(BIN)/mesh-local demo $(ARGS)

test: $(VENV)/.dev  ## Run all tests, those against real mongods too (ARGS="-k regions").
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev  ## Check format, style, types, layers and generated files.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy $(wildcard scripts/*.py) $(wildcard scripts/nspawn_lab) $(wildcard ansible/filter_plugins/*.py)
	$(BIN)/mypy scripts/wheelhouse
	$(if $(wildcard bench/__init__.py),$(BIN)/mypy -p bench)
	$(BIN)/mypy --explicit-package-bases $(filter-out tests/chaos/test_%,$(wildcard tests/chaos/*.py))
	cd ansible && ../$(BIN)/ansible-lint --offline
	$(if $(wildcard tests/test_layers.py),$(BIN)/python -m pytest -q tests/test_layers.py)
	$(BIN)/python scripts/unasync.py --check

bench: $(VENV)/.dev  ## Measure the broker's cost, and the mesh against bare pymongo (ARGS go to the benchmark).
	$(if $(wildcard bench/__main__.py),$(BIN)/python -m bench $(ARGS),$(BIN)/python bench/run.py $(ARGS))

chaos: $(VENV)/.dev  ## Break a whole mesh again and again, check every promise (MINUTES=30 SEED=7; FAULTS=none soaks).
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED) --faults "$(FAULTS)" \
	  $(if $(filter none,$(FAULTS)),--load 0.8) $(ARGS)

clean:  ## Remove what was built, the virtual environment too.
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis bench/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: what the environment holds is as new as pyproject.toml.
$(VENV)/.local: pyproject.toml | $(VENV)/.made
	@echo "Installing into $(VENV), which takes a minute ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[local]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	@echo "Installing into $(VENV), which takes a minute ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[local,deploy,dev]'
	@touch $@ $(VENV)/.local

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: $(PYTHON) is not Python 3.11 or later; apt-get install python3, or make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null && $(PYTHON) -m venv $(VENV) || \
	  { echo "make: cannot make a virtual environment; apt-get install python3-venv libcurl4" >&2; exit 1; }
	@touch $@
