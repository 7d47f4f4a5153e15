# Everything a person types. `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help setup demo ui test test-unit test-all test-k8s browser lint lock model bench gpu-check images clean

# The demo's model: fleet-tiny comes with the package and shows what councils do; it decides nothing.
# For real answers: make demo MODEL=Qwen/Qwen3-8B, or a local folder.
MODEL ?= fleet-tiny
BACKLOG ?= examples/backlog.jsonl
SHOW ?= $(if $(filter examples/backlog.jsonl,$(BACKLOG)),ci-cd-pipeline.devops)
PORT ?= 3000
SIZE ?= full
PYTHON ?= python3
export PYTHON

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install everything into .venv (a second when there is nothing to do)
	@requirements/install.sh

demo: setup ## Run the sample backlog through Dagster, vLLM, Parquet and NATS, and print the result
	@echo "demo: model $(MODEL), backlog $(BACKLOG)"
	@.venv/bin/fleet run $(BACKLOG) --model $(MODEL) --nats embedded
	@if [ -n "$(SHOW)" ]; then echo; echo "one of them in full (fleet show $(SHOW)):"; .venv/bin/fleet show $(SHOW) | cat; fi

ui: setup ## Open the Dagster UI on what has been run, at http://localhost:3000
	@echo "ui: http://localhost:$(PORT)"
	@$(if $(filter file,$(origin MODEL)),,FLEET_ENGINE__MODEL=$(MODEL)) DAGSTER_HOME=$$(.venv/bin/fleet home) \
		PATH="$(CURDIR)/.venv/bin:$$PATH" dagster dev --workspace workspace.yaml --port $(PORT)

test: setup lint browser ## Run every check: lint, types, tests (three at a time, because many wait; one engine at a time)
	@.venv/bin/python -m pytest -n 3 --dist loadfile -m "not slow"

test-unit: setup ## Run the tests that need neither Dagster nor vLLM nor a broker: about a minute
	@.venv/bin/python -m pytest -n 2 --dist loadfile -m unit

test-all: setup lint browser ## Run the slow tests as well: five minutes more
	@.venv/bin/python -m pytest -n 3 --dist loadfile

test-k8s: setup ## Run what concerns Kubernetes, with the images where mmdebstrap, buildah and podman are: about ten minutes
	@.venv/bin/python -m pytest fleet_pipeline_tests/test_manifests.py fleet_pipeline_tests/test_official_chart.py \
		fleet_pipeline_tests/test_on_a_cluster.py fleet_pipeline_tests/test_images.py \
		fleet_pipeline_tests/events/test_brokers_in_pods.py fleet_pipeline_tests/instance/test_gpu_pod.py

browser: setup ## Install a Chromium for the tests, where there is none
	@requirements/browser.sh

lint: setup ## Run ruff and mypy
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

lock: ## Write requirements/*.lock anew from pyproject.toml (needs uv)
	@requirements/lock.sh

model: setup ## Train fleet-tiny anew (40 minutes on two cores) and measure it
	@.venv/bin/python -m fleet_pipeline.training make
	@.venv/bin/python -m fleet_pipeline.training evaluate

bench: setup ## Measure everything (SIZE=quick: under 8 minutes) and write bench.md and bench.json
	@.venv/bin/python -m fleet_pipeline_tests.benchmarks --size $(SIZE) --out bench

gpu-check: ## Try a machine with a GPU: councils, a kill, a cancel, memory, tokens a second (writes gpu.json)
	@.venv/bin/python -m fleet_pipeline_tests.benchmarks.gpu --out gpu.json

images: ## Build the images for Kubernetes with docker, buildah or podman
	@k8s/images/build.sh

clean: ## Remove what runs have made (.fleet), keep .venv
	rm -rf .fleet
