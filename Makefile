# Everything starts from nothing but Python and make; .venv is made on first use.
PYTHON ?= python3
# Extra packages for an accelerator: make quickstart EXTRAS=cuda13 (or cuda12, tpu).
EXTRAS ?=
VENV := .venv
BIN := $(VENV)/bin
comma := ,

.PHONY: quickstart test lint format bench clean

$(VENV)/run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt \
	  -e ".[dev,parity$(if $(EXTRAS),$(comma)$(EXTRAS))]"
	touch $@ $(VENV)/run

quickstart: $(VENV)/run ## train a small ViT on real handwritten digits, about a minute
	$(BIN)/python -m vitjax.train --config configs/quickstart.py --workdir runs/quickstart

test: $(VENV)/dev ## all tests, except those that need an accelerator
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/dev ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright

format: $(VENV)/dev ## rewrite in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/run ## speed of the training step on this machine
	$(BIN)/python -m vitjax.benchmark --model mu/16 --batch_size 64 --image_size 64 --steps 10

clean:
	rm -rf $(VENV) build *.egg-info
