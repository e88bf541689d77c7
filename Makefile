# One command checks everything: `make check`.  It installs into the Python environment that is active; INSTALL=: does not.
PYTHON ?= python
INSTALL ?= $(PYTHON) -m pip install --quiet --disable-pip-version-check --editable

.PHONY: check check-slow check-site docs install format mutants torture bench lowest site wheel

# `make check TESTS=` runs the slow ones too, as continuous integration does, in less time than one after the other.
TESTS ?= -m "not slow"
check: install
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	lint-imports
	$(PYTHON) scripts/codelines.py src
	$(PYTHON) -m pytest $(TESTS)

# What makes `make check` take more than five minutes on two cores.
check-slow:
	$(PYTHON) -m pytest -m slow

# The site, in build/docs: notebooks run and are kept, warnings are errors, spelling is checked.
docs:
	$(INSTALL) '.[docs]'
	codespell
	$(PYTHON) docs/extensions/reference.py
	$(PYTHON) -m sphinx --jobs auto --fail-on-warning --keep-going --quiet docs build/docs

install:
	$(INSTALL) '.[test]'

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) docs/extensions/reference.py

# Whether the tests notice small changes to the code; all modules by default, or: make mutants MODULES="noise score" NUMBER=30
NUMBER ?= 8
mutants:
	$(INSTALL) '.[test,mutants]'
	$(PYTHON) scripts/mutants.py $(MODULES) --number $(NUMBER)

# Whether what docs/reliability.md promises holds: half an hour of attacks, or a part:
# make torture TORTURE="--only kills files --minutes 5"
TORTURE ?=
torture: install
	$(PYTHON) scripts/torture.py $(TORTURE)

# The tests, with the lowest versions that pyproject.toml allows, in an environment of its own; gigabytes where torch is CUDA's.
lowest: install
	$(PYTHON) -m venv build/lowest
	$(PYTHON) scripts/lowest.py > build/lowest.txt
	build/lowest/bin/pip install --quiet --disable-pip-version-check --requirement build/lowest.txt --editable '.[test]'
	build/lowest/bin/python -m pytest

bench:
	$(INSTALL) '.[bench]'
	$(PYTHON) benchmarks/bench.py

# The page of web/ and the model in the package, into site/, which any host can serve and `ncsn play` shows; needs Node 20.19
# or later, and the package with its extra `export`.
site:
	cd web && npm ci --no-audit --no-fund --loglevel=error && npm run --silent build
	$(PYTHON) -m ncsn export mnist site/model.onnx

# A wheel in dist/ that has the page in it, from a copy of the sources.
wheel: site
	rm -rf build/wheel
	mkdir -p build/wheel
	cp -R LICENSE README.md pyproject.toml src build/wheel
	cp -R site build/wheel/src/ncsn/assets/page
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist build/wheel

# The page and the site in a real browser, with pictures of the page in build/site-check/; installs Debian's packages of what
# is missing.
CHROMIUM ?= chromium
check-site: install docs
	@for need in node:nodejs npm:npm $(CHROMIUM):chromium; do \
	  command -v $${need%%:*} > /dev/null || missing="$$missing $${need##*:}"; \
	done; [ -z "$$missing" ] || { apt-get update --quiet && apt-get install --quiet --yes $$missing; }
	$(MAKE) site
	cd web && npm run --silent lint
	cd web && npm test --silent
	cd web && PYTHON="$$(command -v $(PYTHON))" CHROMIUM="$$(command -v $(CHROMIUM))" npm run --silent check
