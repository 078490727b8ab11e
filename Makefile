# One door to everything. Every target shares one .venv, which is made when it is missing.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Without a GPU, plain pip on Linux would bring gigabytes of CUDA; PyTorch's own index has the CPU build. It is asked only
# where it answers, since pip would retry for minutes.
CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH_INDEX = $(shell command -v nvidia-smi >/dev/null 2>&1 \
	|| ! $(PYTHON) -c 'import urllib.request; urllib.request.urlopen("$(CPU_INDEX)/torch/", timeout=5)' 2>/dev/null \
	|| echo --extra-index-url $(CPU_INDEX))

.PHONY: help setup setup-dev format check test extended slow docs demo clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/:.*  ## /|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error  Python 3.11 or newer is needed, $(PYTHON) is older."; echo "hint   make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: constraints.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing dreamer into $(VENV) (some minutes the first time) ..."
	$(PIP) install -q -c constraints.txt torch $(TORCH_INDEX)
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: constraints.txt pyproject.toml | $(VENV)/.core
	@echo "installing what tests and checks need into $(VENV) ..."
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.core  ## make .venv and install dreamer
setup-dev: $(VENV)/.dev

format: setup-dev  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: setup-dev  ## lint, format, types, and that imports point only downwards
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layout.py tests/test_docs.py -k "layout or downwards or ring or executed"

test: setup-dev  ## the default tests (meant to stay under 4 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile

extended: setup-dev  ## crash tests, suites, long round trips (under 25 minutes)
	$(BIN)/python -m pytest -m extended -n 2 --dist worksteal

slow: setup-dev  ## learning and soak tests, by hand (hours)
	$(BIN)/python -m pytest -m slow

docs: setup-dev  ## write the pages of docs/reference/ that come from the code
	$(BIN)/python docs/generate.py

SEED ?= 0
demo: $(VENV)/.core  ## train, evaluate and film a small agent (under 10 minutes on 2 cores)
	@echo "── 1 of 3: training on CartPole-v1 (4 minutes or so) ──"
	@run=$$($(BIN)/dreamer train -p demo --seed $(SEED)); \
	echo "── 2 of 3: playing 20 episodes, and 20 by chance ──"; \
	$(BIN)/dreamer evaluate $$run --versus random; \
	echo "── 3 of 3: filming its dreams ──"; \
	film=$$($(BIN)/dreamer imagine $$run --samples 4); \
	strip=$$($(BIN)/dreamer imagine $$run --samples 2 --horizon 40 -o $$run/videos/dream.png); \
	echo; \
	echo "The dream is in    $$film"; \
	echo "as one picture     $$strip"; \
	echo; \
	echo "Next:  source $(BIN)/activate"; \
	echo "       dreamer inspect @last"; \
	echo "       dreamer imagine @last --mode policy -o dream.gif"; \
	echo "       dreamer train --env Pendulum-v1 -p cpu --steps 8k"

clean:  ## remove .venv and caches
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
