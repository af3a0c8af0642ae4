# The usual verbs. Each sets up what it needs; nothing has to be installed or activated first but Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test checks format lint types slow clean

quickstart: $(VENV)/.installed  ## train recipes/quickstart.yaml
	$(BIN)/moecli train recipes/quickstart.yaml

test: $(VENV)/.installed  ## run the tests
	$(BIN)/python -m pytest

checks: lint types test  ## all that continuous integration runs

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

slow: $(VENV)/.installed  ## the tests that take long
	$(BIN)/python -m pytest -m slow

$(VENV)/.installed: pyproject.toml constraints.txt hatch_build.py moecli/moe/grouped_product.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"moecli needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
