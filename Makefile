# `make` lists the commands. Each one sets up what it needs; a machine with Python 3.11+ and make is enough.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory
# The documentation tool announces its successor on every build; that is a decision, not a warning.
export NO_MKDOCS_2_WARNING := 1
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
# Written last: a setup that was interrupted is begun again.
STAMP := $(VENV)/.complete
BUILD := build
# One version for everybody, so that two people who run `make lock` get the same file.
UV_VERSION := 0.13.8
# Empty folders are no error while a part of the tree is still to come.
PACKAGES := $(wildcard cli worker pipeline tokenspool simulator)
TESTED := $(wildcard tests/unit tests/contract tests/property tests/crash tests/integration)
TYPED_SCRIPTS := $(wildcard examples/*.py benchmarks)

.PHONY: help setup run test check bench soak lock docs clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything, from the lock

$(STAMP): requirements-dev.lock pyproject.toml
	@set -e; \
	for python in "$$PYTHON" python3.11 python3.12 python3.13 python3.14 python3 python; do \
	    [ -n "$$python" ] || continue; \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$python"; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	    echo "tokenspool needs Python 3.11 or newer, and none is on the PATH: install it, or name it: make PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	fi; \
	if ! "$(BIN)/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    "$$found" -m venv --clear $(VENV) || { \
	        echo "$$found cannot make a virtual environment: install its venv module (Debian, Ubuntu: apt-get install python3-venv)" >&2; \
	        exit 1; \
	    }; \
	fi; \
	echo "installing the locked dependencies into $(VENV)"; \
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock; \
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	touch $(STAMP)

run: setup ## work off examples/prompts.jsonl; again: go on, or say that all is done
	@$(BIN)/python -P examples/run.py

test: setup ## every test but the soak
	@$(BIN)/python -P -m pytest $(TESTED) $(ARGS)

check: setup ## lint, format, types, floors, docs, container files: what CI runs before the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES) $(wildcard .ci/*.py) $(TYPED_SCRIPTS) $(wildcard tests)
	$(BIN)/lint-imports --no-cache
	$(BIN)/mkdocs build --quiet --strict --site-dir $(BUILD)/site
	$(BIN)/python -P .ci/check_compose.py docker-compose.yml
	$(BIN)/python -P .ci/check_dockerfile.py Dockerfile
	$(BIN)/python -P .ci/check_reference.py

bench: setup ## measure; ARGS are handed on
	@$(BIN)/python -P -m benchmarks $(ARGS)

soak: setup ## minutes of load and faults
	@$(BIN)/python -P -m pytest tests -m soak --timeout 3600 $(ARGS)

lock: setup ## write the lock files from pyproject.toml, keeping versions; ARGS=--upgrade takes new ones
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@# The second is made under the first: what we test with is what we ship with.
	$(BIN)/uv pip compile $(LOCK_FLAGS) $(ARGS) --extra postgres --extra s3 --output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile $(LOCK_FLAGS) $(ARGS) --extra postgres --extra s3 --group dev --constraint requirements.lock \
	    --output-file requirements-dev.lock pyproject.toml

LOCK_FLAGS := --quiet --universal --python-version 3.11 --generate-hashes --no-config \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links

docs: setup ## build the documentation into build/site
	$(BIN)/mkdocs build --strict --site-dir $(BUILD)/site

clean: ## remove what builds and checks leave behind; .venv and out stay
	rm -rf $(BUILD) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
