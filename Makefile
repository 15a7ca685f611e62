PYTHON ?= python3
BIN := .venv/bin
CXX_SOURCES := $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')
NATIVE_CPU := $(sort $(shell find cpu -name '*.cpp' -o -name '*.h'))
NATIVE := $(wildcard masktools/partition/*.cpp masktools/partition/*.h) $(NATIVE_CPU)
PY_SOURCES := masktools runtime tests benchmarks examples experiments setup.py
JOBS := $(shell nproc 2>/dev/null || echo 2)

.DEFAULT_GOAL := help
.PHONY: help venv demo experiments test format lint types unit sanitize sanitize-cuda exhaustive exhaustive-compiled \
  exhaustive-emulated networks native sanitize-native neon clean

help:  ## What can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

venv: .venv/ready  ## A virtual environment with the package and everything the tests need

.venv/ready: pyproject.toml setup.py constraints.txt $(NATIVE)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv-demo/ready  ## A real ticket, from mask to running network, in about a minute
	.venv-demo/bin/python examples/digits/demo.py build/demo

.venv-demo/ready: pyproject.toml setup.py constraints.txt $(NATIVE)
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install --quiet --constraint constraints.txt --editable '.[onnx,viz]'
	touch $@

EXPERIMENTS ?= $(wildcard experiments/configs/*.toml)
experiments: venv  ## Train the tickets of all EXPERIMENTS on one core, and write their results
	$(BIN)/python -m experiments $(EXPERIMENTS)

test: venv lint types unit  ## Everything that CI checks

lint: venv
	$(BIN)/ruff format --check $(PY_SOURCES)
	$(BIN)/ruff check $(PY_SOURCES)
	$(if $(CXX_SOURCES),$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES))

format: venv  ## Format Python and C++ in place
	$(BIN)/ruff format $(PY_SOURCES)
	$(BIN)/ruff check --fix $(PY_SOURCES)
	$(if $(CXX_SOURCES),$(BIN)/clang-format -i $(CXX_SOURCES))

types: venv
	$(BIN)/mypy

unit: venv
	$(BIN)/pytest --numprocesses=$(JOBS)

# The instrumented variants, in a folder of their own that comes first on the path. Memory comes
# from malloc, whose borders are watched, rather than from Python's pools.
SANITIZED := build/sanitize/lib
SANITIZER = PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
  LD_PRELOAD="$(foreach l,asan stdc++,$(shell g++ -print-file-name=lib$l.so))"
sanitize: venv  ## The CPU backend's tests under AddressSanitizer and UBSan (needs GCC)
	MASKTOOLS_SANITIZE=1 $(BIN)/python setup.py --quiet build \
	  --build-lib $(SANITIZED) --build-temp build/sanitize/objects
	cd build && PYTHONPATH=sanitize/lib $(SANITIZER) $(abspath $(BIN))/python -c \
	  'import runtime.cpu._portable as m; assert "sanitize" in m.__file__'
	PYTHONPATH=$(SANITIZED) $(SANITIZER) $(BIN)/pytest --numprocesses=$(JOBS) \
	  tests/runtime/cpu

sanitize-cuda: venv  ## The CUDA kernels, emulated, under AddressSanitizer (needs GCC)
	MASKTOOLS_EMULATION_FLAGS=-fsanitize=address $(SANITIZER) $(BIN)/pytest \
	  -m 'sanitized and not slow' tests/runtime/cuda

# Two parts, to be made at once: --jobs=2.
exhaustive: exhaustive-compiled exhaustive-emulated  ## Every CUDA kernel, compiled for every architecture, and emulated

exhaustive-compiled: venv
	$(BIN)/pytest -m slow tests/runtime/cuda/test_compile.py

exhaustive-emulated: venv
	$(BIN)/pytest -m slow tests/runtime/cuda/test_kernels.py

# Each in some of the ways that can run here, drawn by its seed; CUDA's kernels under emulation.
COUNT ?= 10000
EMULATED ?= $(shell expr $(COUNT) / 20)
FIRST ?= 0
networks: venv  ## COUNT random networks on every backend, against the reference
	$(BIN)/python tests/support/random_networks.py --first=$(FIRST) --count=$(COUNT) --jobs=$(JOBS)
	$(BIN)/python tests/support/random_networks.py --first=$(FIRST) --count=$(EMULATED) --jobs=$(JOBS) \
	  --backend=emulated --ways=1

# The tests in C++ need no Python: they are how the kernels are tried on other processors. FLAGS
# say which instructions there are; without any, the portable variant's.
CPP_TESTS := $(filter-out cpu/binding/%,$(filter %.cpp,$(NATIVE_CPU)) $(wildcard tests/cpp/*.cpp))
BUILD ?= build/native
FLAGS ?= -O2
LINK ?= -static
$(BUILD)/%.o: %.cpp $(filter %.h,$(NATIVE_CPU)) $(wildcard tests/cpp/*.h)
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -Icpu $(FLAGS) -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi -c $< -o $@

$(BUILD)/run-tests: $(CPP_TESTS:%.cpp=$(BUILD)/%.o)
	$(CXX) $(FLAGS) $(LINK) -pthread $^ -o $@

native:  ## The kernels' tests in C++, for any processor like this one
	$(MAKE) --jobs=$(JOBS) build/native/run-tests
	build/native/run-tests

NATIVE_CHECKS := -O1 -g1 -march=native -fsanitize=address,undefined -fno-sanitize-recover=all
sanitize-native:  ## The same with all instructions of this very processor, under both sanitizers
	$(MAKE) --jobs=$(JOBS) BUILD=build/sanitize-native FLAGS="$(NATIVE_CHECKS)" LINK= \
	  build/sanitize-native/run-tests
	build/sanitize-native/run-tests

neon:  ## The kernels' tests in C++, compiled for ARM and run by qemu
	@command -v aarch64-linux-gnu-g++ qemu-aarch64-static >/dev/null || { echo \
	  "make neon needs: apt-get install g++-aarch64-linux-gnu qemu-user-static" >&2; exit 1; }
	$(MAKE) --jobs=$(JOBS) BUILD=build/neon CXX=aarch64-linux-gnu-g++ build/neon/run-tests
	qemu-aarch64-static build/neon/run-tests

clean:  ## Remove what was built
	rm -rf .venv .venv-demo build *.egg-info masktools/partition/*.so runtime/cpu/*.so
