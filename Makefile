# Everything a person types here. `make help` lists it.
#
# Needs: GNU make and Python 3.11, 3.12 or 3.13 with venv and pip. No database server, no container engine.
# The dashboard's tests need a Chromium too: `make browser`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The first Python on the path that will do; `make install PYTHON=/path/to/python3.12` picks another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	>/dev/null 2>&1 && echo "$$python" && break; done)
UV ?= uv
VENV := .venv
BIN := $(VENV)/bin
# Every package is pinned by the digest of its file: what was tested is what is installed.
PIP := $(BIN)/python -m pip --quiet --no-input --disable-pip-version-check
PINNED := $(PIP) install --require-hashes

# Left out of squawk, and why:
#   prefer-robust-stmts: each migration runs once, in one transaction, with its checksum kept;
#   require-lock-timeout, require-statement-timeout: the runner sets both, for the whole run;
#   prefer-bigint-over-int: 32 bits hold a shard, a line's number and a count of segments.
SQUAWK := --pg-version=15.0 --assume-in-transaction \
	--exclude=prefer-robust-stmts,require-lock-timeout,require-statement-timeout,prefer-bigint-over-int

.PHONY: help install demo test serve check torture bench browser screenshots fmt lock clean

help: ## list what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install: $(VENV)/.runtime ## make .venv with all that the service needs

demo: install ## play a month of traffic with faults, reconcile it, print what was found (KEEP=1: leave it up)
	$(BIN)/huizhi demo $(if $(filter-out 0,$(KEEP)),--keep)

# Several at a time, each with a server of its own: much of a test is waiting. Without ARGS they are all run.
test: $(VENV)/.test browser ## run all tests on PostgreSQL servers that they start themselves (ARGS=... for pytest)
	$(BIN)/pytest $(or $(ARGS),--numprocesses $(or $(WORKERS),3) --dist worksteal)

serve: install ## run the service with huizhi.toml from this folder
	$(BIN)/huizhi serve

# Faults are drawn from SEED, by default a new one, which is printed. Full disks are small file systems in
# memory where one may mount (root); elsewhere processes are limited instead.
torture: $(VENV)/.test ## kill, stop, starve and cut off everything under load for ROUNDS=20 (SEED=..., FIRST=...)
	$(BIN)/python -m torture --rounds $(or $(ROUNDS),20) $(if $(SEED),--seed '$(SEED)') $(if $(FIRST),--first $(FIRST)) $(ARGS)

# Ends with the tests, so that their summary is the last thing on the screen.
check: $(VENV)/.check ## lint, types, import contracts, SQL checks, 20 rounds of torture, then the tests: what CI runs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/squawk $(SQUAWK) sql/migrations/*.sql
	$(MAKE) torture ROUNDS=20 SEED=ci
	$(MAKE) test

bench: $(VENV)/.bench ## print the benchmarks (ARGS=... for them)
	$(BIN)/python -m benchmarks $(ARGS)

# Debian's and Ubuntu's own package, with a font for Chinese; elsewhere HUIZHI_CHROMIUM names a Chromium.
browser: ## install the browser that the dashboard's tests need, where this may be done (Debian or Ubuntu, as root)
	@command -v "$${HUIZHI_CHROMIUM:-chromium}" >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			chromium fonts-noto-cjk >/dev/null; } || \
		echo 'Chromium is not there and cannot be installed: the tests of the dashboard will fail' >&2

screenshots: $(VENV)/.test ## take the pictures of the documents, of a demo that was left up (FOLDER=...)
	$(BIN)/python scripts/screenshots.py $(FOLDER)

fmt: $(VENV)/.check ## format the code and repair what ruff can repair
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

# In a folder of its own: the lock file in between holds addresses and is not kept.
lock: ## resolve the newest allowed versions again and pin them in requirements/ (needs uv)
	folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	cp pyproject.toml "$$folder"; \
	$(UV) lock --quiet --project "$$folder"; \
	pin() { \
		{ echo '# Made by `make lock` from pyproject.toml: exact versions, and the digests of their files.'; \
		  $(UV) export --quiet --project "$$folder" --frozen --no-emit-project --no-header \
			--no-annotate "$${@:2}"; } > "requirements/$$1.txt"; }; \
	pin build --only-group build; \
	pin runtime --no-default-groups; \
	pin otel --no-default-groups --extra otel; \
	pin test --no-default-groups --group test --extra otel; \
	pin bench --only-group bench; \
	pin check --no-default-groups --group test --group check --extra otel

clean: ## remove .venv and caches (never data)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(VENV)/.made:
	@test -n '$(PYTHON)' || { echo 'Python 3.11, 3.12 or 3.13 is needed; name it with PYTHON=...' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo '$(PYTHON) will not do: Python 3.11, 3.12 or 3.13 is needed' >&2; exit 1; }
	'$(PYTHON)' -m venv $(VENV)
	@touch $@

# The package itself is installed in place (.venv runs this folder's code) by a pinned build back end.
$(VENV)/.runtime: $(VENV)/.made requirements/build.txt requirements/runtime.txt pyproject.toml
	$(PINNED) -r requirements/build.txt -r requirements/runtime.txt
	$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.runtime requirements/test.txt
	$(PINNED) -r requirements/test.txt
	@touch $@

$(VENV)/.bench: $(VENV)/.runtime requirements/bench.txt
	$(PINNED) -r requirements/bench.txt
	@touch $@

$(VENV)/.check: $(VENV)/.test requirements/check.txt
	$(PINNED) -r requirements/check.txt
	@touch $@
