# Everything goes through .venv, installed from constraints.txt (the lock).
#   make run     the whole pipeline on the closed world: raw text to a served, registered model
#   make test    lint, types, import boundaries, unit tests and whole flows
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# An extra package index for pip, for example one that holds CPU-only builds of torch.
TORCH_INDEX ?=
PIP    := $(BIN)/pip --disable-pip-version-check --quiet
INDEX  := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help run up serve test quick-test soak infra-test chaos browser-test lint bench study gpu-bench screenshots reference lock clean

help:  ## this page
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

$(VENV)/python: constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit(f"Python 3.11 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11")'
	@echo "creating $(VENV) and installing from constraints.txt (minutes, once)"
	$(PYTHON) -m venv $(VENV)
	# torch first and alone, so that no package that depends on it chooses another build.
	$(PIP) install $(INDEX) -c constraints.txt torch
	@touch $@

$(VENV)/run: $(VENV)/python pyproject.toml
	$(PIP) install $(INDEX) -c constraints.txt -e .
	@touch $@

$(VENV)/dev: $(VENV)/run
	$(PIP) install $(INDEX) -c constraints.txt -e '.[dev]'
	@touch $@

run: $(VENV)/run  ## run the whole pipeline on the closed world
	$(BIN)/lacewing pipeline

up: $(VENV)/run  ## start Prefect, MLflow and a worker on loopback
	$(BIN)/lacewing up

serve: $(VENV)/run  ## answer OpenAI requests with the champion
	$(BIN)/lacewing serve model=champion

lint: $(VENV)/dev  ## check style, types and import boundaries
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .

quick-test: lint  ## lint, then the quick tests
	$(BIN)/pytest --timeout=600 -m "not slow and not soak and not gpu and not browser" -n 2 --dist loadfile

# In the order of the folders: a file of whole flows that came last would leave a worker with nothing to do for minutes.
test: lint  ## everything that CI runs: lint, the quick tests and whole flows
	$(BIN)/pytest --timeout=900 -m "not soak and not gpu and not browser" -n 2 --dist loadfile --no-loadscope-reorder

soak: $(VENV)/dev  ## kills, outages, several processes, system calls (strace), real text, the README line by line; 40 minutes
	$(BIN)/pytest --timeout=1800 -m soak

infra-test: $(VENV)/dev  ## two machines on PostgreSQL and S3 (needs Debian's postgresql), and infra/ against its schemas
	$(PIP) install $(INDEX) -c constraints.txt -e '.[dev,infra]'
	$(BIN)/pytest --timeout=1800 -m infra

chaos: $(VENV)/dev  ## kill processes of a tiny pipeline at 50 random moments (an hour); SEED=2 chooses others
	LACEWING_CHAOS_KILLS=50 LACEWING_CHAOS_MINUTES=180 LACEWING_CHAOS_SEED=$(or $(SEED),1) $(BIN)/pytest -s tests/end_to_end/test_chaos.py

browser-test: $(VENV)/dev  ## walk through the pages with Chromium (needs chromium and chromium-driver)
	$(BIN)/pytest --timeout=1800 -m browser

bench: $(VENV)/dev  ## measure every claim on this machine and write docs/results.md (an hour or more)
	$(BIN)/python -m benchmarks.prepare --record
	$(BIN)/python -m benchmarks.training --record
	$(BIN)/python -m benchmarks.peers --record
	$(BIN)/python -m benchmarks.delegation --record
	$(BIN)/python -m benchmarks.cascade --record
	$(BIN)/python -m benchmarks.serving --record
	$(BIN)/python -m benchmarks.rollover --tokens 16 --threads 1 --rounds 3 --record
	$(BIN)/python -m benchmarks.flow --record
	$(BIN)/python -m benchmarks.finetuning --record
	$(BIN)/python -m benchmarks.adapters --record
	$(BIN)/python -m benchmarks.distill --record
	# These read ../shared/data.
	$(BIN)/python -m benchmarks.labels --record
	$(BIN)/python -m benchmarks.contamination --record
	$(BIN)/python -m benchmarks.factscore --record
	$(BIN)/python -m benchmarks.real_text --record

study: $(VENV)/run  ## train all ways of choosing what to ask, and write their table (hours)
	$(BIN)/lacewing study
	$(BIN)/python -m benchmarks.study --record

gpu-bench: $(VENV)/dev  ## check the kernels on a GPU, then print a table of every goal
	$(BIN)/pytest -m gpu
	$(BIN)/python -m kernels.bench

screenshots: $(VENV)/dev  ## retake the pictures from a real run (needs chromium and chromium-driver)
	$(BIN)/python docs/screenshots.py

reference: $(VENV)/run  ## write docs/reference.md: every flow and command
	$(BIN)/python -m flows.reference

lock: $(VENV)/dev  ## write constraints.txt from what is installed
	$(BIN)/pip freeze --exclude-editable | grep -viE '^(lacewing|pip|setuptools)\b' | sed 's/+[a-z0-9.]*$$//' | sort -f > constraints.txt

clean:  ## remove what can be made again (not the workspace)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
