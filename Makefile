# Two commands:  make lab  (learn)  and  make test  (check everything).  `make help` lists the rest.
# All of them use one environment, .venv, which the first call sets up. Needed on the machine: Python >= 3.11 and make.
#
#   make setup PYTHON=/path/to/python3.12            another Python than the first fitting one on the PATH
#   make setup PIP_ARGS='--extra-index-url URL'      further arguments for pip, e.g. to get the CPU build of torch (see README)
#
# Written for any POSIX shell and GNU make 3.81 (the one that comes with macOS).

VENV = .venv
PY = $(VENV)/bin/python
# The stamp is written last, and holds the folder's path: a set-up that was interrupted leaves none, and a folder that was
# moved or copied no longer matches (scripts and the editable install hold absolute paths). Both are then set up afresh.
READY = $(VENV)/ready
PYTHON =
PIP_ARGS =
# Seconds a single notebook cell may take under `make test`; generous, since the budget of a whole lesson is 20 to 120 s.
CELL_TIMEOUT = 300
BENCH_RUNS = 5

ifneq ($(shell test -x $(PY) && cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

.PHONY: help lab setup test lessons figures bench clean

INSTALL := $(PY) -m pip install --disable-pip-version-check $(PIP_ARGS) -r requirements.txt -e .

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

lab: $(READY) ## open JupyterLab on the first lesson (sets up on the first call)
	@$(PY) -m minillm lab

setup: $(READY) ## create .venv with everything that lessons and tests need
	@echo "Ready: .venv has everything. 'make lab' opens the first lesson, '$(PY) -m minillm doctor' looks at this machine."

$(READY): requirements.txt constraints.txt pyproject.toml
	@found=; for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.14 python3.13 python3.12 python3.11 python); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "minillm needs Python 3.11 or newer, and $(if $(PYTHON),'$(PYTHON)' is not one,found none on the PATH)" \
			"(python3 is: $$(python3 --version 2>&1 || true)). Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi; \
	if ! "$$found" -c 'import venv, ensurepip' 2>/dev/null; then \
		echo "$$found cannot make virtual environments: its modules venv and ensurepip are missing." \
			"On Debian and Ubuntu: sudo apt-get install python3-venv. Then call make again." >&2; \
		exit 1; \
	fi; \
	if [ ! -x $(PY) ] || [ "$$(cat $(READY) 2>/dev/null)" != "$(CURDIR)" ]; then \
		echo "Setting up .venv with $$("$$found" --version): this takes a few minutes, once."; \
		"$$found" -m venv --clear $(VENV) || exit 1; \
	else \
		echo "The list of packages has changed: bringing .venv up to date."; \
	fi; \
	rm -f $(READY)
	$(INSTALL) || { echo "Once more: an index of packages may have had a bad moment." >&2; $(INSTALL); }
	@$(PY) -m minillm weights || echo "Warning: without the weights of the real model, what uses them is skipped." \
		"'$(PY) -m minillm weights' tries again." >&2
	@printf '%s\n' "$(CURDIR)" > $(READY)

test: $(READY) ## run everything: linter, unit tests, repository rules, every notebook
	$(PY) -m ruff check .
	$(PY) -m pytest -n 2
	OMP_NUM_THREADS=1 $(PY) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=$(CELL_TIMEOUT) \
		-n 2 --dist loadfile notebooks/*.ipynb solutions/*.ipynb

lessons: $(READY) ## build notebooks/ and solutions/ from notebooks/src
	$(PY) -m minillm lessons

figures: $(READY) ## draw the pictures in figures/ again
	@for drawing in figures/*.py; do \
		[ -e "$$drawing" ] || continue; echo "$(PY) $$drawing"; $(PY) "$$drawing" || exit 1; \
	done

bench: $(READY) ## train the tiny GPT for a minute with each of 5 fresh seeds, a line of JSON each
	@run=0; while [ $$run -lt $(BENCH_RUNS) ]; do \
		run=$$((run + 1)); $(PY) -m minillm train --corpus stories --seconds 60 --json || exit 1; \
	done

clean: ## remove the environment and all caches; my/ and the built notebooks stay
	rm -rf $(VENV) build dist minillm.egg-info .pytest_cache .ruff_cache .hypothesis
	find minillm tests notebooks figures -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
