# Everything starts from nothing but Python and make; .venv is made on first use.
VENV ?= .venv
BIN := $(VENV)/bin
# The Python of .venv, once there is one.
PYTHON ?= $(firstword $(wildcard $(BIN)/python) python3)
# Extra packages for an accelerator: make quickstart EXTRAS=cuda13 (or cuda12, tpu).
EXTRAS ?=
# The Pythons whose constraints `make constraints` writes; 3.11's stay as tested.
PYTHONS ?= python3.12 python3.13
# Test processes at a time; each takes up to 3 GB.
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
# make gpu writes its results into OUT; FLAGS are its own, such as --tiny or --seconds 300.
OUT ?= gpu
FLAGS ?=
comma := ,
.NOTPARALLEL:

.PHONY: quickstart dev quick test soak aot lint format bench gpu fashion-mnist constraints resolve clean

SUPPORTED := 3.11 3.12 3.13
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
HELD := $(patsubst $(VENV)/lib/python%,%,$(wildcard $(VENV)/lib/python*))
GOAL := $(or $(MAKECMDGOALS),quickstart)
PINS := $(wildcard constraints/python$(VERSION).txt)

# Make expands a recipe before it runs the first line: this stops with nothing made.
define check
$(if $(filter Windows_NT,$(OS)),$(error vitjax needs Linux or macOS and got Windows: run `make $(GOAL)` in WSL))
$(if $(filter $(VERSION),$(SUPPORTED)),,$(error vitjax needs Python 3.11, 3.12 or 3.13 and got $(PYTHON)$(if $(VERSION), of version $(VERSION),$(comma) which does not run): give another, `make $(GOAL) PYTHON=python3.13`))
$(if $(filter-out $(VERSION),$(HELD)),$(error $(VENV) holds Python $(HELD) and $(PYTHON) is $(VERSION): `make clean VENV=$(VENV)` removes it, then `make $(GOAL) PYTHON=$(PYTHON)`; or give another VENV))
endef

# Installs with the extras $(1); a torch that is in .venv already stays.
define install
test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
$(BIN)/python -m constraints.keep $(PINS) > $(VENV)/constraints.txt
$(BIN)/pip install -q --disable-pip-version-check -c $(VENV)/constraints.txt -e ".$(1)"
endef

# One stamp for each Python and choice of extras, so that a changed choice is installed.
RUN := $(VENV)/run-$(VERSION)-$(EXTRAS)
DEV := $(VENV)/dev-$(VERSION)-$(EXTRAS)

$(RUN): pyproject.toml $(PINS)
	$(check)
	$(call install,$(if $(EXTRAS),[$(EXTRAS)]))
	touch $@

$(DEV): pyproject.toml $(PINS)
	$(check)
	@echo "Fetching about 3 GB where torch comes with CUDA libraries (Linux); a torch that is already in $(VENV) stays."
	$(call install,[dev$(comma)parity$(if $(EXTRAS),$(comma)$(EXTRAS))])
	touch $@ $(RUN)

quickstart: $(RUN) ## train a small ViT on real handwritten digits, about a minute
	$(BIN)/python -m vitjax.train --config configs/quickstart.py --workdir runs/quickstart

dev: $(DEV) ## installs what the tests need, and no more

test: $(DEV) ## all tests, except those that need an accelerator
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

quick: $(DEV) ## the tests that start no process and train nothing, a few minutes
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not gpu and not soak and not slow"

soak: $(DEV) ## long tests of what a run survives, perhaps an hour
	$(BIN)/python -m pytest -m soak

aot: ## the tests that compile for GPUs and TPUs that are absent; installs what they need
	$(MAKE) dev EXTRAS=aot_cuda,aot_tpu
	$(BIN)/python -m pytest -m aot

lint: $(DEV) ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright

format: $(DEV) ## rewrite in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(RUN) ## speed of the training step on this machine
	$(BIN)/python -m vitjax.benchmark --model mu/16 --batch_size 64 --image_size 64 --steps 10

gpu: ## tests, speed, memory and kernels on a GPU, with PYTHON as it is: installs nothing
	$(PYTHON) -m parity.gpu --out $(OUT) $(FLAGS)

fashion-mnist: data/usr/share/datasets/fashion-mnist ## real pictures of clothes, from Debian's package

data/usr/share/datasets/fashion-mnist:
	mkdir -p data
	cd data && apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb .

constraints: ## the newest versions, one file for each Python that is found (PYTHONS="python3.13 ...")
	$(PYTHON) -m constraints.write $(PYTHONS)

resolve: ## whether everything resolves, for each Python and accelerator; needs the network
	$(PYTHON) -m constraints.resolve python3.11 $(PYTHONS)

clean:
	rm -rf $(VENV) build *.egg-info
