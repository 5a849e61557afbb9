# Two commands for everybody: `make run` and `make test`. Both do all of their own set-up.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ANALYSIS ?= yes

.PHONY: help run test check bench soak install lock image hil firmware

help:
	@sed -n 's/^## //p' Makefile

## run      start the gateway (the demo where there is no gateway.toml)
run: install
	@exec $(BIN)/gateway run $(if $(wildcard gateway.toml),--config gateway.toml,--demo)

## test     everything that CI runs; installs what it needs (system packages need root)
test: $(VENV)/.dev
	@./scripts/system-packages
	@./scripts/node-tools
	@./scripts/micropython
	@$(BIN)/python -m pytest

## check    the fast part: format, lint, types, import contracts
check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

## bench    measurements, printed as a table (never timed tests)
bench: $(VENV)/.dev
	@./scripts/bench-packages
	@$(BIN)/python -m bench

## soak     twenty rounds of 5,000 messages, then 10,000 readings of the nodes' firmware, while things are killed
soak: $(VENV)/.dev
	@./scripts/system-packages
	@./scripts/micropython
	@$(BIN)/python -m bench.kill --rounds 20
	@$(BIN)/python -m bench.nodes

## firmware the ESP32 node's program as a signed bundle in build/firmware (ARGS="--source", "--help")
firmware: $(VENV)/.dev
	@$(BIN)/python scripts/firmware $(ARGS)

## hil      our host code against the kernel's and BlueZ's own, in a virtual machine (root, x86-64)
hil:
	@./hil/vm/run

## install  make .venv with everything that `run` needs (ANALYSIS=no: without what assistants' code uses)
install: $(VENV)/.run

## lock     resolve the dependencies anew and check that pip installs them everywhere
lock: $(VENV)/.dev
	@./scripts/lock

$(VENV)/bin/python:
	@./scripts/find-python $(PYTHON) >/dev/null
	@$$(./scripts/find-python $(PYTHON)) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python requirements.lock requirements-analysis.lock pyproject.toml
	@echo "installing into $(VENV) (first time: about a minute)" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock \
		$(if $(filter no,$(ANALYSIS)),,-r requirements-analysis.lock)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
