# `make check` is what CI runs; `make fix` repairs what a machine can.
PYTHON ?= python

.PHONY: check fix lint types imports test slow bench faults

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
	$(PYTHON) -m pytest -rs --cov --cov-report=term

slow:
	$(PYTHON) -m pytest -m slow

bench:
	$(PYTHON) -m evals.bench.startup
	$(PYTHON) -m evals.bench.routing --peers
	$(PYTHON) -m evals.bench.answers
	$(PYTHON) -m evals.bench.serve
	$(PYTHON) -m evals.bench.pool
	$(PYTHON) -m evals.bench.engines

# About half an hour on two idle cores; `pip install '.[faults]'` brings what cuts the power (R2). Every push runs smaller numbers.
faults:
	$(PYTHON) -m evals.faults --large --out docs/faults.md
