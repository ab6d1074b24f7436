# Two commands on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
# A process for each core, at most four: each takes 1 to 2 GB. Groups: tests/conftest.py.
PARALLEL := -n logical --maxprocesses 4 --dist loadgroup
INSTALLED := .venv/.installed

.PHONY: demo test test-fast lint notebooks

demo: $(INSTALLED)
	$(BIN)/unbox demo

test: $(INSTALLED) lint
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not real_size"

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The .ipynb of each notebook, made anew from its .py and run.
notebooks: $(INSTALLED)
	$(BIN)/jupytext --to ipynb notebooks/*.py
	$(BIN)/jupyter-execute --inplace notebooks/*.ipynb

# torch goes first and alone: its build (CPU or CUDA) is chosen by where it comes from, the rest follows it.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unbox needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@# torch's CUDA builds bring the Triton that they were made for; others get one, whose interpreter tests use.
	test "$$(uname)" != Linux || $(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/python -m pip install --quiet triton==3.9.0
	touch $@
