# Needs Python 3.10 or later, a C++ compiler and make; everything else goes into .venv.
#   make demo    train two networks on real digits, with PyTorch and with fastlayers (DEMO="--net cnn --epochs 3" varies it)
#   make test    run all tests                  (TESTS="tests/test_cli.py -k info" runs some of them)
#   make bench   time everything                (BENCH="--only relu --no-compile")
#   make docs    write docs/activations.md and its plots from specs.py
#   make lint    ruff                           make wheel   build dist/*.whl          make clean   remove what make made

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
DEMO ?=
BENCH ?=
TESTS ?= tests
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
SOURCES := pyproject.toml setup.py $(shell find csrc -name '*.cpp' -o -name '*.h')

.PHONY: demo test bench docs lint wheel clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python -m fastlayers demo $(DEMO)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) $(TESTS)
ifeq ($(TESTS),tests)
	$(BIN)/python -m pytest -n $(JOBS) tools/ptxsim/tests
endif

bench: $(VENV)/.demo
	$(BIN)/python -m fastlayers bench $(BENCH)

docs: $(VENV)/.demo
	$(BIN)/python tools/document_activations.py

lint: $(VENV)/.test
	$(BIN)/ruff check

wheel: $(VENV)/.build
	@rm -rf dist
	@$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .
	@ls dist/*.whl

clean:
	rm -rf $(VENV) build dist *.egg-info demo.png demo.json .pytest_cache .ruff_cache
	find fastlayers -name '_C*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says that something is in the virtual environment. The extension is built again when its sources changed; once the
# package is there, installing it with an extra only adds what the extra needs.
$(VENV)/.build:
	@echo "making $(VENV) with $(TORCH) (a minute or two, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install "$(TORCH)" numpy "setuptools>=77" wheel pybind11 ninja
	@touch $@

$(VENV)/.package: $(VENV)/.build $(SOURCES)
	@echo "building and installing fastlayers (some minutes, when sources changed)"
	@$(PIP) install --no-build-isolation --editable .
	@$(BIN)/python -m fastlayers info
	@touch $@

$(VENV)/.demo: $(VENV)/.package
	@echo "installing what the demo needs"
	@$(PIP) install "fastlayers[demo]"
	@touch $@

$(VENV)/.test: $(VENV)/.package tools/ptxsim/pyproject.toml
	@echo "installing what the tests need"
	@$(PIP) install --no-build-isolation "fastlayers[test]" --editable tools/ptxsim
	@touch $@
