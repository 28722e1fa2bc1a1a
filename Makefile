# `make up` starts the shop, `make test` runs the tests. Both install what they need into .venv first; repeats are instant.
# Children are started by fork and exec, so gRPC has nothing to keep alive in them: its fork handlers only get in the way.
# Arguments go through: make up ARGS="--profile cluster", make test ARGS="tests/rpc -k drain", make prove NAME=orders.

MAKEFLAGS += --no-print-directory
SHELL := /bin/sh
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
# Where Python may not write bytecode, as in many containers, each process would compile us anew, for half of its start.
COMPILE := $(BIN)/python -m compileall -q -j0 src
RUN_STAMP := .venv/.run-stamp
DEV_STAMP := .venv/.dev-stamp

# A virtual environment knows its own absolute path and its interpreter; when either moved, it is made anew.
ifneq ($(shell $(BIN)/python -c 'print(open(".venv/.root").read())' 2>/dev/null),$(CURDIR))
.PHONY: $(BIN)/python $(RUN_STAMP) $(DEV_STAMP)
endif

.DEFAULT_GOAL := help
.PHONY: help install up test check format prove lock clean

help: ## say what there is
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

install: $(DEV_STAMP) ## install everything, tools included, into .venv

up: $(RUN_STAMP) ## start the shop (ARGS=...)
	@$(BIN)/dougong up $(ARGS)

test: $(DEV_STAMP) ## run the tests (ARGS=...)
	@GRPC_ENABLE_FORK_SUPPORT=0 $(BIN)/python -m pytest $(ARGS)

check: $(DEV_STAMP) ## what CI asks: format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --warnings
	$(BIN)/lint-imports
	$(BIN)/dougong contract check

format: $(DEV_STAMP) ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

prove: $(DEV_STAMP) ## rerun the experiments behind the claims (NAME=..., ARGS=...)
	@$(BIN)/dougong prove $(NAME) $(ARGS)

lock: $(DEV_STAMP) ## write the hashed locks from pyproject.toml (ARGS=--upgrade)
	@scripts/lock $(ARGS)

clean: ## remove .venv and caches; data under var/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build

$(BIN)/python:
	@scripts/venv

$(RUN_STAMP): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what the shop needs (first time only)"
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@$(COMPILE)
	@touch $@

# The tools' lock holds the run-time lock's versions too, so it serves both.
$(DEV_STAMP): requirements-dev.lock requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what the shop and the tools need (first time only)"
	@$(PIP) --require-hashes -r requirements-dev.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@$(COMPILE)
	@touch $(RUN_STAMP) $@
