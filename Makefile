# The tasks of this project; `make help` lists them.
# demo, kernel, security, system, test and bench need root and Debian 12 or newer.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
KEEP ?=
ARGS ?=
# Test processes that run side by side. A test file stays in one process, so that its fixtures are set up once.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# These tests wait for sockets and databases in a third of their time.
test-quick unit compat: WORKERS = 3

# Tests start hundreds of interpreters, which would compile every module again.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX = $(CURDIR)/.cache/pycache

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: .venv/.installed ## Install missing Debian packages, and create .venv from the lock file
	@scripts/install-debian-packages

.venv/.installed: requirements-dev.lock pyproject.toml scripts/make-venv
	@scripts/install-debian-packages python
	@scripts/make-venv
	@touch $@

.PHONY: demo
demo: install ## Show the path of metadata requests on the terminal with a real system (KEEP=1: leave it running)
	@$(BIN)/python -m demo $(if $(KEEP),--keep)

.PHONY: test
test: test-packages check unit compat programs attacks kernel system ## Run every test and every check

.PHONY: test-packages
test-packages: install
	@scripts/install-debian-packages tests

.PHONY: test-quick
test-quick: .venv/.installed ## Unit, contract and compatibility tests (two minutes; the contract tests of PostgreSQL need root)
	@$(PYTEST) tests/unit tests/contract tests/compat $(ARGS)

.PHONY: check
check: .venv/.installed site ## Format, lint, types, import contracts, links of the documentation
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: unit
unit: .venv/.installed ## Unit and contract tests
	@$(PYTEST) tests/unit tests/contract $(ARGS)

.PHONY: compat
compat: .venv/.installed ## Recorded requests of nova-api-metadata, replayed
	@$(PYTEST) tests/compat $(ARGS)

.PHONY: programs
programs: .venv/.installed ## Tests that start openimds' own programs, and the openstack client before a control API
	@$(PYTEST) tests/programs $(ARGS)

.PHONY: attacks
attacks: install ## Hostile input to the metadata path, and one minute of fuzzing
	@$(PYTEST) tests/security $(ARGS)

# The tests of docs/security.md in other folders. make test runs them with their folders.
SECURITY = $(addprefix tests/contract/control/test_, any_input.py connections.py logins.py malformed_text.py \
	policy_file.py request_bodies.py rights.py) tests/contract/store/test_silent_server.py \
	tests/unit/store/test_image_limits.py tests/unit/store/network/test_network_store_bulk.py \
	$(addprefix tests/kernel/test_, guest_limits.py hop_limit.py port_security.py port_security_frames.py) \
	$(addprefix tests/system/test_, guest_limits.py guest_security.py lost_database.py port_ownership.py \
	shared_network.py shared_router.py)

.PHONY: security
security: attacks test-clients ## The checklist of docs/security.md: attacks, and the tests of its rows in other folders
	@$(PYTEST) $(SECURITY) $(ARGS)

.PHONY: fuzz
fuzz: .venv/.installed ## Fuzz the HTTP server for SECONDS (3600), with failing inputs in build/fuzz
	@mkdir -p build/fuzz
	@$(BIN)/python -m tests.security.fuzz --seconds $(if $(filter-out 0,$(SECONDS)),$(SECONDS),3600) --folder build/fuzz

.PHONY: kernel
kernel: test-packages ## Tests with real namespaces, links, firewall rules, HAProxy and dnsmasq
	@$(PYTEST) tests/kernel $(ARGS)

.PHONY: test-clients
test-clients: test-packages
	@scripts/install-test-clients
	@scripts/make-neutron >/dev/null
	@for suite in bookworm trixie; do scripts/make-debian-root $$suite >/dev/null; done
	@scripts/make-openimds-root >/dev/null
	@scripts/make-qemu-guest >/dev/null

.PHONY: system
system: test-clients ## Tests of whole systems with instances and the openstack client
	@$(PYTEST) tests/system --ignore=tests/system/openstack $(ARGS)

.PHONY: openstack
openstack: install ## Tests in a real OpenStack: Keystone, Neutron and Nova (ten minutes, with their installation)
	@$(BIN)/python -m pytest tests/system/openstack $(ARGS)

.PHONY: bench
bench: install ## Run the benchmarks, and write bench/RESULTS.md
	@scripts/install-debian-packages bench
	@$(BIN)/python -m bench $(ARGS)

.PHONY: format
format: .venv/.installed ## Format the code, and apply the automatic fixes of the linter
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: docs
docs: .venv/.installed ## Write the generated pages and pictures of docs/, and build the site in build/site
	@scripts/install-debian-packages docs
	@$(BIN)/python scripts/write-docs
	@$(MAKE) site

# A dead link and a page without a place in the navigation are errors.
.PHONY: site
site: .venv/.installed
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env -c docs -d build/doctrees . build/site

.PHONY: lock
lock: ## Write the lock files from pyproject.toml
	@scripts/write-locks

.PHONY: clean
clean: ## Remove .venv, build and caches
	@rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} + ; find src -name '*.egg-info' -prune -exec rm -rf {} +
