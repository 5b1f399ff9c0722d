# Everything runs in .venv, which is made on first use from Python 3.11 or newer and pip alone.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The first interpreter that runs and is new enough; a version manager's stub may be there and not run.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; done; true)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SITE_STAMP := $(VENV)/.installed-site
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
DEVICE ?= cpu

.PHONY: help demo test engine test-engine lint format docs site check bench lock clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Debian splits ensurepip off: there the environment is made without pip, and the machine's own pip fills it.
define install
	python="$(PYTHON)"; \
	test -n "$$python" || { echo "Python 3.11 or newer is needed; PYTHON=/path/to/python names one"; exit 1; }; \
	test -x $(BIN)/python || "$$python" -m venv $(VENV) >/dev/null 2>&1 || "$$python" -m venv --clear --without-pip $(VENV); \
	pip="$(BIN)/python -m pip"; \
	$$pip --version >/dev/null 2>&1 || pip="$$python -m pip --python $(BIN)/python"; \
	echo "installing into $(VENV)"; \
	$$pip install --quiet --disable-pip-version-check --no-input --constraint requirements/dev.txt --editable '.[$(1)]'
endef

# The dependency files decide when the environment is stale; the code itself is installed by reference.
$(STAMP): pyproject.toml requirements/dev.txt
	@$(call install,dev)
	@touch $(STAMP)

$(SITE_STAMP): $(STAMP)
	@$(call install,site)
	@touch $(SITE_STAMP)

demo: $(STAMP) ## a whole reinforcement-learning loop on simulated workers, in under a minute
	@$(BIN)/sglang-d-router demo $(DEMO_ARGS)

test: $(STAMP) ## all tests that need no GPU
	@$(BIN)/python -m pytest -m 'not engine and not gpu' $(PYTEST_ARGS)

engine: ## a real SGLang-Diffusion for a CPU, with tiny models, for the tests below; once, 3 GB (docs/engine.md)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; PYTHON=/path/to/python names one"; exit 1; }
	@"$(PYTHON)" tests/engine/build.py --device $(DEVICE)

test-engine: $(STAMP) engine ## the tests against real workers; DEVICE=cuda runs them on a GPU
	@$(BIN)/python -m pytest tests/engine --device $(DEVICE) $(PYTEST_ARGS)

lint: $(STAMP) ## form, style, types, floors, mirrored tests, generated docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/check_mirror.py
	@$(BIN)/python tools/make_docs.py --check
	@$(BIN)/python tools/make_monitoring.py --check

format: $(STAMP) ## bring the code into the common form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMP) ## regenerate the tables in docs/, and the dashboard for Grafana
	@$(BIN)/python tools/make_docs.py
	@$(BIN)/python tools/make_monitoring.py

site: $(SITE_STAMP) ## the documentation as pages for a browser, in build/site; every link is checked
	@rm -rf build/pictures
	@$(BIN)/python tools/screenshots.py build/pictures || echo "SKIPPED: pictures of the dashboard (see above)"
	@$(BIN)/sphinx-build -q -E -n -W --keep-going -b html -d build/site-trees docs build/site
	@$(BIN)/python tools/check_site.py build/site

check: lint test ## everything that must pass before a commit

bench: $(STAMP) ## compare with other routers in one run; docs/bench-proxies.md says what it needs
	@$(BIN)/python bench/run.py $(BENCH_ARGS)

lock: ## pin requirements/dev.txt to the newest versions that pyproject.toml allows
	@PYTHON="$(PYTHON)" tools/lock

clean: ## remove everything that was made; of the engine only the link to it
	@rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist bench-out demo-out .engine
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
