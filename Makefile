# The sentences people say. Needs Python 3.11 or newer with pip, and make; everything else goes into .venv.
# Paths are relative throughout, so that a checkout may lie in a folder with spaces in its name.

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=

VENV := .venv
PEERS := .venv-peers
ADAPTERS := .venv-adapters
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet -c constraints.txt
LOCKED := pyproject.toml constraints.txt

# pyright would otherwise ask the network whether it is the newest
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# the build backend is pinned too: older pips read the first for it, newer ones the second
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help install demo test test-adapters lint bench bench-peers scaling results docs nightly clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F'|' '{printf "  make %-13s  %s\n", $$1, $$2}'

install: $(VENV)/.installed-dev  ## the library, the command and the tools of a contributor, in .venv

demo: $(VENV)/.installed  ## train a policy on CartPole-v1, with its curves as pictures
	@$(VENV)/bin/policygrad train reinforce --env CartPole-v1 --num-steps 150000 --backend gymnasium --until-solved $(ARGS)

test: $(VENV)/.installed-dev  ## the tests (ARGS="-k name" for some, WORKERS=0 for one process)
	@$(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

nightly: $(VENV)/.installed-dev  ## all tests, those that take minutes included; a summary in docs/nightly.md
	@$(PY) benchmarks/nightly.py -n $(WORKERS) $(ARGS)

test-adapters: $(VENV)/.installed  ## others' environments, each in .venv-adapters/NAME: tests, a short run, docs/adapters.md (ARGS="gymnax")
	@$(PY) benchmarks/adapters.py $(ARGS)

lint: $(VENV)/.installed-dev  ## style, format and types
	@bad=0; \
	$(PY) -m ruff check . || bad=1; \
	$(PY) -m ruff format --check . || bad=1; \
	$(PY) -m pyright || bad=1; \
	exit $$bad

bench: $(VENV)/.installed-dev  ## the benchmarks' table
	@$(PY) benchmarks/bench.py $(ARGS)

bench-peers: $(VENV)/.installed-dev $(PEERS)/.installed  ## ratios to other libraries on the same work, which it installs in .venv-peers
	@$(PY) benchmarks/peers.py $(ARGS)

scaling: $(VENV)/.installed-dev $(PEERS)/.installed  ## speed against environments, seeds, width and rollout length: docs/performance.md
	@$(PY) benchmarks/scaling.py $(ARGS)

results: $(VENV)/.installed-dev  ## train the tuned settings, resumable, and write docs/results.md (ARGS="--subset cartpole")
	@$(PY) benchmarks/results.py $(ARGS)

docs: $(VENV)/.installed  ## the tables and the figure of docs/estimators.md, computed anew
	@$(PY) docs/generate.py $(ARGS)
	@$(PY) examples/corridor_bias.py --out docs/figures/corridor_bias

clean:  ## remove .venv, caches, runs and figures
	rm -rf $(VENV) $(PEERS) $(ADAPTERS) .cache .hypothesis .pytest_cache .ruff_cache build dist runs figures
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

# Each file below marks a finished installation; it is stale once the locked versions change. `.installed-dev` is
# everything and counts as `.installed` too.
$(VENV)/.installed: $(LOCKED) | $(PY)
	@echo "installing policygrad into $(VENV) (about a minute the first time) ..."
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(LOCKED) | $(PY)
	@echo "installing policygrad and its tools into $(VENV) (about a minute the first time) ..."
	@$(PIP) -e ".[dev]"
	@touch $(VENV)/.installed $@

# The constraints are ours: the peers ask for what they ask for.
$(PEERS)/.installed: benchmarks/peers/requirements.txt | $(PY)
	@echo "installing the peers into $(PEERS) (a few minutes; PyTorch is large) ..."
	@$(PY) -m venv $(PEERS)
	@env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT $(PEERS)/bin/python -m pip install --quiet -r benchmarks/peers/requirements.txt
	@touch $@

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "policygrad needs Python 3.11 or newer: got $$($(PYTHON) --version 2>&1); try make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv $(VENV)
