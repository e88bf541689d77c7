# `make check` runs what every change must pass.  It installs into the active Python environment, unless INSTALL=: is given.
PYTHON ?= python
# Most modules that are installed are never imported, so compiling them all would only take time.
INSTALL ?= $(PYTHON) -m pip install --quiet --disable-pip-version-check --no-compile --editable

.PHONY: check check-slow check-site docs install format mutants torture bench lowest site wheel

# `make check TESTS=` includes the slow tests, which continuous integration (.ci/run) runs with `make check-slow`.
TESTS ?= -m "not slow"
check: install
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	lint-imports
	$(PYTHON) scripts/codelines.py src
	$(PYTHON) -m pytest $(TESTS)

# The slow tests, which `make check` leaves out.
check-slow:
	$(PYTHON) -m pytest -m slow

# The site, in build/docs.  Runs notebooks whose cells have changed, and checks spelling; warnings are errors.
docs: EXTRAS = docs
docs: install
	codespell
	$(PYTHON) docs/extensions/reference.py
	$(PYTHON) -m sphinx --jobs auto --fail-on-warning --keep-going --quiet docs build/docs

EXTRAS ?= test
install:
	$(INSTALL) '.[$(EXTRAS)]'

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) docs/extensions/reference.py

# Do the tests notice small changes to the code?  All modules by default, or: make mutants MODULES="noise score" NUMBER=30
NUMBER ?= 8
mutants:
	$(INSTALL) '.[test,mutants]'
	$(PYTHON) scripts/mutants.py $(MODULES) --number $(NUMBER)

# Attacks on the promises of docs/reliability.md, for half an hour, or some of them:
# make torture TORTURE="--only kills files --minutes 5"
TORTURE ?=
torture: install
	$(PYTHON) scripts/torture.py $(TORTURE)

# The tests with the lowest versions that pyproject.toml allows, in a separate environment (gigabytes with CUDA's torch).
lowest: install
	$(PYTHON) -m venv build/lowest
	$(PYTHON) scripts/lowest.py > build/lowest.txt
	build/lowest/bin/pip install --quiet --disable-pip-version-check --requirement build/lowest.txt --editable '.[test]'
	build/lowest/bin/python -m pytest

bench:
	$(INSTALL) '.[bench]'
	$(PYTHON) benchmarks/bench.py
	$(PYTHON) benchmarks/mixed.py --seeds 0 1 2

# The interactive page with the packaged model, in site/, for any host or `ncsn play`; needs Node 20.19 or later, and the
# extra `export`.
site:
	cd web && npm ci --no-audit --no-fund --loglevel=error && npm run --silent build
	$(PYTHON) -m ncsn export mnist site/model.onnx

# A wheel in dist/ that includes the interactive page, built from a copy of the sources.
wheel: site
	rm -rf build/wheel
	mkdir -p build/wheel
	cp -R LICENSE README.md pyproject.toml src build/wheel
	cp -R site build/wheel/src/ncsn/assets/page
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist build/wheel

# Tests of the page and the site in a real browser, with pictures in build/site-check/; installs missing Debian packages.
CHROMIUM ?= chromium
check-site: EXTRAS = test,docs
check-site: install docs
	@for need in node:nodejs npm:npm $(CHROMIUM):chromium; do \
	  command -v $${need%%:*} > /dev/null || missing="$$missing $${need##*:}"; \
	done; [ -z "$$missing" ] || { apt-get update --quiet && apt-get install --quiet --yes $$missing; }
	$(MAKE) site
	cd web && npm run --silent lint
	cd web && npm test --silent
	cd web && PYTHON="$$(command -v $(PYTHON))" CHROMIUM="$$(command -v $(CHROMIUM))" npm run --silent check
