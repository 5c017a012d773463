PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint slow

run: .venv/installed
	$(BIN)/deepcuts run finetune -f pipelines/examples/support.yaml

test: lint
	$(BIN)/pytest -q

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

slow: .venv/installed
	$(BIN)/pytest -q -m slow

# constraints.txt pins what was tested; the CUDA build of torch is about 5 GB
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@
