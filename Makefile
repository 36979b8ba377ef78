# Every target needs `install`, which makes .venv once (again when pyproject.toml changes).
SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.installed
SUITABLE := import sys; sys.exit(sys.version_info < (3, 12))

.PHONY: install check test test-slow test-gpu bench docs demo clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@set -e; \
	python=$$($(MAKE) --no-print-directory -s find-python); \
	if [ -z "$$python" ]; then \
	  echo "pendel needs Python 3.12 or newer, and none was found on PATH or among pyenv's versions." >&2; \
	  echo "Install one, e.g. 'pyenv install 3.13', 'apt install python3.12-venv' or from python.org, then repeat." >&2; \
	  exit 1; \
	fi; \
	if ! $(BIN)/python -c '$(SUITABLE)' 2>/dev/null; then \
	  echo "making .venv with $$python"; \
	  "$$python" -m venv --clear .venv || { \
	    echo "$$python cannot make a virtual environment; install its venv module (e.g. apt install python3-venv)." >&2; \
	    exit 1; }; \
	fi; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'; \
	touch $(STAMP)

# The first suitable interpreter: PATH, newest name first, then pyenv's versions, newest first.
.PHONY: find-python
find-python:
	@pyenv=$${PYENV_ROOT:-$$HOME/.pyenv}/versions; \
	for candidate in python3.14 python3.13 python3.12 python3 \
	    $$(ls -d "$$pyenv"/3.*/bin/python 2>/dev/null | sort --version-sort --reverse); do \
	  if "$$candidate" -c '$(SUITABLE)' 2>/dev/null; then command -v "$$candidate"; exit 0; fi; \
	done

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# Two workers, a file of tests each, the longest files first: compilation, most of the time, uses one core; it is a fifth
# shorter without most of XLA's optimisations. Tests of the physics that are marked `optimized` have them, as the
# program does. What was compiled is kept in build/xla, see tests/conftest.py.
test: check
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu and not optimized"
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "optimized and not slow and not gpu" tests

test-slow: install
	$(BIN)/pytest -m slow

test-gpu: install
	$(BIN)/pytest -m gpu

# Speed of the simulator: docs/benchmark.md, .json and .png; about thirteen minutes on two cores.
bench: install
	$(BIN)/python examples/studies/benchmark.py

# README and docs are run as doctests; the site is built into build/docs, warnings are errors.
docs: install
	$(BIN)/pytest tests/project/test_docs.py
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -W --keep-going -E -q -b html docs build/docs
	@echo "open build/docs/index.html"

demo: install
	$(BIN)/pendel demo

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
