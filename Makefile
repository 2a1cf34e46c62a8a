# quickstart: from nothing to a pruned network.  check: style and types.
# test: the tests, without the slow ones.  test-all: all of them.
# audit: known vulnerabilities in the installed packages.
# results/NAME.csv: runs experiments/NAME.yaml and writes its survivors' table; results/NAME_front.png: its picture.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Tests compute on one thread each; a file's tests stay together and share their fixtures. tests/conftest.py has the
# number of processes and the order of the files.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: quickstart test test-all check audit clean

quickstart: $(VENV)/.installed
	$(BIN)/evoprune run experiments/quickstart.yaml --overwrite

test: $(VENV)/.installed-dev
	$(PYTEST) -m 'not slow'

test-all: $(VENV)/.installed-dev
	$(PYTEST)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(VENV)/.installed-dev
	$(BIN)/pip-audit --skip-editable

# The survivors of an experiment as a small table: make results/fashion_cnn.csv
results/%.csv: experiments/%.yaml $(VENV)/.installed
	$(BIN)/evoprune run $< --out results/$* --overwrite
	$(BIN)/python -c "import evoprune; evoprune.load_run('results/$*').survivors.to_csv('$@', index=False)"

# The front that an experiment found, as a picture: make results/quickstart_front.png
results/%_front.png: experiments/%.yaml $(VENV)/.installed
	$(BIN)/evoprune run $< --out results/$* --overwrite
	cp results/$*/plots/front.png $@

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch and torchvision are chosen together first, so that the two fit each other.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV); the first time, this downloads PyTorch"
	$(PIP) install torch torchvision
	$(PIP) install --editable ".[digits]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --editable ".[dev]"
	@touch $@
