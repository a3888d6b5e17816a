# Everything a developer or a newcomer calls; `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.synced
HOSTS ?= 2
LOCK := --quiet --upgrade --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links
PACKAGES := api runtime operator console-proxy node-agent cli lab tests
export HOSTS

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The lock file pins every package by hash; the package itself is installed editable on top of it.
$(STAMP): requirements.lock pyproject.toml
	@$(MAKE) --no-print-directory compilers
	@test -x $(BIN)/python || python3 -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install -q uv
	$(BIN)/uv pip sync -q --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --editable .
	@touch $@

# libvirt-python is compiled against the machine's libvirt. A fresh machine may not know its package lists yet.
.PHONY: compilers
compilers:
	@python3 -c 'import ensurepip' 2>/dev/null && pkg-config --exists libvirt 2>/dev/null || { apt-get update -qq \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    python3-venv libvirt-dev pkg-config gcc python3-dev >/dev/null; }

.PHONY: up
up: $(STAMP) ## Start a cloud on this machine (HOSTS=2), with a first server
	$(BIN)/python -m kumulus_lab up

.PHONY: down
down: $(STAMP) ## Remove it; built programs stay cached
	$(BIN)/python -m kumulus_lab down

.PHONY: status
status: $(STAMP) ## Show what of it runs
	@$(BIN)/python -m kumulus_lab status

.PHONY: kubeconfig
kubeconfig: $(STAMP) ## Print the path of its kubeconfig
	@$(BIN)/python -m kumulus_lab kubeconfig

.PHONY: test
test: prepare lint verify unit integration smoke ## Lint, unit and integration tests, and the smoke end-to-end tests

# Tests skip where a tool is missing, so it is there before the first of them.
.PHONY: prepare
prepare: $(STAMP)
	$(BIN)/python -m kumulus_lab prepare

.PHONY: smoke
smoke: up ## The short end-to-end tests, with real servers in the lab
	$(BIN)/pytest tests/e2e -m smoke

.PHONY: unit
unit: $(STAMP) ## Tests without input or output
	$(BIN)/pytest tests/unit

.PHONY: integration
integration: $(STAMP) ## Tests against a real API server, network namespaces and libvirt
	$(BIN)/pytest tests/integration -m "not long" --numprocesses 2 --dist worksteal

.PHONY: e2e
e2e: prepare up ## All end-to-end tests but the long ones, with real servers in the lab
	$(BIN)/pytest tests/e2e -m "tenant and not long" --numprocesses 2 --dist worksteal
	$(BIN)/pytest tests/e2e -m "not tenant and not long"

.PHONY: soak
soak: up ## The long tests: 200 verbs at random on a real guest, secure boot, devices behind an IOMMU, a host that loses its power
	$(BIN)/pytest tests/integration -m long
	$(BIN)/pytest tests/e2e -m long

.PHONY: bench
bench: prepare ## Measure placement and a host's network, with nothing beside them, and then the lab: a table, and build/bench.json
	$(BIN)/python tests/bench/run.py engine scale network storage
	$(MAKE) --no-print-directory up
	$(BIN)/python tests/bench/run.py lab

.PHONY: lint
lint: $(STAMP) ## Style, types and import boundaries
	$(BIN)/ruff check $(PACKAGES)
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: generate
generate: $(STAMP) ## Write crds/ and docs/reference from the API's models
	$(BIN)/python -m kumulus_api.generate

.PHONY: verify
verify: $(STAMP) ## Fail if what is generated is out of date
	$(BIN)/python -m kumulus_api.generate --check

.PHONY: docs
docs: generate ## Build the documentation site, where mkdocs is configured
	@if [ -f mkdocs.yml ]; then $(BIN)/python -m mkdocs build --strict; else echo "no mkdocs.yml: the documentation is docs/*.md"; fi

.PHONY: lock
lock: $(STAMP) ## Choose newer versions and write the lock files
	$(BIN)/uv pip compile $(LOCK) --all-extras pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile $(LOCK) --extra operator pyproject.toml -o requirements/operator.lock
	$(BIN)/uv pip compile $(LOCK) --extra agent pyproject.toml -o requirements/agent.lock
