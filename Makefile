# Everything starts from nothing but Python and make; .venv is made on first use.
PYTHON ?= python3
# Extra packages for an accelerator: make quickstart EXTRAS=cuda13 (or cuda12, tpu).
EXTRAS ?=
VENV := .venv
BIN := $(VENV)/bin
comma := ,

.PHONY: quickstart test soak lint format bench fashion-mnist clean

# One stamp for each choice of extras, so that a changed choice is installed.
RUN := $(VENV)/run-$(EXTRAS)
DEV := $(VENV)/dev-$(EXTRAS)

$(RUN): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".$(if $(EXTRAS),[$(EXTRAS)])"
	touch $@

$(DEV): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt \
	  -e ".[dev,parity$(if $(EXTRAS),$(comma)$(EXTRAS))]"
	touch $@ $(RUN)

quickstart: $(RUN) ## train a small ViT on real handwritten digits, about a minute
	$(BIN)/python -m vitjax.train --config configs/quickstart.py --workdir runs/quickstart

test: $(DEV) ## all tests, except those that need an accelerator
	$(BIN)/python -m pytest -n 2 --dist loadfile

soak: $(DEV) ## long tests of what a run survives, perhaps an hour
	$(BIN)/python -m pytest -m soak

lint: $(DEV) ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright

format: $(DEV) ## rewrite in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(RUN) ## speed of the training step on this machine
	$(BIN)/python -m vitjax.benchmark --model mu/16 --batch_size 64 --image_size 64 --steps 10

fashion-mnist: data/usr/share/datasets/fashion-mnist ## real pictures of clothes, from Debian's package

data/usr/share/datasets/fashion-mnist:
	mkdir -p data
	cd data && apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb .

clean:
	rm -rf $(VENV) build *.egg-info
