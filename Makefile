# `make demo` runs the main job and `make test` the tests, each from a bare machine: both make their own
# virtual environment and install what is missing. Needs make, git and Python 3.11 or newer.

VENV ?= .venv
QT_API ?= pyside6
BIN := $(VENV)/bin
SOURCES := src tests scripts docs examples $(wildcard benchmarks)
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	"$$python" -c '$(RECENT)' 2>/dev/null && command -v "$$python" && break; done)

export QT_API
export PYTEST_QT_API := $(QT_API)

.DEFAULT_GOAL := help
.PHONY: help demo test check docs constraints clean

help: ## Say what there is to make
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile

demo: $(VENV)/installed ## Generate tissue, train, index, query; write demo-output/hits.png
	$(BIN)/napari-cmrir demo --out demo-output

# The tests' arrays are small: a process a core is faster than threads. Four processes need 6 GB of memory.
test: export OMP_NUM_THREADS ?= 1
test: $(VENV)/installed ## Run the tests, on a virtual display where there is none (PYTEST_ARGS="-k words")
	$(BIN)/python scripts/with_display.py $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadgroup $(PYTEST_ARGS)

check: $(VENV)/installed ## Run the linters, the type checker, the import contract, the structure and the manifest's check
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/structure.py
	$(BIN)/npe2 validate napari.yaml

docs: $(VENV)/installed ## Build the documentation site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

constraints: $(VENV)/installed ## Write the versions installed in the virtual environment to constraints.txt
	$(BIN)/python scripts/constraints.py > constraints.txt

clean: ## Remove the virtual environment and the demo's output
	rm -rf $(VENV) demo-output site

$(VENV)/installed: pyproject.toml constraints.txt scripts/environment.py
	@"$(PYTHON)" -c '$(RECENT)' 2>/dev/null || { \
		echo "No Python 3.11 or newer was found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" scripts/environment.py $(VENV) $(QT_API)
	@touch $@
