# Everything runs in .venv, which `make install` creates once; Python 3.11+ and make are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# As many processes as there are cores, a file in one of them, since its tests share what they have made.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

.PHONY: install demo test test-all check check-docs format docs reliability clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "understudy needs Python 3.11 or newer; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[dev]"
	@touch $@

demo: install
	$(BIN)/understudy demo

test: install
	$(PYTEST) -m "not slow"

test-all: install
	$(PYTEST)

check: install
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

docs: install
	$(BIN)/python docs/build.py

# That the pages of docs/methods are what the methods say: fails where `make docs` changes or adds one.
check-docs: docs
	@test -z "$$(git status --porcelain docs/methods)" || { git status --short docs/methods; exit 1; }

# Injects every fault of tests/faults and writes the numbers of docs/reliability.md: about ten minutes.
reliability: install
	$(BIN)/python docs/reliability.py

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
