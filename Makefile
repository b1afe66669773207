# Each verb sets up what it needs. VENV may point to an environment elsewhere.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.mitune-installed
SOURCES := setup.py pyproject.toml constraints.txt $(wildcard csrc/*)

.DEFAULT_GOAL := help
.PHONY: help demo test browser rounding floor cuda lint type bench bench-compare studies families docs clean

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 16

# torch first and from the constraints: the extension is built against it, without build isolation.
$(STAMP): $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt setuptools wheel pybind11 torch
	MITUNE_BUILD_CPP=1 MITUNE_BUILD_HOST=1 $(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $(STAMP)

# bfloat16 products only where the processor has them: elsewhere they are slower than float32.
BFLOAT16 := $(shell grep -qs -m1 -w -e avx512_bf16 -e amx_bf16 /proc/cpuinfo && echo --precision bf16-mixed)
FAST = --backend inductor $(BFLOAT16)

demo: $(STAMP)   ## the main job on the embedded model: MI selection against its control, over 4 seeds
	$(BIN)/mitune study selection --out runs/demo --seeds 4 --prompts 5 --test-prompts 12 --images 2 --candidates 24 $(FAST)

STUDIES = agreement selection estimators ratio keep real trained rounds times guidance dropout strength loss star sampling methods maps

# One size for all, so that they share pools, adapters and pictures; two need larger pools.
SIZE = --seeds 4 --prompts 10 --test-prompts 12 --images 4 --candidates 24
WORK = --work runs/studies/work
study-agreement: SIZE = --seeds 1 --prompts 8 --candidates 32
study-ratio: SIZE = --seeds 3 --prompts 10 --test-prompts 12 --images 4 --candidates 100
study-agreement study-ratio: WORK =
# In mixed precision the compiled gradient of the term for mutual information is refused as too far from eager's.
study-loss: FAST = $(BFLOAT16)

studies: $(addprefix study-,$(STUDIES)) ## every study in turn: hours; what is done stays done

study-%: $(STAMP)
	$(BIN)/mitune study $* --out runs/studies/$* $(WORK) $(SIZE) $(FAST)

# A worker for each core, each with one thread: tests are too small to share several among them. Files
# in their order: xdist would begin with those of many tests, and end with the few that take longest.
PYTEST = $(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: $(STAMP) browser ## all tests
	$(PYTEST)

# The system's Chromium opens the pages that mitune makes. Without the right to install it those
# tests skip, unless MITUNE_BROWSER=required.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name > /dev/null && exit 0; done; false \
	|| { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; } \
	|| echo "no Chromium: the tests of pages skip"

# Where a result must not depend on the processor: as one without AVX512 rounds, and as one without
# AVX and fused multiply-add does, on which MKL is seven times slower.
NUMERIC = tests/engine tests/training tests/adapters tests/selection tests/runtime/test_pairs.py \
	tests/runtime/test_prepared.py tests/methods/test_build.py tests/methods/test_align.py \
	tests/scoring tests/scorers tests/methods/test_sampling.py tests/methods/test_dpok.py tests/models/test_toy_family.py tests/models/test_sdxl.py tests/models/test_sd3.py tests/models/test_families.py
NUMERIC_FEW = tests/engine/test_generate.py tests/adapters/test_text_encoder.py \
	tests/training/test_merged.py tests/methods/test_build.py
UNCOMPILED = -k "not compiled and not compiles and not torchrun"

rounding: $(STAMP) ## the numeric tests as other processors round
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 $(PYTEST) $(UNCOMPILED) $(NUMERIC)
	ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE $(PYTEST) $(UNCOMPILED) $(NUMERIC_FEW)

# Not editable: what is in the checkout is built against another torch.
FLOOR := .venv-floor
FLOOR_STAMP := $(FLOOR)/.mitune-dependencies
FLOOR_TESTS := tests/kernels tests/runtime/test_compiling.py tests/engine/test_generate.py \
	tests/training/test_tune.py tests/adapters/test_adapter.py tests/training/test_merged.py \
	tests/runtime/test_prepared.py

$(FLOOR_STAMP): constraints-floor.txt pyproject.toml
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install -q -c constraints-floor.txt setuptools wheel pybind11 torch diffusers \
	transformers peft accelerate filelock huggingface_hub safetensors pyarrow pyyaml numpy pillow scipy \
	statsmodels tqdm pytest
	touch $(FLOOR_STAMP)

floor: $(FLOOR_STAMP) ## the oldest versions promised, a download of 3 GB: built and tested against them
	MITUNE_BUILD_CPP=1 MITUNE_BUILD_HOST=1 $(FLOOR)/bin/python -m pip install -q --no-build-isolation --no-deps --force-reinstall .
	$(FLOOR)/bin/pytest -q -p no:cacheprovider $(FLOOR_TESTS)

cuda: $(STAMP)   ## the CUDA kernels, in place: needs nvcc, no GPU; fails on spilled registers
	MITUNE_BUILD_CPP=0 MITUNE_BUILD_CUDA=1 $(BIN)/python setup.py -q build_ext --inplace
	$(BIN)/python -m pytest -q tests/kernels/test_cuda_build.py

lint: $(STAMP)   ## ruff: style and format; import-linter: what may import what
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports > /dev/null || $(BIN)/lint-imports

type: $(STAMP)   ## mypy --strict on mitune and mitune_kernels
	$(BIN)/mypy

# Timings compare on one machine only: each has a folder of its own.
STORED = --benchmark-storage=file://.benchmarks/$$($(BIN)/python -m mitune.bench.machine)

bench: $(STAMP)  ## benchmarks, stored for bench-compare
	$(BIN)/python -m pytest bench -q --benchmark-only --benchmark-autosave $(STORED)

bench-compare: $(STAMP) ## benchmarks against the last stored run
	$(BIN)/python -m pytest bench -q --benchmark-only --benchmark-compare --benchmark-compare-fail=median:15% $(STORED)

families: $(STAMP) ## the table of docs/families.md, from the tests that show its cells
	$(BIN)/python bench/families.py docs/families.md

docs: $(STAMP)   ## the documentation as a site, in build/site
	$(BIN)/mkdocs build --strict --quiet

clean:           ## build products; results under runs/ stay
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache kernels/mitune_kernels/*.so
