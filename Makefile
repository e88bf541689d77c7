# One command checks everything: `make check`.  It installs into the Python environment that is active.
PYTHON ?= python

.PHONY: check check-slow install format bench lowest

check: install
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	lint-imports
	$(PYTHON) -m pytest -m "not slow"

# What makes `make check` take more than five minutes on two cores.
check-slow:
	$(PYTHON) -m pytest -m slow

install:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[test]'

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

# The tests, with the lowest versions that pyproject.toml allows, in an environment of its own; gigabytes where torch is CUDA's.
lowest:
	$(PYTHON) -m venv build/lowest
	$(PYTHON) scripts/lowest.py > build/lowest.txt
	build/lowest/bin/pip install --quiet --disable-pip-version-check --requirement build/lowest.txt --editable '.[test]'
	build/lowest/bin/python -m pytest

bench:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(PYTHON) benchmarks/bench.py
