# Everything runs in a virtual environment of its own: needs only Python and pip.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed
JOBS   ?= 2

.PHONY: quickstart report test demos package test-slow mutants lint bench bench-wire clean

quickstart: $(STAMP)
	$(BIN)/python -m experiments quickstart

report: $(STAMP)
	$(BIN)/python -m experiments report

# Programs of tests run for moments: to optimize them takes longer. The other targets
# do, so that the optimized ones are tested too.
test: export JAX_DISABLE_MOST_OPTIMIZATIONS = 1
test: $(STAMP) lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder \
	  -m "not slow and not demos and not package" --doctest-modules ef_optax tests

demos: $(STAMP)
	$(BIN)/python -m pytest -m demos

package: $(STAMP)
	$(BIN)/python -m pytest -m package

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow

mutants: $(STAMP)
	$(BIN)/python tests/mutants.py --jobs $(JOBS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m experiments bench_update

bench-wire: $(STAMP)
	$(BIN)/python -m experiments bench_wire --workers 2
	$(BIN)/python -m experiments bench_wire --workers 4

$(STAMP): pyproject.toml
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), \
	  f'ef_optax needs Python 3.11 or newer, this is {sys.version.split()[0]}; try make PYTHON=python3.12'"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis results
