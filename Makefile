# Everything runs inside .venv, which the first target that needs it makes from the pinned lock.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1

# a file of tests shares a project, so it stays in one process; the long files come first
PROCESSES := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help repro test soak check format lock up down benchmark peers

help:
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes --requirements requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(READY)

repro: $(READY) ## run what params.yaml declares and is not up to date, and write reports/index.html
	mlml repro

test: $(READY) ## run the tests
	python -m pytest $(PROCESSES)

soak: $(READY) ## run the long tests: whole pipelines side by side, kills, workers, browsers
	python -m pytest -m soak $(PROCESSES)

check: $(READY) ## lint, formatting and types
	ruff check .
	ruff format --check .
	mypy

format: $(READY) ## bring the code into form
	ruff check --fix .
	ruff format .

up: $(READY) ## start what makes runs visible and fast on this machine: Prefect, MLflow, Optuna, the deployments, the warm parent
	mlml up

down: $(READY) ## stop them
	mlml down

benchmark: $(READY) ## measure against peers (installs them beside the project)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirements requirements.benchmarks.lock
	python -m benchmarks

peers: $(READY) ## test losses, metrics and samplers against those of peers (installs them beside the project)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirements requirements.benchmarks.lock
	python -m pytest tests/pretext/test_against_lightly.py tests/test_against_torch_fidelity.py tests/generative/test_against_diffusers.py

lock: $(READY) ## pin every dependency anew, within the ranges of pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev --extra scale --output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev --extra scale --extra benchmarks --constraint requirements.lock --output-file requirements.benchmarks.lock pyproject.toml
