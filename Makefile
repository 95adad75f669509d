# Everything a person or a CI job does here. Needs Python 3.11 or newer, and make.
#
#   make demo     an example agent, answered by the built-in offline model
#   make test     install the development extra and run every check
#   make check    the same checks; installs only when pyproject.toml changed
#   make format   put the sources into the house's format
#   make simulate SEEDS=n   worlds from n seeds: several processes, faults, a nemesis; FIRST=k begins at seed k
#   make bench    measure, against a hand-written floor in the same process
#   make bench-http   measure the HTTP server on one core, against a floor, and streams in numbers
#   make bench-recovery   measure recovery, cancel and drain, with processes that are killed
#   make crash    kill processes at every point until SECONDS are over, and look at what is left
#   make guarantees   run the short tiers of what tests the promises, and write the figures into docs/guarantees.md
#   make defects  make each of a list of deliberate mistakes in a copy, and show which check catches it
#   make wire-matrix   ask the server as each version of the client libraries does; write docs/compatibility.md
#   make clean    remove what the others made

VENV ?= .venv

# The first interpreter that is new enough and can make an environment; PYTHON=... overrides the choice.
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; \
	done)
endif

BIN := $(VENV)/bin
SOURCES := framework tests examples

# How many processes run the tests; 0 is this one.
JOBS ?= 2

# How many worlds are simulated, and the first of them.
SEEDS ?= 1000
FIRST ?= 1

.PHONY: demo test check format simulate bench bench-http bench-recovery crash defects guarantees wire-matrix clean python

demo: $(VENV)/.installed
	@store=$$(mktemp -d) && trap 'rm -rf "$$store"' EXIT && \
	TREADLE_STORE="sqlite:///$$store/demo.db" TREADLE_TENANT= TREADLE_MODEL= \
	$(BIN)/treadle run examples/01-weather/weather.agent.yaml "What's the weather in Paris, in Fahrenheit?"

test: check

check: $(VENV)/.installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python -m treadle.testing.generate --check
	$(BIN)/python -m pytest -n $(JOBS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/python -m treadle.testing.generate --write

simulate: $(VENV)/.installed-dev
	$(BIN)/python -m treadle.testing.simulation --seeds $(SEEDS) --first $(FIRST)

bench: $(VENV)/.installed-dev
	$(BIN)/python tests/benchmarks/run.py

bench-http: $(VENV)/.installed-dev
	$(BIN)/python tests/benchmarks/serving.py

bench-recovery: $(VENV)/.installed-dev
	$(BIN)/python tests/benchmarks/recovery.py

# How long the crashes go on.
SECONDS ?= 3600

crash: $(VENV)/.installed-dev
	$(BIN)/python -m treadle.testing.crash --seconds $(SECONDS)

guarantees: $(VENV)/.installed-dev
	$(BIN)/python -m treadle.testing.guarantees --write

defects: $(VENV)/.installed-dev
	$(BIN)/python tests/seeded_defects/run.py

wire-matrix: $(VENV)/.installed-dev
	$(BIN)/python -m treadle.testing.wire_matrix --write

clean:
	rm -rf $(VENV) .venv-wire build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find framework tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made anew whenever pyproject.toml changes: what a dependency left behind never helps.
$(VENV)/.installed: pyproject.toml | python
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | python
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(VENV)/.installed $@

python:
	@test -n "$(PYTHON)" || { echo "treadle needs Python 3.11 or newer with venv; name it: make PYTHON=/path/to/python" >&2; exit 1; }
