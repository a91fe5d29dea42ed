# The two commands of this project are `make demo` and `make test`; both make their own environment.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types unit wheel readme-figures export-table clean

demo: $(STAMP)
	$(BIN)/python -m gpt2ja_bench.demo

test: $(STAMP) lint types unit wheel
	@echo "every check passed"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/pytest

# The wheel as a user gets it: in an empty environment, with onnxruntime and nothing of PyTorch.
wheel: $(STAMP)
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --no-isolation --wheel --outdir build/wheel .
	$(PYTHON) -m venv --clear build/wheel/env
	build/wheel/env/bin/pip install --quiet --constraint constraints.txt \
		"gpt2ja-onnx[cpu] @ file://$$(ls $(CURDIR)/build/wheel/*.whl)"
	cd build/wheel && env/bin/python $(CURDIR)/tests/check_wheel.py

# The speed table and picture of both READMEs, from benchmarks/results/report.json.
readme-figures: $(STAMP)
	$(BIN)/python -m gpt2ja_bench.readme

# Size, time, memory and verification figures of every precision, at the published model's size.
export-table: $(STAMP)
	$(BIN)/python -m gpt2ja_bench.exports

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[cpu,export,train,bench,dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist
