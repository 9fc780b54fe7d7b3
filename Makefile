# `make demo` and `make test` do all their set-up on a fresh machine (Python 3.11 or newer with venv).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.installed  ## make .venv with everything that is pinned in constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup  ## the main job: the shift experiment on the embedded digits (outputs/demo)
	$(BIN)/python -m experiments.train --config-name demo

test: setup lint  ## lint, types, the whole test suite and the notebooks
	$(BIN)/python -m pytest -n auto --dist worksteal --nbmake tests notebooks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## the benchmarks; JSON goes to benchmarks/results
	$(BIN)/python -m benchmarks.augment
	$(BIN)/python -m benchmarks.step_cost

clean:  ## remove what runs have left
	rm -rf outputs multirun
