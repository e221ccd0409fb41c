# Every command of the project. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

PY := .venv/bin/python
PYTEST := $(PY) -m pytest
# One thread a rank: the ranks of a test share the machine's cores.
export OMP_NUM_THREADS ?= 1
export PYTHONSAFEPATH := 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1
# Images often set it. Without bytecode each rank compiles transformers' sources anew, 8 s of a core.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

.PHONY: env env-unit lock
env: ## .venv with everything, from pinned files with hashes
	@bash requirements/install.sh dev
env-unit: ## .venv without torch: enough for the fast tests
	@bash requirements/install.sh unit
lock: ## Renew the pinned files from pyproject.toml
	@bash requirements/lock.sh

.PHONY: lint
lint: env ## ruff, mypy strict, import contracts
	@.venv/bin/ruff format --check --quiet .
	.venv/bin/ruff check --quiet .
	.venv/bin/mypy
	.venv/bin/lint-imports

.PHONY: test-unit test-torch test-cluster test test-full
test-unit: env-unit ## Fast tests: no torch, no cluster, under a minute
	@$(PYTEST) -q -n 2 --dist loadfile -m 'not torch and not cluster and not full'
test-torch: env ## Trainer tests: gloo ranks on this machine
	@$(PYTEST) -q -n 2 --dist loadfile --no-loadscope-reorder -m 'torch and not cluster and not full'
test-cluster: env ## End-to-end tests on KUBECONFIG, kind or the embedded cluster
	@$(PYTEST) -q -m 'cluster and not full'
test: ## Everything, from a fresh machine to one closing summary
	@bash tests/run.sh
test-full: env ## Also the whole parity matrix and the long sweeps
	@$(PYTEST) -q

.PHONY: accuracy
accuracy: env-unit ## How well the planner predicts: figures on measured public runs, docs/accuracy.md
	@PYTHONPATH=operator/src:tests/support $(PY) -m accuracy.report

.PHONY: test-mutants
test-mutants: env ## Break copies of the product, of MUTANTS or all: the tests must notice each
	@PYTHONPATH=tests/support:tests/cluster $(PY) -m mutants $(MUTANTS)

.PHONY: fuzz bench-operator soak supply-chain
COUNT ?= 1050000
fuzz: env ## COUNT hostile inputs over every parser (a million and more take half an hour)
	@PYTHONPATH=operator/src:trainer_image/src:tests/support $(PY) -W ignore -m fuzzing $(COUNT)
bench-operator: env-unit ## What the operator costs, on a control plane of its own: docs/performance_operator.md
	@PYTHONPATH=operator/src:tests/cluster:tests/support $(PY) -m bare.bench $(SCENARIOS)
MINUTES ?= 30
soak: env-unit ## Runs come, fail, are killed, suspended and deleted for MINUTES, on KWOK and the embedded cluster: docs/performance_operator.md
	@PYTHONPATH=operator/src:tests/cluster:tests/support $(PY) -m bare.soak $(MINUTES)
supply-chain: env-unit ## SBOMs, known vulnerabilities, checkov, in dist/supply
	@bash requirements/supply.sh

.PHONY: docs docs-reference
docs: ## The documentation as a site in build/site; a broken link is an error
	@bash docs/build.sh
docs-reference: env-unit ## Write docs/reference and the samples' plans anew from the code
	@PYTHONPATH=operator/src:tests/support $(PY) -m reference

.PHONY: dist
dist: env-unit ## Wheel, source and chart in dist/, as a release hands them out
	@VERSION=$(VERSION) bash requirements/dist.sh

.PHONY: bench
bench: env ## Tokens per second and memory beside Hugging Face's, docs/performance.md
	@PYTHONPATH=operator/src:trainer_image/src:tests/support $(PY) -m speed.report
.PHONY: bench-gpu
bench-gpu: env ## What one GPU does, where there is one: OUTPUT=folder gets results.json
	@PYTHONPATH=operator/src:trainer_image/src:tests/support $(PY) -m gpu.bench $(or $(OUTPUT),build/gpu)
.PHONY: bench-recovery
bench-recovery: env ## How fast a run goes on after something died, on the embedded cluster: docs/performance.md
	@PYTHONPATH=operator/src:trainer_image/src:tests/cluster:tests/support $(PY) -m recovery.bench $(WORDS)

.PHONY: demo cluster-up cluster-down
demo: env ## From nothing to a finished two-node fine-tune
	@PYTHONPATH=tests/cluster $(PY) -m demo
# The embedded cluster needs Python's standard library only, so it waits for no environment.
cluster-up: ## Start (or reuse) the embedded cluster
	@PYTHONPATH=tests/cluster python3 -m embedded up
cluster-down: ## Stop it and leave nothing behind
	@PYTHONPATH=tests/cluster python3 -m embedded down
