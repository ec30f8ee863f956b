# Needs Python >= 3.11 and make, nothing else. `make` alone lists the targets.

PYTHON ?= python3
WORKERS ?= 2
# Where the CPU build of torch comes from: the ordinary registry's build for Linux brings gigabytes of CUDA along.
# `make TORCH_INDEX=` takes the ordinary one, for a machine with a GPU.
# `make gpu` takes the ordinary one by itself.
ifeq ($(MAKECMDGOALS),gpu)
TORCH_INDEX ?=
endif
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := .venv/bin
READY := .venv/.installed
SAMPLE := benchmarks/sample
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: help demo peers gpu gpu-there test test-long test-all soak check clean

help:
	@echo "make demo       the whole journey on the shipped sample: checkpoint to engine to runs/demo/report.html"
	@echo "make peers      other quantizers beside ours on the shipped sample; CHECKPOINT=, DATA=, EVAL= for your own; OPTIONS="
	@echo "make gpu        on an NVIDIA GPU: engines, answers, times, fused kernels, training steps, in one file to send back"
	@echo "make test       every test but the long ones, and the doctests"
	@echo "make test-all   the long ones too"
	@echo "make soak       damaged inputs for each parser of ours, 50 killed runs, minutes of threads, a million rows; long"
	@echo "make check      ruff, formatting, mypy"
	@echo "make clean      removes what the other targets made: .venv, runs, caches"

$(READY): pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python %d.%d given, >= 3.11 needed: make PYTHON=python3.11" % sys.version_info[:2])'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
ifneq ($(TORCH_INDEX),)
	$(BIN)/pip install --quiet --retries 2 --no-deps --constraint .ci/constraints.txt --index-url $(TORCH_INDEX) torch \
	    || echo "no CPU build of torch at $(TORCH_INDEX): taking the one of the ordinary registry"
endif
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/qdq run $(SAMPLE)/albert-supersense --task text-classification \
	    --data $(SAMPLE)/supersense/train.jsonl --eval $(SAMPLE)/supersense/validation.jsonl \
	    --out runs/demo --set finetune.max_steps=120 --sensitivity 128

CHECKPOINT ?= $(SAMPLE)/albert-supersense
DATA ?= $(SAMPLE)/supersense/train.jsonl
EVAL ?= $(SAMPLE)/supersense/validation.jsonl

peers: $(READY)
	TORCH_INDEX=$(TORCH_INDEX) $(BIN)/python -m benchmarks.peers prepare
	for checkpoint in $(CHECKPOINT); do \
	    $(BIN)/python -m benchmarks.peers --checkpoint $$checkpoint --data $(DATA) --eval $(EVAL) \
	        --out runs/peers/$$(basename $$checkpoint).json $(OPTIONS) || exit; \
	done

NVIDIA ?= $(shell command -v nvidia-smi)

# Asked before anything is installed: torch with CUDA is gigabytes.
gpu-there:
	@test -n "$(NVIDIA)" || { echo "make gpu: no NVIDIA GPU on this machine (no nvidia-smi): run it where there is one" >&2; exit 2; }

gpu: gpu-there $(READY)
	$(BIN)/python -m benchmarks.gpu --checkpoint $(CHECKPOINT) --data $(DATA) --eval $(EVAL)

test: $(READY)
	$(PYTEST) -m "not long"

# Exit status 5 means that no test carries the mark.
test-long: $(READY)
	$(PYTEST) -m long || test $$? -eq 5

test-all: test test-long

# What a damaged input does is told once, in tests/fuzzing/; a coverage-guided fuzzer takes the same targets:
# `pip install atheris` (CPython 3.11 to 3.13 on x86-64 Linux), `python -m tests.fuzzing.coverage_guided recipes -runs=100000`.
soak: $(READY)
	$(PYTEST) --hypothesis-profile soak tests/test_*/test_fuzz.py
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.test_command_line.kill_runs --kills 50
	$(BIN)/python -m tests.soak

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
