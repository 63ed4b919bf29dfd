# Needs Python 3.10 or later, a C++ compiler and make; everything else goes into .venv.
#   make demo    train two networks on real digits, with PyTorch and with fastlayers (DEMO="--net cnn --epochs 3" varies it)
#   make test    run all tests                  (TESTS="tests/test_cli.py -k info" runs some of them)
#   make bench   time everything                (BENCH="--only relu --no-compile")
#   make cuda    build the CUDA kernels with nvcc and a CUDA build of torch, in an environment of their own; no GPU needed
#   make docs    write docs/activations.md and its plots from specs.py
#   make gpu-docs  write the tables of docs/gpu.md: builds the CUDA kernels, runs all kernels in the emulator
#   make lint    ruff                           make wheel   build dist/*.whl          make clean   remove what make made

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
TORCH_CUDA ?= torch==2.14.1
VENV_CUDA ?= .venv-cuda
DEMO ?=
BENCH ?=
TESTS ?= tests
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
SOURCES := pyproject.toml setup.py tools/build_extensions.py tools/cuda_toolkit.py $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.NOTPARALLEL:  # two goals would install into one environment; compilers run side by side within one
.PHONY: demo test bench cuda docs gpu-docs lint wheel clean
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

# Not editable: in this folder lie the extensions of another torch. From elsewhere Python finds what was installed.
cuda: $(VENV_CUDA)/.build $(SOURCES)
	@echo "building and installing fastlayers with its CUDA kernels (some minutes, when sources changed)"
	@FASTLAYERS_CUDA=1 FASTLAYERS_CPP=1 $(VENV_CUDA)/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
		--no-build-isolation --no-deps --force-reinstall .
	@cd $(VENV_CUDA) && bin/python -m fastlayers info && bin/python "$(CURDIR)/tools/cuda_toolkit.py"

docs: $(VENV)/.demo
	$(BIN)/python tools/document_activations.py

gpu-docs: cuda $(VENV)/.test
	$(BIN)/python tools/document_gpu.py "$$(cd $(VENV_CUDA) && bin/python -c 'import importlib.util as u; print(u.find_spec("fastlayers._CUDA").origin)')"

lint: $(VENV)/.test
	$(BIN)/ruff check

wheel: $(VENV)/.build
	@rm -rf dist
	@$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .
	@ls dist/*.whl

clean:
	rm -rf $(VENV) $(VENV_CUDA) build dist *.egg-info demo.png demo.json bench.png activations.png \
		.pytest_cache .hypothesis .ruff_cache
	find fastlayers -name '_C*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says that something is in the virtual environment. The extension is built again when its sources changed; once the
# package is there, installing it with an extra only adds what the extra needs.
$(VENV_CUDA)/.build: TORCH = $(TORCH_CUDA)
$(VENV)/.build $(VENV_CUDA)/.build: %/.build:
	@echo "making $* with $(TORCH) (a minute or two, once)"
	@$(PYTHON) -m venv $*
	@$*/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input install \
		"$(TORCH)" numpy "setuptools>=77" wheel
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
