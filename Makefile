# make demo    install, then train, evaluate and report on the embedded data set
# make test    install with the test tools, then the test suite
# make check   lint, format, types, docstrings, layers and the documentation
# make bench   time denseg and a peer side by side; wants a quiet machine

PYTHON ?= python3
VENV ?= .venv
OUT ?= demo
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test check lint types docs bench install install-dev clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/denseg demo --out $(OUT)

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal $(TESTS)

check: lint types docs

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pydoclint --quiet src/denseg
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.installed-dev
	$(PIP) --editable '.[bench]'
	$(BIN)/python -m benchmarks.run

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

# The stamps make a second call cost nothing; a changed requirement installs again.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev,docs]'
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) site demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
