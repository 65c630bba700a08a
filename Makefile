# `make train` on a fresh clone installs everything into .venv and trains; `make help` lists the rest.
PYTHON ?= python3
CONFIG ?=
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help train test test-all lint clean

help:
	@echo 'make train                          DeCLIP, at the size that this machine can train'
	@echo 'make train ARGS=--resume            continue it; ARGS holds any option of tools/train.py'
	@echo 'make train CONFIG=configs/NAME.py   train another config'
	@echo 'make test                           lint and the tests that take seconds'
	@echo 'make test-all                       these, then the tests that take minutes'
	@echo 'make lint                           ruff and mypy'
	@echo 'make clean                          remove .venv and caches, never work_dirs'

train: .venv/installed
	@config='$(CONFIG)'; \
	if [ -z "$$config" ]; then \
	  gpu=$$($(BIN)/python -c 'import torch as t; print(t.cuda.get_device_name() if t.cuda.is_available() else "")'); \
	  config=configs/declip_r50.py; why="found $$gpu"; \
	  if [ -z "$$gpu" ]; then \
	    config=configs/declip_r50_laptop.py; why='no GPU here'; \
	    if nvidia-smi >/dev/null 2>&1; then why='this torch cannot use the GPU that nvidia-smi shows'; fi; \
	  fi; \
	  echo "Training $$config: $$why."; \
	fi; \
	$(BIN)/python tools/train.py "$$config" $(ARGS) || { \
	  echo 'Options of tools/train.py go into ARGS: make train ARGS=--resume'; exit 1; }

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' --timeout 300 \
	  -n auto --maxprocesses 8 --dist loadfile

test-all: test
	$(BIN)/python -m pytest -m slow --timeout 1800

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy webssl_toolbox plugins

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache

# Installed again only when what it depends on changes.
.venv/installed: setup.py pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) install -c constraints.txt -e .
	@touch $@

.venv/installed-dev: setup.py pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch .venv/installed $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'Python 3.11 or newer is needed, and $(PYTHON) is not: try PYTHON=python3.12 make $(MAKECMDGOALS)'; \
	  exit 1; }
	$(PYTHON) -m venv .venv
