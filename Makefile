# Two commands matter: `make demo` and `make test`. Both make their own environment first.
PYTHON ?= python3.11
VENV ?= .venv
PY := $(VENV)/bin/python
GPU_TESTS := tests/oracles tests/methods tests/models tests/outputs tests/training tests/zoo/test_families.py \
	tests/benchmarks/test_gpu.py

.PHONY: demo test test-gpu lint docs lock clean

# Everything but torch is pinned by hash in requirements.lock. torch is pinned by version: its builds
# (CPU, CUDA, Mac) differ by machine, and so do their hashes and what they bring along.
$(VENV)/ready: requirements.lock requirements-torch.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-torch.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(VENV)/ready
	$(VENV)/bin/crosstune run studies/demo.yaml
	$(VENV)/bin/crosstune report runs/demo

# Files side by side, in the order of tests/conftest.py, each in one process, which has one thread.
test: $(VENV)/ready
	$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# What a GPU can run of them: tiny models, each method and each fast way against its plain one.
test-gpu: $(VENV)/ready
	CROSSTUNE_TEST_DEVICE=cuda $(PY) -m pytest $(GPU_TESTS)

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# The pages in docs/ as a site, in site/. A warning, such as a link to nothing, is an error.
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

# Needs pip-tools (https://pypi.org/project/pip-tools/). Only what the demo, the tests and the site need is pinned.
lock:
	pip-compile --quiet --extra demo --extra dev --extra docs --constraint requirements-torch.txt --generate-hashes --strip-extras \
		--unsafe-package torch --no-emit-find-links --no-emit-index-url --no-emit-trusted-host \
		--no-annotate --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV)
