# Every target sets up what it needs: a virtual environment in .venv with pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two stages: what the demo needs takes a minute, what the tests need some minutes.
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
# Python compiles what it imports, and keeps it whatever the machine is set to: the tests start it
# hundreds of times. Compiling all that is installed would take longer than installing it.
export PYTHONDONTWRITEBYTECODE :=
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
# uv takes a third of pip's time, but knows none of its settings, as an index of your own: where uv fails, pip does it.
UV := $(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
DEMO := '.[plot,documents,gguf]'
define install
@$(UV) --editable $(1) || { echo "uv could not: pip goes on …"; $(PIP) --editable $(1); }
endef

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(READY) ## read 128K tokens with a window of 512 (FILE=… for your own text, MODEL=… for your own chat model)
	@$(BIN)/sharedllm demo $(if $(FILE),"$(FILE)") $(if $(MODEL),--model "$(MODEL)")

test: $(READY_DEV) ## the test suite
	@$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-all: $(READY_DEV) ## the test suite including slow tests
	@$(BIN)/python -m pytest --numprocesses auto -m ""

lint: $(READY_DEV) ## ruff and pyright
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

format: $(READY_DEV) ## let ruff format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Building the site fetches nothing: no fonts, no external scripts.
docs: $(VENV)/.ready-docs ## the documentation as a site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open build/site/index.html"

$(VENV)/.ready-docs: $(READY)
	$(call install,'.[docs]')
	@touch $@

# Install torch first and alone: a looser requirement would fetch builds for other hardware.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "sharedllm needs Python 3.11 or newer: name one with make PYTHON=…"; exit 1; }
	@test -x $(BIN)/python || { echo "setting up $(VENV) …"; $(PYTHON) -m venv $(VENV); }
	@echo "installing …"
	@$(PIP) torch
	@$(PIP) uv || echo "no uv for this machine: pip goes on …"
	$(call install,$(DEMO))
	@touch $@

$(READY_DEV): $(READY)
	@echo "installing what the tests need …"
	$(call install,'.[dev]')
	@touch $@

clean: ## remove the environment, caches and build results
	rm -rf $(VENV) build dist demo .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
