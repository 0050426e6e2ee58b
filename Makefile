# GNU make and a POSIX shell. `make` alone lists the targets.
#   PYTHON=/path/to/python3.12   the interpreter that .venv is made from (default: python3, or a newer one on PATH)
#   TORCH_INDEX=URL              one more package index, e.g. https://download.pytorch.org/whl/cpu without a GPU
#   WORKERS=8                    the most processes that `make test` may use (default: 2)

PYTHON ?=
TORCH_INDEX ?=
REPO ?=
REVISION ?= main
VENV ?= .venv
WORKERS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.kdutils-installed
BOOK := $(VENV)/.kdutils-book-installed
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.14 python3.11 python)
# A file, or a notebook, is one process's work from its first test to its last; one thread each, so that none waits.
PYTEST := OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q -n logical --maxprocesses $(WORKERS) --dist loadfile
RECENT := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help env demo test lab notebooks book lint colab clean

help: ## list these targets
	@echo "Targets:"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

env: $(STAMP) ## install everything into .venv (once; again when the requirements change)

$(STAMP): requirements.txt pyproject.toml
	@set -eu; \
	if ! "$(BIN)/python" -c 'import pip; $(RECENT)' 2>/dev/null; then \
		found=; \
		for candidate in $(CANDIDATES); do \
			if "$$candidate" -c '$(RECENT)' 2>/dev/null; then found="$$candidate"; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "kdutils needs Python 3.11 or newer: install one, or name it with 'make env PYTHON=/path/to/python3.12'." >&2; \
			exit 1; \
		fi; \
		echo "Creating $(VENV) with $$("$$found" --version)"; \
		"$$found" -m venv --clear "$(VENV)"; \
	fi
	@echo "Installing requirements.txt into $(VENV); the first time takes a few minutes"
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --upgrade pip
	@"$(BIN)/python" -m pip install --disable-pip-version-check $(if $(CI),--quiet) $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") -r requirements.txt
	@"$(BIN)/python" -m pip install --quiet --quiet --disable-pip-version-check --no-deps -e .
	@touch "$(STAMP)"
	@echo "The environment is ready: make demo, make lab or make test"

demo: env ## run every notebook at the demo preset and draw the results board, runs/report.html
	@echo "Running every notebook at the demo preset, at most two minutes each; finished runs are skipped"
	@"$(BIN)/python" -m kdutils run --all --preset demo
	@"$(BIN)/python" -m kdutils report
	@echo "The results board is runs/report.html, the executed notebooks lie beside it in runs/"

test: env lint ## lint, run the tests, then run every notebook and compare what does not depend on training
	@echo "Running the tests, $(WORKERS) files at a time"
	@$(PYTEST) --no-loadscope-reorder -m "not apart" tests
	@echo "Running the tests of a pretend GPU, in a process of their own"
	@OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q -m apart tests
	@echo "Running the notebooks as they are committed; runs that are finished in runs/ are loaded"
	@KDUTILS_HEADLESS=1 $(PYTEST) --nbval-lax --nbval-current-env --nbval-cell-timeout=900 \
		--nbval-sanitize-with tests/notebooks.sanitize notebooks

lint: env ## check the style of modules, tests and notebooks
	@echo "Checking the style"
	@"$(BIN)/python" -m ruff check .
	@"$(BIN)/python" -m ruff format --check .

lab: env ## open the notebooks in JupyterLab
	@echo "Opening JupyterLab in notebooks/"
	@"$(BIN)/python" -m jupyter lab notebooks

notebooks: env ## execute the committed notebooks again, in place, and mark the outputs that the tests compare
	@echo "Executing the committed notebooks in place"
	@"$(BIN)/python" -m kdutils refresh
	@"$(BIN)/python" -m tests.compared

book: $(BOOK) ## build the notebooks and the modules as a book with a search, build/book/index.html
	@echo "Building the book; what has not changed is not built again"
	@"$(BIN)/python" -m book

$(BOOK): requirements-book.txt $(STAMP)
	@echo "Installing requirements-book.txt into $(VENV)"
	@"$(BIN)/python" -m pip install --disable-pip-version-check --quiet -r requirements-book.txt
	@touch "$(BOOK)"

colab: env ## let badges and set-up cells name your copy: make colab REPO=owner/name [REVISION=branch or tag]
	@"$(BIN)/python" -m kdutils colab "$(REPO)" --revision "$(REVISION)"

clean: ## delete caches and build leftovers; never runs/, results/ or .venv
	@echo "Deleting caches and build leftovers; runs/, results/ and $(VENV) stay"
	@rm -rf build dist kdutils.egg-info .pytest_cache .ruff_cache .coverage
	@find kdutils tests notebooks benchmarks -type d \( -name __pycache__ -o -name .ipynb_checkpoints -o -name .pytest_cache \) \
		-prune -exec rm -rf {} +
