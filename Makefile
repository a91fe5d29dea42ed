# The two commands of this project are `make demo` and `make test`; both make their own environment.
# `make gpu-check` is for a machine with an NVIDIA GPU.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
GPU_VENV ?= .venv-gpu
GPU_STAMP := $(GPU_VENV)/.installed

.PHONY: demo test lint types unit doctests docs wheel gpu-check readme-figures export-table clean

demo: $(STAMP)
	$(BIN)/python -m gpt2ja_bench.making.demo

test: $(STAMP) lint types unit doctests docs wheel
	@echo "every check passed"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/pytest --cov

doctests: $(STAMP)
	$(BIN)/pytest --quiet --doctest-modules runtime/gpt2ja_onnx

docs: $(STAMP)
	$(BIN)/python docs/make_api.py

# The wheel as a user gets it: in an empty environment, with onnxruntime and nothing of PyTorch.
wheel: $(STAMP)
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --no-isolation --wheel --outdir build/wheel .
	$(PYTHON) -m venv --clear build/wheel/env
	build/wheel/env/bin/pip install --quiet --constraint constraints.txt \
		"gpt2ja-onnx[cpu] @ file://$$(ls $(CURDIR)/build/wheel/*.whl)"
	cd build/wheel && env/bin/python $(CURDIR)/tests/check_wheel.py

# Every test that needs a GPU, and the benchmark's report of it. The two builds of onnxruntime
# exclude each other, so this has an environment of its own.
gpu-check: $(GPU_STAMP)
	$(GPU_VENV)/bin/python -c 'from gpt2ja_onnx.device.choice import cuda_problem as p; exit(p())'
	$(GPU_VENV)/bin/pytest -m gpu
	$(GPU_VENV)/bin/gpt2ja-onnx bench --device cuda --output benchmarks/results/cuda

$(GPU_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/pip install --quiet --constraint constraints.txt \
		--editable ".[gpu,export,train,bench,dev]"
	touch $@

# The speed table and picture of both READMEs, from benchmarks/results/report.json.
readme-figures: $(STAMP)
	$(BIN)/python -m gpt2ja_bench.making.readme

# Size, time, memory and verification figures of every precision, at the published model's size.
export-table: $(STAMP)
	$(BIN)/python -m gpt2ja_bench.making.export_table

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[cpu,export,train,bench,dev]"
	touch $@

clean:
	rm -rf $(VENV) $(GPU_VENV) build dist
