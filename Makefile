# lipaudit's commands; `make help` lists them. Needs Python 3.11+, git and make, nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODELS := sample_models/built
NETWORKS ?= 10000
SEED ?= 0

.DEFAULT_GOAL := help
MINUTES ?= 10
.PHONY: help install demo models lint format test browser test-browser slow hostile fuzz soundness readme bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## make the virtual environment and install lipaudit into it

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

models: install ## build the sample models with known answers
	$(BIN)/python sample_models/build.py $(MODELS)

demo: models ## install, build the sample models, and inspect, bound and clip them
	$(BIN)/lipaudit inspect $(MODELS)/mlp.pt
	$(BIN)/lipaudit inspect $(MODELS)/cnn.onnx
	$(BIN)/lipaudit bound $(MODELS)/resnet.onnx
	rm -f $(MODELS)/clipped.pt
	$(BIN)/lipaudit clip $(MODELS)/mlp.pt --to 1.0 -o $(MODELS)/clipped.pt

lint: install ## ruff, mypy --strict, import order, README freshness
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py
	$(BIN)/python docs/blocks.py --check README.md

format: install ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: install ## the whole suite, on two processes
	$(BIN)/python -m pytest -q -n 2

fuzz: install ## make up files until MINUTES=10 are over, and save what breaks a reader
	$(BIN)/python -m tests.fuzz.long $(MINUTES)

browser: ## install Debian's chromium, which `make test-browser` drives (needs root and a network)
	@command -v chromium >/dev/null || apt-get install -y --no-install-recommends chromium

test-browser: install ## the HTML report in a headless chromium; skipped where there is none
	$(BIN)/python -m pytest -q -m browser

slow: install ## the tests on large models, which take minutes
	$(BIN)/python -m pytest -q -n 2 -m slow

hostile: install ## the table of bad inputs: the plain loader, and lipaudit
	$(BIN)/python -m tests.hostile.table

soundness: install ## attack the bounds of random networks from SEED=0 on until NETWORKS=10000 were attacked; it can be continued
	$(BIN)/python -m tests.soundness.run --networks $(NETWORKS) --seed $(SEED) --processes 2

readme: install ## rewrite the generated blocks of README.md
	$(BIN)/python docs/blocks.py README.md

bench: install ## time lipaudit against the methods of the papers, side by side
	$(BIN)/python benchmarks/run.py --full

clean: ## remove what the other targets made
	rm -rf $(VENV) $(MODELS) soundness build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
