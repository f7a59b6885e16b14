# `make quickstart` and `make test` are all a newcomer needs: both create .venv first.
.PHONY: help install quickstart test check format golden matrices faults bench test-gpu test-soak test-cluster wheel image
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: .venv/installed  ## create .venv and install mypt with its tools

# torch first: a bare torch would bring CUDA builds to machines that have no use for them.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

quickstart: install  ## prepare, train, checkpoint, sample on Python's own source code
	$(BIN)/mypt quickstart

# A file is one worker's: what a file starts once, a server or a reference run, is started once.
test: install  ## all tests, with branch coverage
	$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=85

check: install  ## format, lint, types, layers, dependencies, spelling
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports
	$(BIN)/deptry . && $(BIN)/codespell && $(BIN)/yamllint --strict launch

format: install  ## rewrite the code as `make check` wants it
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

golden: install  ## rewrite what the tests compare with: review the diff
	$(RUN) tests.golden.rewrite

matrices: install  ## compare all engines with one process and write the table into the docs; some minutes
	$(RUN) tests.multiproc.rewrite_tables

faults: install  ## write the counts of the last fault tests into the docs
	$(RUN) tests.faults.counted

bench: install  ## measure against peers and limits; about half an hour
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	$(RUN) benchmarks

test-gpu: install  ## what needs a GPU
	$(RUN) pytest -m gpu tests/gpu

test-soak: install  ## the fault tests with all their points; about an hour
	MYPT_SOAK=1 $(RUN) pytest -n 2 --dist loadfile tests/faults tests/multiproc/test_background_saves.py

test-cluster: install  ## what needs root: a Slurm of two nodes, two hosts, disks that lose power, the image
	$(RUN) pytest -n 2 --dist loadfile -m cluster tests/cluster

wheel: install  ## build the wheel
	$(BIN)/pip wheel --quiet --no-deps -w dist .

image: REVISION = $(shell git describe --always --dirty --abbrev=40 --exclude '*')
image:  ## build the container image
	docker build -t mypt --build-arg REVISION=$(REVISION) .
