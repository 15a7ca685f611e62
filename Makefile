PYTHON ?= python3
BIN := .venv/bin
CXX_SOURCES := $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')
PY_SOURCES := masktools runtime tests benchmarks examples setup.py

.DEFAULT_GOAL := help
.PHONY: help venv demo test format lint types unit clean

help:  ## What can be made
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

venv: .venv/ready  ## A virtual environment with the package and everything the tests need

.venv/ready: pyproject.toml setup.py constraints.txt $(wildcard masktools/*.cpp masktools/*.h)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv-demo/ready  ## A real ticket, from mask to running network, in about a minute
	.venv-demo/bin/python examples/digits/demo.py build/demo

.venv-demo/ready: pyproject.toml setup.py constraints.txt $(wildcard masktools/*.cpp masktools/*.h)
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install --quiet --constraint constraints.txt --editable '.[onnx,viz]'
	touch $@

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
	$(BIN)/pytest

clean:  ## Remove what was built
	rm -rf .venv .venv-demo build *.egg-info masktools/*.so
