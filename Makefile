# Everything runs in a .venv of its own; `make demo` and `make test` install all that they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --constraint constraints.txt
TOOLS := $(CURDIR)/$(VENV)/tools

.PHONY: demo test test-fast test-servers conformance lint types contracts check docs clean

demo: $(VENV)/.demo
	$(BIN)/python examples/magika_data.py
	$(BIN)/mopt build --recipe examples/magika/mopt.toml --out build/magika --force
	$(BIN)/mopt verify build/magika

test: $(VENV)/.test $(VENV)/.tools $(VENV)/.bindings
	MOPT_TOOLS=$(TOOLS) $(BIN)/python -m pytest -n 2 --dist worksteal --durations=25

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow and not servers" -n 2 --dist worksteal

# Every server that can be installed, and the tests that only they have: several gigabytes, a Java 17 for some, npm for Azure's.
test-servers: $(VENV)/.test
	MOPT_TOOLS=$(TOOLS) $(BIN)/mopt tools install all
	$(INSTALL) gcp-storage-emulator
	if command -v npm > /dev/null; then npm install --silent --no-fund --prefix $(VENV)/azurite azurite; fi
	PATH=$(CURDIR)/$(VENV)/azurite/node_modules/.bin:$$PATH MOPT_TOOLS=$(TOOLS) \
	  $(BIN)/python -m pytest -m servers -n 2 --dist loadfile --durations=25

# Every node model of ONNX's own tests that ONNX Runtime answers as ONNX expects, through a build; `make test` takes some of them.
conformance: $(VENV)/.test
	$(BIN)/python -m tests.conformance

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

contracts: $(VENV)/.test
	$(BIN)/lint-imports

check: lint types contracts

# The pages as a site, in site/; the generated ones are committed, and a test compares them with the code.
docs: $(VENV)/.docs
	$(BIN)/zensical build --clean --strict

clean:
	rm -rf $(VENV) build dist site .cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[openvino,sizing]' --group demo
	touch $@

# silero-vad and foolbox are wanted for the models and pictures in them, not for what they depend on.
$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[all,tensorrt-rtx]' --group lint --group test --group models
	$(INSTALL) --no-deps silero-vad foolbox
	touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --group docs
	touch $@

# Servers live in environments of their own, for the real tritonserver needs NumPy 1, say. These are the light ones.
LIGHT := triton bentoml litserve kserve llama_cpp
$(VENV)/.tools: $(LIGHT:%=mopt/system/environments/%.txt) | $(VENV)/.test
	MOPT_TOOLS=$(TOOLS) $(BIN)/mopt tools install $(LIGHT)
	touch $@

# Python's side of TensorRT alone, to check that it has every name that mopt uses; the library itself needs a GPU.
$(VENV)/.bindings: | $(VENV)/bin/python
	$(PIP) install --no-deps --target $(VENV)/bindings/10.16 tensorrt-cu13-bindings==10.16.1.11
	$(PIP) install --no-deps --target $(VENV)/bindings/11.4 tensorrt-cu13-bindings==11.4.0.106
	touch $@
