# Two commands do everything on a machine with Python 3.11+ and make: `make serve` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
HOST   ?= 127.0.0.1
PORT   ?= 8000
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check

# Without a GPU the pinned release is the CPU choice; with one, pip takes the build for the driver's CUDA.
ifneq ($(shell nvidia-smi -L 2>/dev/null | grep GPU),)
TORCH ?= torch>=2.11
else
TORCH ?= torch==2.13.0
endif

TRITON := .venvs/triton
OPERATIONS := .venvs/operations
AUDIT := .venvs/audit

# Processes that the default suite is shared among; 0 runs it in one, as a debugger wants it.
WORKERS ?= 2
SOAK_MINUTES ?= 30

.PHONY: serve test test-slow test-ray test-soak test-clients test-operations test-kernel test-gpu audit lint types bench page screenshots clean

serve: $(VENV)/.serve
	$(BIN)/genarm serve --host $(HOST) --port $(PORT) $(ARGS)

test: lint types
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not clients and not operations and not ray" $(ARGS)

# What takes long: 100,000 sampled answers, thousands of random requests, the benchmark's scenarios, trainings.
test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m "slow and not clients and not ray" $(ARGS)

# Half as much again as a server can take, for half an hour (SOAK_MINUTES=): everything right, nothing held, memory flat.
test-soak: $(VENV)/.test
	SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/python -m pytest -m slow --capture=no tests/faults/test_soak.py $(ARGS)

# Two replicas on a real Ray Serve on this machine: streams, changes, keys, kills and redeploys (Ray comes from PyPI). What it costs
# is measured by `make test-ray ARGS="-m ray"` too.
test-ray: $(VENV)/.ray
	$(BIN)/python -m pytest -m "ray and not slow" -rs tests/replicas $(ARGS)

# Other people's clients against the server, each in an environment of its own under .venvs (PyPI and npm, first time only).
test-clients: $(VENV)/.test
	$(BIN)/python -m pytest -m clients --capture=no tests/clients/test_conformance.py $(ARGS)

# What lies in deploy/ under other people's linters, and a real Prometheus that reads a real server. Linters come from PyPI (first
# time only); prometheus and systemd-analyze are Debian's packages prometheus and systemd. What is not there is skipped.
test-operations: $(VENV)/.test $(OPERATIONS)/.stamp
	$(BIN)/python -m pytest -m operations -rs tests/deploy $(ARGS)

# The Triton kernel in Triton's interpreter, on any CPU. Triton lies beside the environment: torch for CPUs comes without it.
test-kernel: $(VENV)/.test $(TRITON)/.stamp
	TRITON_INTERPRET=1 PYTHONPATH=$(TRITON) $(BIN)/python -m pytest -m kernel tests/server/engine $(ARGS)

# What needs a GPU: the kernel compiled, CUDA graphs against running, the engine on CUDA against the CPU. Skipped without one.
test-gpu: $(VENV)/.test
	$(BIN)/python -m pytest -m "gpu or kernel" -rs tests/server/engine $(ARGS)

# Known vulnerabilities of everything in the environment, asked of PyPI's advisories: what could not be asked about is a failure.
audit: $(VENV)/.serve $(AUDIT)/.stamp
	$(BIN)/pip --disable-pip-version-check list --exclude-editable --format=freeze | sed 's/+[a-z0-9.]*$$//' > $(AUDIT)/installed.txt
	$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps --requirement $(AUDIT)/installed.txt $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/genarm bench $(ARGS)

# Builds the playground from server/playground/source anew; needs npm. What it builds is committed.
page: $(VENV)/.serve
	$(BIN)/python -m server.playground.build

# Draws docs/page.png and docs/map.png anew: the demo in a real Chromium.
screenshots: $(VENV)/.test
	$(BIN)/python tests/playground/screenshots.py

clean:
	rm -rf $(VENV) .venvs build *.egg-info

# The stamps make a second run take seconds: an install is repeated only when pyproject.toml changed.
$(VENV)/.torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "genarm needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet "$(TORCH)"
	touch $@

$(VENV)/.serve: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet --editable .
	touch $@

$(VENV)/.bench: $(VENV)/.serve
	$(PIP) install --quiet --editable ".[bench]"
	touch $@

$(VENV)/.test: $(VENV)/.serve
	$(PIP) install --quiet --editable ".[test]"
	touch $@

$(VENV)/.ray: $(VENV)/.test
	$(PIP) install --quiet --editable ".[ray]"
	touch $@

$(TRITON)/.stamp: $(VENV)/.test
	$(PIP) install --quiet --no-deps --upgrade --target $(TRITON) triton==3.9.0
	touch $@

$(OPERATIONS)/.stamp: tests/deploy/linters.txt
	$(PYTHON) -m venv $(OPERATIONS)
	$(OPERATIONS)/bin/pip --disable-pip-version-check install --quiet --requirement tests/deploy/linters.txt
	touch $@

$(AUDIT)/.stamp:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip --disable-pip-version-check install --quiet "pip-audit>=2.9"
	touch $@
