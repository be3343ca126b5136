# One file that sets everything up: a virtual environment in .venv, then whatever the target needs.

PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 5555
# Which torch is installed first; the rest keeps it. Without an NVIDIA driver that is the release whose CPU build is asked for;
# with one, whatever is current (several gigabytes with CUDA). Yours to set: make demo TORCH="torch --index-url https://..."
CUDA   := $(shell command -v nvidia-smi 2>/dev/null)
TORCH  ?= $(if $(CUDA),torch>=2.4,torch==2.13.0)
FAISS  ?= $(if $(CUDA),gpu,cpu)

BIN    := $(VENV)/bin
FOLDERS := conf wire index broker worker supervisor client
READY  := $(VENV)/.ready
BENCH_VENV  ?= .venv-bench
BENCH_READY := $(BENCH_VENV)/.ready
DATA   ?=
BENCH  ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long test-kills chaos lint types format bench bench-broker bench-scheduling bench-index bench-passages bench-memory bench-reload bench-quality clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY)  ## The virtual environment, with everything installed

$(READY): pyproject.toml Makefile
	@echo "setting up $(VENV), a few minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=70"
	@$(BIN)/python -m pip install --quiet $(TORCH)
	@$(BIN)/python -m pip install --quiet -e ".[$(FAISS),demo,dev,onnx]"
	@mkdir -p $(VENV)/types/ragpool
	@for folder in $(FOLDERS); do ln -sfn "$(CURDIR)/$$folder" $(VENV)/types/ragpool/$$folder; done
	@touch $@

demo: $(READY)  ## A pool of two workers on the built-in demo index, and one question to it
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/demo.sh $(PORT)

test: $(READY)  ## All tests but the long ones (about 17 minutes on 2 cores)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --durations 10

test-long: $(READY)  ## The state machines with 1,500 examples each, and what takes minutes with real pools
	HF_HUB_OFFLINE=1 RAGPOOL_TEST_LONG=1 $(BIN)/python -m pytest --timeout 1800 tests/broker tests/client tests/supervisor tests/index/test_types.py tests/index/test_finds_itself.py tests/pool/test_reload.py

test-kills: $(READY)  ## Builds killed at every step and at 20 random moments end with the same bytes (about 15 minutes)
	HF_HUB_OFFLINE=1 RAGPOOL_TEST_LONG=1 $(BIN)/python -m pytest --timeout 3600 tests/index/test_resume.py

chaos: $(READY)  ## Every fault we know, done to real pools under load (docs/chaos.md); options in CHAOS="--seed 1"
	HF_HUB_OFFLINE=1 PYTHONPATH=tests/support $(BIN)/python -m chaos $(CHAOS)

lint: $(READY)  ## ruff: rules, the ban list of pure files, format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	MYPYPATH=$(VENV)/types $(BIN)/mypy -p ragpool

format: $(READY)  ## Let ruff format and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) $(BENCH_READY)  ## The pool beside other servers and without one: DATA=folder of corpora, BENCH="--quick"
	@HF_HUB_OFFLINE=1 PYTHONPATH=benchmarks $(BIN)/python -m baselines --bench-python $(BENCH_VENV)/bin/python $(if $(DATA),--data $(DATA)) $(BENCH)

$(BENCH_READY): benchmarks/baselines/requirements.txt $(READY)
	@echo "setting up $(BENCH_VENV) with the other servers; it sees the packages of $(VENV) and changes none" >&2
	@$(BIN)/python -m venv $(BENCH_VENV)
	@echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		> "$$($(BENCH_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/product.pth"
	@$(BENCH_VENV)/bin/python benchmarks/baselines/install.py benchmarks/baselines/requirements.txt
	@touch $@

bench-broker: $(READY)  ## The broker against a bare ROUTER-ROUTER forwarder
	$(BIN)/python benchmarks/broker.py

bench-scheduling: $(READY)  ## The core in virtual time against a central queue, random, round robin, two choices
	$(BIN)/python benchmarks/scheduling.py

bench-index: $(READY)  ## Index types at a million rows, beside hnswlib and usearch
	$(BIN)/python -m pip install --quiet -e ".[bench]"
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/index_scale.py

bench-passages: $(READY)  ## Microseconds for passages of random rows and of ids
	$(BIN)/python benchmarks/passages.py

bench-memory: $(READY)  ## Peak memory of flat builds of 300,000 and 900,000 rows
	$(BIN)/python benchmarks/build_memory.py

bench-reload: $(READY)  ## 20 reloads under load between two indexes with different answers
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/reload.py

bench-quality: $(READY)  ## What flat, hnsw and compact find of SciFact and SQuAD, and at what size: DATA=folder of corpora
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/quality.py $(DATA)

clean:  ## Remove the environment and caches
	rm -rf $(VENV) $(BENCH_VENV) .bench build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
