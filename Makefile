# For a machine with Python 3.11 or newer, pip and make; nothing else is needed.
#   make picture    install sfumato into ./.venv and make some pictures with it
#   make fullsize   published networks in full size beside the reference (an hour, 20 GB of memory, 40 GB of disk)
#   make matrix     every task with every sampler and guide on every family, tiny weights (hours)
#   make test       install the tests' packages as well, check style and types, and run the tests
# Everything goes into ./.venv and ./pictures. What is installed is not installed again until pyproject.toml or
# constraints.txt change. Another interpreter: make picture PYTHON=python3.12

PYTHON ?= python3
# Tests at a time; each has one thread, so that they do not fight for the cores.
JOBS   ?= 2

VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
TORCH  := torch==2.13.0
CPU    := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help picture test lint fullsize matrix clean

help: ## Say what there is
	@echo "sfumato: make TARGET, where TARGET is"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

picture: $(VENV)/runtime.stamp ## Install sfumato into ./.venv and make pictures from a few sentences
	@mkdir -p pictures
	@say() { echo "  $$1"; $(BIN)/sfumato generate "$$1" -o "$$2" --force >/dev/null; }; set -e; \
	echo "Making pictures:"; \
	say "a rocket, 3d style" pictures/rocket.png; \
	say "tiger face, flat style" pictures/tiger.png; \
	say "palm tree, noto style, light blue background" pictures/palm.png; \
	say "birthday cake, soft style, pink background" pictures/cake.png; \
	echo "  strawberry, blob style (four seeds)"; \
	$(BIN)/sfumato generate "strawberry, blob style" --count 4 -o pictures/strawberry.png --force >/dev/null
	@echo
	@echo "The pictures are in $(CURDIR)/pictures:"
	@ls pictures | sed 's/^/  /'
	@echo "Try next:"
	@echo "  $(BIN)/sfumato generate \"volcano, cartoon style, purple background\" --seed 3 -o volcano.png"
	@echo "  $(BIN)/sfumato generate --like pictures/rocket.png -o again.png    # the same picture again"
	@echo "  $(BIN)/sfumato generate --help"

test: $(VENV)/dev.stamp lint ## Install the tests' packages and run all checks and tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

lint: $(VENV)/dev.stamp ## Check style (ruff) and types (mypy --strict)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

fullsize: $(VENV)/dev.stamp ## Published networks in full size beside the reference (an hour, 20 GB of memory)
	@$(BIN)/python -m benchmarks.fullsize

matrix: $(VENV)/dev.stamp ## Every task, sampler and guide on every family with tiny weights (hours)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.tasks.families_matrix

clean: ## Remove ./.venv, caches and what was built (not ./pictures)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find sfumato tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment with pip. Debian without python3-venv cannot put pip into it; the system's pip then does.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "sfumato needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@echo "Making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV); \
		$(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; } || \
		{ rm -rf $(VENV); echo "cannot make an environment with pip: apt install python3-venv, then try again"; exit 1; }

# PyTorch first: its CPU build from its own index if that answers within a few seconds, else from wherever pip
# looks. The index offers CPU builds only; --no-deps because all else comes, pinned, from the usual place.
$(VENV)/torch.stamp: constraints.txt | $(BIN)/python
	@if $(BIN)/python -c 'import urllib.request as u; u.urlopen("$(CPU)/torch/", timeout=5)' 2>/dev/null; then \
		echo "Installing $(TORCH), CPU build, from $(CPU)"; \
		$(PIP) install --no-deps --index-url $(CPU) $(TORCH); \
	else \
		echo "Installing $(TORCH) from pip's own sources ($(CPU) does not answer)"; \
		$(PIP) install --no-deps $(TORCH); \
	fi
	@case "$$($(BIN)/python -m pip list --format freeze 2>/dev/null | grep '^torch==')" in \
		*+cpu) ;; *) if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
		echo "This is not the CPU build: it brings CUDA, several gigabytes"; fi;; esac
	@touch $@

$(VENV)/runtime.stamp: pyproject.toml constraints.txt $(VENV)/torch.stamp
	@echo "Installing sfumato and what it needs (about 30 packages)"
	@$(PIP) install --quiet -c constraints.txt hatchling editables
	@$(PIP) install --quiet -c constraints.txt --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/runtime.stamp
	@echo "Installing what the tests need (about 50 packages; the oracles among them are large)"
	@$(PIP) install --quiet -c constraints.txt --no-build-isolation -e '.[dev,train]'
	@$(PIP) install --quiet -c constraints.txt --no-deps k-diffusion azula nvidia-physicsnemo
	@! $(PIP) list --format freeze 2>/dev/null | grep '^torchvision==' || \
		{ echo "torchvision must not be installed: it replaces PyTorch's CPU build"; exit 1; }
	@touch $@
