# Package Command Manager. `make help` lists the targets; each does its own set-up on a new machine.
#   PYTHON=…       another Python ≥ 3.11 for the virtual environment (default: python3)
#   VENV=…         another place for it (default: .venv)
#   PYTEST_ARGS=…  more arguments for pytest, as in PYTEST_ARGS='-k journal'
#   SYSTEM=no      leave system packages alone, even as root

PYTHON ?= python3
VENV ?= .venv
SYSTEM ?= yes
JOBS ?= 2
PYTEST_ARGS ?=
ARGS ?=
BIN := $(VENV)/bin
PY := $(BIN)/python
BENCHES := $(addprefix bench/,$(addsuffix .py,agent content site faces windows))
LINT := "$(BIN)/ruff check --quiet" "$(BIN)/ruff format --check --quiet" "$(BIN)/mypy" "sh tools/quietly.sh $(BIN)/lint-imports"
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup system lint check test soak demo docs packages lock changelog clean \
	bench bench-agent bench-content bench-site bench-faces bench-windows

help: ## List these targets
	@sh tools/list_targets.sh $(MAKEFILE_LIST)

setup: ## Make .venv from requirements.lock (all other targets do this first)
	@$(PYTHON) tools/bootstrap.py --venv $(VENV)

system: ## Install the Debian packages that tests need; without root: name them
	@if [ "$(SYSTEM)" = yes ]; then $(PYTHON) tools/system_packages.py; fi

lint: setup ## Style, types and import layers (ruff, mypy, import-linter)
	@sh tools/all_of.sh $(LINT)

check: setup ## Lint, docs, unit and contract tests: a minute or so
	@sh tools/all_of.sh $(LINT) "$(PY) tools/build_docs.py --check" \
		"$(PY) -m pytest -q -n $(JOBS) tests/unit tests/contract $(PYTEST_ARGS)"

test: setup system ## Everything: lint, docs, and all tests that this machine can run
	@sh tools/all_of.sh $(LINT) "$(PY) tools/build_docs.py" "$(PY) tools/changelog.py check" \
		"$(PY) -m pytest -q -n $(JOBS) $(PYTEST_ARGS)"

soak: setup ## Years of a client and days of its service: what they hold must not grow (TICKS=50000 of three hours, ROUNDS=2000)
	@PCM_SOAK_TICKS=$(or $(TICKS),50000) PCM_SOAK_ROUNDS=$(or $(ROUNDS),2000) $(PY) -m pytest -q tests/soak $(PYTEST_ARGS)

demo: setup ## [demo/run.py] From an empty folder to installed software, then the stolen server; under a minute
	@$(PY) tools/run_part.py demo/run.py -- $(ARGS)

bench: setup ## [bench/*.py] All measurements: medians, and ratios against a baseline of the same run
	@$(PY) tools/run_part.py $(BENCHES) -- $(ARGS)

bench-agent: setup ## [bench/agent.py] The client service: idle poll, verify and plan, overhead per program, memory
	@$(PY) tools/run_part.py bench/agent.py -- $(ARGS)

bench-content: setup ## [bench/content.py] Package content: hashing, fetching, assembling
	@$(PY) tools/run_part.py bench/content.py -- $(ARGS)

bench-site: setup ## [bench/site.py] The site server: publishing, targeting, intake
	@$(PY) tools/run_part.py bench/site.py -- $(ARGS)

bench-faces: setup ## [bench/faces.py] Console, command line and application
	@$(PY) tools/run_part.py bench/faces.py -- $(ARGS)

bench-windows: setup ## [bench/windows.py] The Windows client
	@$(PY) tools/run_part.py bench/windows.py -- $(ARGS)

docs: setup ## Build the documentation into build/docs, with every link checked
	@$(PY) tools/build_docs.py

packages: setup system ## The client as .deb, .rpm and self-extracting setup, in build/packages (ARGS='--version 1.2.3')
	@$(PY) -m tools.packages $(ARGS)

lock: setup ## Renew requirements.lock after a change of dependencies (ARGS=--upgrade for newer versions)
	@$(PY) -m tools.lock $(ARGS)

changelog: setup ## Move the fragments of changelog.d into CHANGELOG.md (VERSION=1.2.3)
	@$(PY) tools/changelog.py assemble $(VERSION)

clean: ## Remove everything that these targets made in this folder
	@rm -rf build bench/out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests tools -name __pycache__ -prune -exec rm -rf {} +
	@if [ "$(VENV)" = .venv ]; then rm -rf .venv .venv.lock src/*.egg-info; fi
