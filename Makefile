# make venv, make test, make demo: nothing has to be installed by hand before.

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
# More than there are cores: tests with processes of their own wait most of the time.
JOBS = 3

INSTALLED = $(VENV)/.installed
PACKAGE = lossguard agent probes detectors tui
OURS = tests examples benchmarks

.PHONY: help venv demo test check format bench bench-detection bench-detectors soak clean

help:
	@echo 'make venv     a virtual environment in $(VENV) with everything pinned in constraints.txt'
	@echo 'make demo     a small training run with real trouble, guarded and unguarded side by side'
	@echo 'make check    formatting, lint, types, import contracts'
	@echo 'make test     make check, then all tests'
	@echo 'make format   let ruff format the code and fix what it can'
	@echo 'make bench    the benchmarks: performance, and detection quality (alone: make bench-detection)'
	@echo 'make soak     the long tests, 100,000 steps, ten million observations and frames, a million hostile inputs: hours'
	@echo 'make clean    remove the environment, caches and build products'

venv: $(INSTALLED)

# pip first: dependency groups need 25.1, and a new environment may bring an older one. Torch is
# named in the same call as all the rest, so that the one in constraints.txt is the only one.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip
	$(BIN)/python -m pip install --quiet -c constraints.txt --build-constraint constraints.txt \
	    --group dev --editable . torch
	touch $@

demo: venv
	$(BIN)/lossguard demo

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy $(OURS)
	$(BIN)/lint-imports

test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m "not slow"

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv bench-detection bench-detectors
	$(BIN)/python benchmarks/spine.py
	$(BIN)/python -m benchmarks.probe_overhead
	$(BIN)/python -m benchmarks.snapshot_cost
	$(BIN)/python -m benchmarks.tui_load
	$(BIN)/python -m benchmarks.report_cost
	$(BIN)/python -m benchmarks.host_safety

bench-detection: venv
	$(BIN)/python -m benchmarks.detection

bench-detectors: venv
	$(BIN)/python -m benchmarks.detector_cost

soak: venv
	$(BIN)/pytest -n $(JOBS) -m slow
	$(BIN)/python -m benchmarks.probe_soak
	$(BIN)/python -m benchmarks.detector_cost --steps 10000000
	$(BIN)/python -m benchmarks.fuzz
	$(BIN)/python -m benchmarks.soak

clean:
	rm -rf $(VENV) build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
