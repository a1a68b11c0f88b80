# The two commands that matter: `make demo` and `make test`. Both need only Python 3.11+, a C++ compiler and pip's index.
# A stamp in .venv is named for the content it was made from, so nothing is done twice and nothing stale is used.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL ?= smollm2-135m
DOCUMENT ?= examples/documents/pep-0616.txt
QUESTION ?= In one sentence: which two methods does this document propose to add to strings?

content = $(shell find $(1) -type f -not -name '*.pyc' -exec cksum {} + 2>/dev/null | sort | cksum | cut -d' ' -f1)
BUILT := $(VENV)/.built-$(call content,pyproject.toml CMakeLists.txt native)
LOCKED := $(VENV)/.locked-$(call content,requirements.lock)

.PHONY: help build dev browser check test-native test-neon test test-interp test-gpu peers test-peers bench docs demo clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(VENV)/pyvenv.cfg:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "whimbrel needs Python 3.11 or newer; make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(BUILT): | $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip install --quiet --editable .
	@rm -f $(VENV)/.built-* && touch $@

$(LOCKED): | $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	@rm -f $(VENV)/.locked-* && touch $@

build: $(BUILT) ## create .venv and compile the kernels (about a minute; at once when nothing changed)

dev: $(LOCKED) $(BUILT) ## build, and install what tests and checks need (torch among it)

demo: build ## answer a question from a document that ships here (fetches a 93 MB model once)
	@$(BIN)/whimbrel pull $(MODEL)
	$(BIN)/whimbrel ask -m $(MODEL) $(DOCUMENT) "$(QUESTION)"

# CI's container is Debian and root; elsewhere nobody's system is changed, and the page's tests say why they are skipped.
browser: ## Debian's chromium for the chat page's tests, where it is absent and may be installed
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } \
	  || echo "chromium is not here (Debian: apt install chromium): tests of the chat page will be skipped"

test: dev browser ## structure tests first, then everything that needs no GPU and no peer program
	$(BIN)/python -m pytest -q tests/structure
	@$(BIN)/whimbrel pull --quiet $(MODEL) >/dev/null || echo "the real model is not here: tests that need it will be skipped"
	$(BIN)/python -m pytest -q tests --ignore=tests/structure
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q tests/ops/test_triton.py tests/train -m "interp and not slow"

test-interp: dev ## every Triton kernel on every case, under Triton's interpreter (minutes)
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q tests -m interp

test-gpu: ## the same cases compiled; needs CUDA, and in PYTHON's environment torch, triton, numpy, pytest
	PYTHONPATH=src $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m pytest -q -m gpu tests/ops/test_triton.py tests/train

peers: dev ## compile llama.cpp for this processor, as bench and test-peers want it (long, once)
	$(BIN)/python -m whimbrel.bench.peer_build

test-peers: peers ## compare with llama.cpp and transformers
	@$(BIN)/whimbrel pull --quiet $(MODEL) >/dev/null
	$(BIN)/python -m pytest -q tests -m peers

test-native: ## kernels of every x86-64 instruction set here against naive loops, without Python
	native/tests/check.sh $$($(BIN)/python -c 'from whimbrel import _native; print(*_native.available_isas())')

test-neon: ## the same for arm64, emulated (Debian: g++-aarch64-linux-gnu qemu-user-static)
	native/tests/check.sh neon

check: dev ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: peers ## measure this machine against llama.cpp, as the README's table
	@$(BIN)/whimbrel pull $(MODEL)
	$(BIN)/python -m whimbrel.bench.peer_build
	$(BIN)/whimbrel bench -m $(MODEL) --context 512,2048,8192 --against llama.cpp

docs: dev ## write docs/cli.md and docs/environment.md from the program itself
	$(BIN)/python docs/generate.py

clean: ## remove what was built and installed here (not the models)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
