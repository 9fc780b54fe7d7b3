# `make demo` and `make test` do all their set-up on a fresh machine (Python 3.11 or newer with venv).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PARALLEL := -n auto --dist worksteal --durations=25
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-all lint bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.installed  ## make .venv with everything that is pinned in constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup  ## the main job: the shift experiment on the embedded digits (outputs/demo)
	$(BIN)/python -m experiments.train --config-name demo
	$(BIN)/python -m experiments.report outputs/demo --figures --html outputs/demo/report.html

test: setup lint  ## lint, types, tests, doctests and notebooks (at most 15 minutes on two cores)
	$(BIN)/python -m pytest $(PARALLEL) -m 'not long' --doctest-modules --nbmake hard_aug tests notebooks

test-fast: setup  ## the tests that take seconds (at most 2.5 minutes on two cores)
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow and not long' --doctest-modules hard_aug tests

test-all: setup lint  ## all tests, also those that take minutes each
	$(BIN)/python -m pytest $(PARALLEL) --doctest-modules --nbmake hard_aug tests notebooks

lint: setup  ## ruff, mypy, import-linter and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell

bench: setup  ## the benchmarks; JSON goes to benchmarks/results
	$(BIN)/python -m benchmarks.augment
	$(BIN)/python -m benchmarks.step_cost

clean:  ## remove what runs have left
	rm -rf outputs multirun
