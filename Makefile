# One command checks everything: `make check`.  It installs into the Python environment that is active.
PYTHON ?= python

.PHONY: check install format bench

check: install
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	lint-imports
	$(PYTHON) -m pytest

install:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[test]'

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

bench:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(PYTHON) benchmarks/bench.py
