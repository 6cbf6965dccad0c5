#!/usr/bin/env bash
# Runs the tests with the lowest versions that pyproject.toml allows, or with the newest there are:
#
#   scripts/test_versions.sh lowest [pytest arguments]
#   scripts/test_versions.sh newest [pytest arguments]
#
# torch stays as pinned in requirements-torch.txt (its builds differ by machine); TORCH=2.10.0 takes another.
set -euo pipefail
cd "$(dirname "$0")/.."
which=${1:?"lowest or newest"}
shift
case "$which" in
    lowest) resolution=lowest-direct ;;
    newest) resolution=highest ;;
    *) echo "lowest or newest, not $which" >&2; exit 2 ;;
esac
venv=.venv-$which
${PYTHON:-python3.11} -m venv --clear "$venv"
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
pip install uv
"$venv/bin/uv" pip compile --quiet --resolution "$resolution" --python-version 3.11 --extra demo --no-header \
    --no-annotate pyproject.toml | grep -vE '^(torch|triton|nvidia-|cuda-)' > "$venv/requirements.txt"
if [ -n "${TORCH:-}" ]; then pip install "torch==$TORCH"; else pip install -r requirements-torch.txt; fi
pip install --no-deps -r "$venv/requirements.txt"
# What only the tests need is of no interest here: any version that leaves the others as they are.
pip install --constraint "$venv/requirements.txt" hypothesis import-linter pytest pytest-xdist ruff statsmodels accelerate duckdb tensorboard playwright sacrebleu
pip install --no-deps --editable .
"$venv/bin/python" -m pip list --disable-pip-version-check | grep -iE '^(torch|transformers|peft|polars|pydantic|typer|altair) '
"$venv/bin/python" -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
