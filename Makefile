# `make` lists what can be done. Everything lives in .venv; nothing is installed outside it.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# The newest Python there is of those that are supported; PYTHON=... chooses another.
PYTHON ?= $(firstword $(foreach version,3.13 3.12 3.11,$(shell python$(version) -c 'print("python$(version)")' 2>/dev/null)) python3)
IN_VENV := .venv/bin/python
INSTALLED := .venv/installed
SEED ?= 0
MINI_MIAS ?=

.PHONY: help install demo test test-slow chaos bench experiments format lock clean

help: ## List the commands
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Make .venv from the hashed lock, with mammo in it

# --no-deps: the lock is complete, and older versions of pip refuse in a hashed lock what others require with an extra.
$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "mammo needs Python 3.11 to 3.13, this is " + sys.version)'
	test -x $(IN_VENV) || $(PYTHON) -m venv .venv
	$(IN_VENV) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements.lock
	$(IN_VENV) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(INSTALLED)

demo: $(INSTALLED) ## Run the whole job on phantom films: a dataset run, a trained model, two reports
	.venv/bin/mammo demo

test: $(INSTALLED) ## Run the linters, the type checker and the tests
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .
	$(IN_VENV) -m mypy
	$(IN_VENV) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: $(INSTALLED) ## Run the tests that `make test` leaves out, as they take long
	$(IN_VENV) -m pytest -m slow

chaos: $(INSTALLED) ## Kill and damage builds at random, and compare what the next ones give (SEED=0)
	$(IN_VENV) tests/chaos.py --seed $(SEED)

bench: $(INSTALLED) ## Run the benchmarks, each against its named alternative
	for benchmark in tests/benchmarks/*.py; do $(IN_VENV) $$benchmark || exit; done

experiments: $(INSTALLED) ## Train on phantoms, on permuted labels and on mini-MIAS (MINI_MIAS=FILMS), an hour or so
	$(IN_VENV) tests/experiments/phantoms.py experiments/phantoms
	$(IN_VENV) tests/experiments/shuffled_labels.py experiments/phantoms
	$(if $(MINI_MIAS),$(IN_VENV) tests/experiments/mini_mias.py experiments/mini-mias $(MINI_MIAS))

format: $(INSTALLED) ## Format the code
	$(IN_VENV) -m ruff check --fix .
	$(IN_VENV) -m ruff format .

lock: ## Renew requirements.lock, and docker/*.lock with the same versions, from pyproject.toml (needs uv)
	$(call locked,requirements.lock,--extra cpu --extra s3 --extra dev pyproject.toml)
	$(call locked,docker/etl.lock,--constraint requirements.lock --extra s3 pyproject.toml)
	$(call locked,docker/cpu.lock,--constraint requirements.lock --extra cpu --extra s3 --extra tune pyproject.toml)
	$(call locked,docker/gpu.lock,--constraint requirements.lock --extra gpu --extra s3 --extra tune pyproject.toml)
	echo hatchling | $(call locked,docker/build.lock,--constraint requirements.lock -)

define locked
{ echo '# Made by `make lock` (uv pip compile --universal --generate-hashes). Do not edit.'; \
	  uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 $(2); } > $(1).new \
	  && mv $(1).new $(1)
endef

clean: ## Remove .venv and the files of demo and experiments
	rm -rf .venv demo experiments
