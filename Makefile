# Alpha Monday. `make` lists the targets. The first target that needs the virtual environment creates it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# -I: Python ignores the user's PYTHON... variables, so no modules of another checkout come from PYTHONPATH.
PYTEST := $(BIN)/python -I -X utf8 -m pytest
CHROMIUM ?= chromium
GRAPHIQL := graphql/api/graphiql
GRAPHIQL_READY := $(GRAPHIQL)/node_modules/.package-lock.json
NPM_CI := npm ci --ignore-scripts --no-audit --no-fund --loglevel=error --fetch-retries=1 --fetch-timeout=20000
UV_VERSION := 0.13.9
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= alpha-monday:$(VERSION)
# The first engine that responds. buildah alone can build an image, but not run it.
ENGINE ?= $(shell for each in podman docker; do $$each info >/dev/null 2>&1 && echo $$each && break; done)
BUILDER ?= $(or $(ENGINE),$(shell command -v buildah))

.DEFAULT_GOAL := help
.PHONY: help run serve graphiql test test-long test-pgbouncer test-dates chaos outage attack audit screenshots bench image image-files image-test image-upgrade migrate db-up db-down db-reset schema universe fmt fmt-check lint lock clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements-dev.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or newer, or name another with PYTHON=..."; exit 1; }
	@$(PYTHON) dev/setup_venv.py --venv $(VENV) --goals "$(MAKECMDGOALS)"

$(GRAPHIQL_READY): $(GRAPHIQL)/package-lock.json
	@cd $(GRAPHIQL) && $(NPM_CI) && touch node_modules/.package-lock.json

# For `run` and `serve`: without npm, or without its registry, GraphiQL's page loads its files from a public CDN.
define graphiql_if_npm
@! command -v npm >/dev/null || test -e $(GRAPHIQL_READY) || echo "Downloading GraphiQL's files with npm (some seconds)..."
@! command -v npm >/dev/null || $(MAKE) --silent --no-print-directory $(GRAPHIQL_READY) >/dev/null 2>&1 || echo "GraphiQL's files could not be downloaded; the page will load them from a public CDN."
endef

graphiql: ## Download the files of GraphiQL with npm
	@command -v npm >/dev/null || { echo "npm is missing. On Debian: apt-get install npm"; exit 1; }
	@$(MAKE) --silent --no-print-directory $(GRAPHIQL_READY)

run: $(READY) ## Simulate twelve weeks with provider simulators, then serve them
	$(graphiql_if_npm)
	@BENCHMARKS="$${BENCHMARKS:-$${BENCHMARK_SYMBOL:-SPY},RSP}" \
		ALPHA_VANTAGE_PER_DAY="$${ALPHA_VANTAGE_PER_DAY:-75}" $(BIN)/alpha-monday rehearse

serve: $(READY) ## Serve live; needs two API keys, see docs/operate/settings.md
	$(graphiql_if_npm)
	@$(BIN)/alpha-monday serve --migrate

# Three processes on two cores: for a third of the time a test waits for a timeout, a disk or another process.
test: $(READY) ## Run the tests
	@$(PYTEST) -m "not long and not pgbouncer" -n 3 --dist loadfile --slow-first --no-loadscope-reorder $(ARGS)

test-long: $(READY) ## Run the tests that take longer
	@$(PYTEST) -m long -n 2 $(ARGS)

test-pgbouncer: $(READY) ## Run the tests that need PgBouncer
	@PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null || { echo "PgBouncer is missing. On Debian: apt-get install pgbouncer"; exit 1; }
	@$(PYTEST) -m pgbouncer $(ARGS)

test-dates: $(READY) ## Run the tests that depend on dates at five other dates; needs libfaketime; ARGS="--help" lists the options
	@$(BIN)/python -X utf8 dev/dates/run.py $(ARGS)

chaos: $(READY) ## Damage the running service 200 times at random, then check every promise; ARGS="--help" lists the options
	@command -v openssl >/dev/null || { echo "openssl is missing. On Debian: apt-get install openssl"; exit 1; }
	@$(BIN)/python dev/chaos/run.py $(ARGS)

outage: $(READY) ## Stop Postgres and measure how soon the service is back; ARGS="--help" lists the options
	@$(BIN)/python dev/chaos/outage.py $(ARGS)

attack: $(READY) ## Attack the service in more than sixty ways while a client reads and a Monday is due; ARGS="--help" lists the options
	@$(BIN)/python dev/attack/run.py $(ARGS)

define node_and_chromium
@command -v node >/dev/null || { echo "Node is missing: install Node 20 or newer."; exit 1; }
@command -v npm >/dev/null || { echo "npm is missing. On Debian: apt-get install npm"; exit 1; }
@test -x "$$(command -v $(CHROMIUM))" || { echo "Chromium is missing. On Debian: apt-get install chromium; elsewhere: make $@ CHROMIUM=..."; exit 1; }
endef

audit: $(READY) ## Run the audits of packages, contract, clients and pages; needs Node, Chromium, Java, network; DATE=2026-12-02 sets the day
	$(node_and_chromium)
	@javac --version >/dev/null 2>&1 || { echo "A JDK is missing. On Debian: apt-get install default-jdk-headless"; exit 1; }
	@$(MAKE) --silent --no-print-directory $(GRAPHIQL_READY) dev/audit/node_modules/.package-lock.json dev/audit/.venv/.ready
	@DATE="$(DATE)" CHROMIUM="$$(command -v $(CHROMIUM))" node dev/audit/run.mjs

screenshots: $(READY) ## Make the pictures of the README in docs/images; needs Node and Chromium
	$(node_and_chromium)
	@$(MAKE) --silent --no-print-directory dev/audit/node_modules/.package-lock.json
	@CHROMIUM="$$(command -v $(CHROMIUM))" node dev/audit/screenshots.mjs

dev/audit/node_modules/.package-lock.json: dev/audit/package-lock.json
	@cd dev/audit && $(NPM_CI) && touch node_modules/.package-lock.json

dev/audit/.venv/.ready: dev/audit/requirements.lock
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r dev/audit/requirements.lock
	@touch $@

dev/universe/.venv/.ready: dev/universe/requirements.lock
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r dev/universe/requirements.lock
	@touch $@

universe: $(READY) dev/universe/.venv/.ready ## Renew the list of tickers that a control draws from; ARGS="--help" lists the options
	@$(BIN)/python dev/universe/refresh.py $(ARGS)

migrate: $(READY) ## Bring the database's schema up to date
	@$(BIN)/alpha-monday migrate

db-up: $(READY) ## Start the embedded Postgres and print its address
	@$(BIN)/alpha-monday db up

db-down: $(READY) ## Stop the embedded Postgres
	@$(BIN)/alpha-monday db down $(ARGS)

db-reset: $(READY) ## Delete the rehearsal in the embedded Postgres; with ARGS=--live-record a live record, too
	@$(BIN)/alpha-monday db reset --yes $(ARGS)

schema: $(READY) ## Write the API's schema to graphql/schema.graphql
	@$(BIN)/python -m api.schema > graphql/schema.graphql

bench: $(READY) ## Compare the API's speed with PostGraphile and Mercurius; needs wrk and Node
	@$(BIN)/python dev/bench/run.py $(ARGS)

image-files: ## Renew the list of the image's files, in .dockerignore
	@$(PYTHON) dev/image/context.py

image: ## Build the image alpha-monday:VERSION, or IMAGE=...; the engine gets IMAGE_BUILD_ARGS
	@test -n "$(BUILDER)" || { echo "Neither podman nor docker nor buildah responds. On Debian: apt-get install podman"; exit 1; }
	@! command -v $(PYTHON) >/dev/null || $(PYTHON) dev/image/context.py --left-out
	@$(BUILDER) build $(if $(filter docker,$(notdir $(BUILDER))),,--format=docker) --file=Containerfile --tag=$(IMAGE) \
	  --build-arg=VERSION=$(VERSION) --build-arg=REVISION=$$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown) $(IMAGE_BUILD_ARGS) .

image-test: $(READY) ## Test the image: confined, with a real Postgres, ten thousand queries, planted keys
	@ENGINE=$(ENGINE) $(BIN)/python dev/image/smoke.py $(IMAGE) --build-args="$(IMAGE_BUILD_ARGS)"

image-upgrade: $(READY) ## Test the upgrade from the image OLD to IMAGE and back, under queries; with VIA=..., through that image, and the seal
	@ENGINE=$(ENGINE) $(BIN)/python dev/image/upgrade.py $(or $(OLD),$(IMAGE)) $(or $(VIA),$(IMAGE))
	@test -z "$(VIA)" || ENGINE=$(ENGINE) $(BIN)/python dev/image/upgrade.py $(VIA) $(IMAGE)
	@test -z "$(VIA)" || ENGINE=$(ENGINE) $(BIN)/python dev/image/sealing.py $(OLD) $(VIA) $(IMAGE)

fmt: $(READY) ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --quiet .

fmt-check: $(READY) ## Check the format
	@$(BIN)/ruff format --check .

lint: $(READY) ## Check format, style, layers and types
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy

lock: ## Renew the lock files, for Python 3.11 and newer
	@$(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install -qq --disable-pip-version-check uv==$(UV_VERSION)
	@for lock in "pyproject.toml -o requirements.lock" "pyproject.toml --extra dev -o requirements-dev.lock" \
	    "dev/audit/requirements.in -o dev/audit/requirements.lock" "dev/image/requirements.in -o dev/image/requirements.lock" \
	    "dev/universe/requirements.in -o dev/universe/requirements.lock"; do \
	  .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-header --no-annotate $(ARGS) $$lock || exit 1; done
	@rm -rf .venv-lock

clean: ## Delete the virtual environment and caches, but not the embedded Postgres
	@rm -rf $(VENV) dev/audit/.venv dev/universe/.venv .import_linter_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
