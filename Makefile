# Each target makes the environment that it needs; `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
GPU_VENV ?= .venv-gpu
GPU_STAMP := $(GPU_VENV)/.installed
GPU_RESULTS ?= build/gpu-check
GPU_WHEELS ?=
# All extras, since pytest imports every test module to find those that need a GPU.
GPU_EXTRAS ?= gpu,export,train,bench,serve,batch,ray,constrain,dev
# With a directory of wheels, the system's torch is used, and what it pins itself.
GPU_UNPINNED := $(if $(GPU_WHEELS),^(torch|sympy|mpmath|networkx|fsspec|filelock)==,^$$)
# One step: ten minutes at most, its output in a log and its exit status kept.
gpu_step = @mkdir -p $(GPU_RESULTS); timeout 600 sh -c '$(strip $(2))' \
	> $(GPU_RESULTS)/$(1).log 2>&1; status=$$?; tail -n 15 $(GPU_RESULTS)/$(1).log; exit $$status
KERNELS := kernels/gpt2ja_kernels/_kernels.so
# As a module, so that plugins in tests/ can be named with -p.
PYTEST := $(BIN)/python -m pytest

# Tests that need no export and no training, and those among them that take long or do need one.
QUICK_TESTS := $(addprefix tests/runtime/test_, \
	beam.py config.py engine.py out_of_memory.py sampler.py text.py)
NOT_QUICK := $(addprefix --deselect=tests/runtime/test_engine.py::test_, \
	one_buffer_serves_every_number_of_rows ten_thousand_requests_leave_nothing_behind)

.DEFAULT_GOAL := help
.PHONY: help kernels demo test quick lint format types unit doctests docs settings wheel gpu-check \
	gpu-missing gpu-install gpu-tests gpu-exports gpu-benchmark readme-figures export-table \
	generation-settings llama-server cluster-simulation clean

help:  ## List the targets
	@sed -nE 's/^([a-z-]+):.*##  *(.*)/\1|\2/p' Makefile | \
		while IFS='|' read -r name text; do printf '%-19s %s\n' "$$name" "$$text"; done

kernels: $(KERNELS)  ## Compile the native operators, if their sources have changed

demo: $(STAMP) $(KERNELS)  ## Export the demo model, generate with it, and compare with PyTorch
	$(BIN)/python -m gpt2ja_bench.making.demo

test: $(STAMP) lint types unit doctests docs wheel  ## Run every check
	@echo "every check passed"

quick: $(STAMP) lint  ## Lint, and run the tests that need no export, in under 30 seconds
	$(PYTEST) --quiet $(QUICK_TESTS) $(NOT_QUICK)

lint: $(STAMP)  ## Check style, format, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

format: $(STAMP)  ## Format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## Check types
	$(BIN)/mypy

unit: $(STAMP) $(KERNELS)  ## Run the tests, with their coverage
	$(PYTEST) --numprocesses=2 --dist=loadfile --cov

doctests: $(STAMP)  ## Run the examples in the runtime's docstrings
	$(PYTEST) --quiet --doctest-modules runtime/gpt2ja_onnx

docs: $(STAMP)  ## Write the API reference to build/docs
	$(BIN)/python docs/make_api.py

settings: $(STAMP)  ## Write what is made from the declarations of settings
	$(BIN)/python docs/make_settings.py

# The wheels as users get them, with native operators and, as where no compiler works, without: each
# in an empty environment, with onnxruntime and nothing of PyTorch.
wheel: $(STAMP)  ## Build both wheels, and try each in an empty environment
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --no-isolation --wheel --outdir build/wheel .
	GPT2JA_CC=false $(BIN)/python -m build --no-isolation --wheel --outdir build/wheel .
	set -e; for wheel in build/wheel/*.whl; do \
		$(PYTHON) -m venv --clear build/wheel/env; \
		build/wheel/env/bin/pip install --quiet --constraint constraints.txt \
			"gpt2ja-onnx[cpu] @ file://$(CURDIR)/$$wheel"; \
		(cd build/wheel && env/bin/python $(CURDIR)/tests/check_wheel.py $$(basename $$wheel)); \
	done
	$(BIN)/python tests/check_manylinux.py build/wheel

# Every test that needs a GPU, and the benchmark's report of it, in steps of ten minutes at most
# whose logs and results stay in GPU_RESULTS. The two builds of onnxruntime exclude each other, so
# this has an environment of its own. Without a network, from a directory of wheels:
# make gpu-check GPU_WHEELS=DIRECTORY; torch is then the system's, which the pins do not bind.
gpu-check: gpu-install  ## Run the tests and the benchmark that need an NVIDIA GPU
	$(MAKE) --keep-going gpu-tests gpu-exports gpu-benchmark

gpu-missing:  ## Say all that gpu-check would miss here, before anything is installed
	@mkdir -p $(GPU_RESULTS)
	@grep -viE '$(GPU_UNPINNED)' constraints.txt > $(GPU_RESULTS)/constraints.txt
	@$(PYTHON) tests/check_gpu.py --extras $(GPU_EXTRAS) \
		--constraints $(GPU_RESULTS)/constraints.txt $(addprefix --wheels ,$(GPU_WHEELS))

gpu-install: $(GPU_STAMP)  ## Make the environment of gpu-check

gpu-tests: $(GPU_STAMP)  ## Run the tests that need a GPU
	$(call gpu_step,tests,$(GPU_VENV)/bin/python -c \
		"from gpt2ja_onnx.device.choice import cuda_problem as p; exit(p())" \
		&& $(GPU_VENV)/bin/python -m pytest -m gpu \
		--junitxml=$(GPU_RESULTS)/tests.xml)

gpu-exports: $(GPU_STAMP)  ## Run the tests of exports beside a GPU
	$(call gpu_step,exports,$(GPU_VENV)/bin/python -m pytest tests/export \
		--junitxml=$(GPU_RESULTS)/exports.xml)

gpu-benchmark: $(GPU_STAMP)  ## Run the benchmark on a GPU
	$(call gpu_step,benchmark,$(GPU_VENV)/bin/gpt2ja-onnx bench --device cuda \
		--output $(GPU_RESULTS)/benchmark)

$(GPU_STAMP): pyproject.toml constraints.txt
	mkdir -p $(GPU_RESULTS)
	grep -viE '$(GPU_UNPINNED)' constraints.txt > $(GPU_RESULTS)/constraints.txt
	$(PYTHON) -m venv $(if $(GPU_WHEELS),--system-site-packages) $(GPU_VENV)
	$(call gpu_step,install,$(if $(GPU_WHEELS),PIP_NO_INDEX=1 PIP_FIND_LINKS=$(abspath \
		$(GPU_WHEELS))) $(GPU_VENV)/bin/pip install \
		--constraint $(GPU_RESULTS)/constraints.txt --editable ".[$(GPU_EXTRAS)]")
	touch $@

# The speed table and picture of both READMEs, from benchmarks/results/report.json.
readme-figures: $(STAMP)  ## Write the speed table and picture of both READMEs
	$(BIN)/python -m gpt2ja_bench.making.readme

# Size, time, memory and verification figures of every precision, at the published model's size.
export-table: $(STAMP)  ## Measure an export in every precision
	$(BIN)/python -m gpt2ja_bench.making.export_table

# Repetition and perplexity of generated text under settings, beside a held-out text's own:
# make generation-settings TEXT=kyoto.valid.txt MODEL=bundle
generation-settings: $(STAMP)  ## Measure how generated text degenerates under settings
	$(BIN)/python -m gpt2ja_bench.making.generation_settings $(TEXT) $(addprefix --model=,$(MODEL))

# What the benchmark's workload of servers runs beside this project's.
llama-server: $(STAMP)  ## Build llama.cpp's HTTP server for the benchmark
	$(BIN)/python -m gpt2ja_bench.making.llama_server

# Scheduling alone, with workers that sleep in place of computing.
cluster-simulation: $(STAMP)  ## Measure what a Ray cluster of many workers costs
	$(BIN)/python -m gpt2ja_bench.making.cluster

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[cpu,export,train,bench,serve,batch,ray,constrain,dev]"
	touch $@

$(KERNELS): $(wildcard kernels/src/*.[ch]) kernels/hatch_build.py | $(STAMP)
	$(BIN)/python kernels/hatch_build.py

clean:  ## Remove environments and build outputs
	rm -rf $(VENV) $(GPU_VENV) $(KERNELS) build dist
