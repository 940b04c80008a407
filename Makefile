# make demo   answers questions about the clips in watchword/demo/clips with the embedded model
# make test   runs the tests, parity with the reference included
# make check  what CI runs: format, lint, types, import contracts, budgets, tests
#
# Each does its own set-up in .venv and is quick the second time. Needs Python 3.11 or newer; PYTHON=... chooses one.

PYTHON ?= $(shell for one in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$one -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$one && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt
# A process for each core, for the tests compute with one thread; a file's tests stay together and share what they build.
WORKERS := -n logical --maxprocesses 4 --dist loadfile
PARITY := transformers==4.56.2 sentencepiece protobuf accelerate peft

.PHONY: demo test check clean
.DELETE_ON_ERROR:

demo: $(VENV)/.ready-demo
	@echo "== asking the embedded models about clips and pictures of shapes"
	@$(BIN)/watchword demo

test: $(VENV)/.ready-test
	@failed=0; \
	echo "== tests, 1 of 2: units and laws, with the shape annotations enforced"; \
	$(BIN)/pytest $(WORKERS) --ignore=tests/parity --ignore=tests/parity5 \
		--jaxtyping-packages=watchword,tests.typecheck.checked || failed=1; \
	echo "== tests, 2 of 2: parity with transformers 4.56.2"; \
	$(BIN)/pytest $(WORKERS) tests/parity || failed=1; \
	exit $$failed

check: $(VENV)/.ready-test
	@scripts/check

clean:
	@echo "== removing $(VENV)"
	@rm -rf $(VENV)

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and none was found; install it," \
		"or name it: make PYTHON=/path/to/python3"; exit 1; }
	@echo "== making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch comes first and alone, so that nothing installed after it can bring another build of it.
$(VENV)/.torch: $(VENV)/.python constraints.txt
	@echo "== installing torch (the first time this takes some minutes)"
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.ready-demo: $(VENV)/.torch $(INPUTS)
	@echo "== installing watchword and what it needs"
	@$(PIP) -e .
	@touch $@

# torchvision serves the reference's video processors only, and must not bring a torch of its own.
$(VENV)/.ready-test: $(VENV)/.ready-demo $(INPUTS)
	@echo "== installing the tools of the tests, and the reference they compare with"
	@$(PIP) -e ".[dev]" $(PARITY)
	@$(PIP) --no-deps "$$(grep '^torchvision==' constraints.txt)"
	@touch $@
