# One word runs everything. A fresh Linux machine needs Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

.PHONY: demo test setup setup-dev check fix docs bench faults tensorflow clean

demo: setup ## the whole road on data it makes
	$(BIN)/skyriver demo

test: setup-dev mosquitto wrk ## all tests, on two cores in minutes
	$(BIN)/python -m pytest -n auto --dist loadfile tests

.PHONY: mosquitto
mosquitto: # a broker that the tests need and no wheel brings; without it, and without CI, they are skipped
	@PATH="$$PATH:/usr/sbin" command -v mosquitto >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mosquitto; } \
	  || echo "mosquitto is not installed: its tests are skipped. On Debian: apt install mosquitto"

check: setup-dev ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## what the documents take from the code: state diagrams, the API's contract
	$(BIN)/python -m skyriver.wiring.diagrams > docs/states.md
	$(BIN)/python -m skyriver.wiring.contract > docs/openapi.json

.PHONY: wrk
wrk: # the load generator of bench/serving.py, which no wheel brings; without it that bench measures nothing
	@command -v wrk >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends wrk; } \
	  || echo "wrk is not installed: serving is not measured. On Debian: apt install wrk"

bench: setup wrk ## all measurements; each prints one JSON document
	@for file in bench/[a-z]*.py; do $(BIN)/python $$file || exit 1; done

faults: setup-dev mosquitto ## the tests that kill, corrupt and fill, many times; then a thousand kills each of a cloud and of a stream
	FAULT_ROUNDS=50 $(BIN)/python -m pytest tests/faults
	$(BIN)/python bench/faults.py

tensorflow: setup-dev ## the Keras sample with TensorFlow, from requirements.txt to answer: fetches 300 MB, writes 1.4 GB
	$(BIN)/python -m pytest -m fetching tests/road/test_tensorflow.py

setup: $(VENV)/.base
setup-dev: $(VENV)/.dev

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Skyriver needs Python >= 3.11; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
ifdef UV
	$(UV) venv -q --allow-existing --python $(PYTHON) $(VENV)
else
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing. On Debian: apt install python3-venv"; exit 1; }
endif
	@touch $@

$(VENV)/.base: $(VENV)/.python pyproject.toml
	@echo "Installing the package into $(VENV) ..."
ifdef UV
	$(UV) pip install -q --python $(BIN)/python -e .
else
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
endif
	@touch $@

$(VENV)/.dev: $(VENV)/.base constraints.txt
	@echo "Installing what the tests need into $(VENV) ..."
ifdef UV
	$(UV) pip install -q --python $(BIN)/python --torch-backend cpu -c constraints.txt -e '.[dev]'
else
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
endif
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
