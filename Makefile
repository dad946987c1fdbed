# The few things that a developer does here; `make` alone lists them.
PYTHON ?= python3
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python -m
PIP := $(RUN) pip --disable-pip-version-check install --quiet -c constraints.txt
# A stamp says what was installed from these very files; it lies inside .venv, so it goes when .venv goes.
INSTALLED := $(VENV)/installed
TESTABLE := $(VENV)/testable
GENERATIVE := $(VENV)/generative
READS_GGUF := $(VENV)/reads-gguf
ENCODER := models/minilm

.PHONY: help install generative demo demo-llm test test-slow lint format bench

help: ## list the targets
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv and install sinkd into it (PYTHON=python3.12 picks another Python)
	@echo "sinkd is installed in $(VENV); $(VENV)/bin/sinkd lists its commands"

generative: $(GENERATIVE) ## what T0, T5 and GPT models need too, and the prompts that were published for them
	$(RUN) sinkd prompts --fetch

demo: $(INSTALLED) ## small students with and without a teacher, on real text (ARGS="--seeds 0,1,2")
	$(RUN) sinkd demo $(ARGS)

demo-llm: $(READS_GGUF) ## a small classifier from a language model's answers, without labels (ARGS="--rows 200")
	$(RUN) sinkd demo-llm $(ARGS)

test: $(TESTABLE) ## the fast tests (ARGS="-k sinkhorn")
	$(RUN) pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

test-slow: $(TESTABLE) ## the slow tests
	$(RUN) pytest -n 2 --dist worksteal -m slow $(ARGS)

lint: $(TESTABLE) ## formatting, lint and types
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

format: $(TESTABLE) ## format the code, and mend what the linter can mend
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

bench: $(TESTABLE) $(ENCODER) ## the main benchmarks (the others are in benchmarks/): each prints a table
	$(RUN) benchmarks.loss
	$(RUN) benchmarks.pipeline
	$(RUN) benchmarks.study transport
	$(RUN) benchmarks.features
	$(RUN) benchmarks.study matching
	$(RUN) benchmarks.study objectives

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "sinkd needs Python 3.10 or later; name one, as in: make install PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(GENERATIVE): $(INSTALLED)
	$(PIP) -e '.[generative]'
	@touch $@

$(READS_GGUF): $(INSTALLED)
	$(PIP) -e '.[gguf]'
	@touch $@

$(TESTABLE): $(INSTALLED)
	$(PIP) -e '.[test]'
	@touch $@

# A pretrained encoder of six layers to try things with.
$(ENCODER): | $(INSTALLED)
	$(RUN) sinkd download minilm
