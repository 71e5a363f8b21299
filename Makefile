# make demo   a small simulated night, from raw frames to catalogues and a report
# make test   the tests
# make check  style, types, layers
# make docs   the documentation
# make soak   10,000 exposures on the pool, 1,000 on Dask with workers killed (EXPOSURES=200 DASK_EXPOSURES=20 for a quick one)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test check docs clean soak

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "starmill needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/starmill demo demo-night

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q

check: $(VENV)/installed-dev
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/codespell src docs README.md changes CONTRIBUTING.md
	$(BIN)/python -m pip check

docs: $(VENV)/installed-dev
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

EXPOSURES ?= 10000
DASK_EXPOSURES ?= 1000

soak: $(VENV)/installed-dev
	$(BIN)/python benchmarks/soak_repository.py --exposures $(EXPOSURES) --dask-exposures $(DASK_EXPOSURES) --workers $(WORKERS) --folder soak --discard

clean:
	rm -rf $(VENV) demo-night docs/_build build dist
