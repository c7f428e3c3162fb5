# make demo   from clone to Table 1 (shortest form)      make test   everything that CI checks
# Builds use the torch that is installed here, so every install is --no-build-isolation.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: demo test test-slow format clean

.venv/base: Makefile
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "$(TORCH)" "numpy>=2.4" "setuptools>=77" wheel
	touch $@

NATIVE := setup.py $(wildcard src/recdrop/csrc/*)

.venv/lab: .venv/base pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[lab]"
	touch $@

.venv/test: .venv/base pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[lab,test]"
	touch .venv/lab $@

demo: .venv/lab
	$(BIN)/recdrop reproduce table1 --scale quick --workers 2 --out out/table1 \
		--cells '*-short,ours-*-medium,moon-sequence-medium,!moon-inverted-*'

test: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

test-slow: .venv/test
	$(BIN)/python -m pytest -q -n 2 -m slow

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build out src/*.egg-info
