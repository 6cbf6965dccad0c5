#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh environment outside any checkout, with the lowest versions that
# pyproject.toml allows or with the newest there are, and goes through what a newcomer does:
#
#   scripts/test_wheel.sh lowest
#   scripts/test_wheel.sh newest
#
# torch stays as pinned in requirements-torch.txt (its builds differ by machine); TORCH=2.10.0 takes another.
# LIMIT=2 runs the demo's study with two examples a language and two steps. The demo's model comes from the package index, or from the cache that CROSSTUNE_CACHE names.
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
which=${1:?"lowest or newest"}
case "$which" in
    lowest) resolution=lowest-direct ;;
    newest) resolution=highest ;;
    *) echo "lowest or newest, not $which" >&2; exit 2 ;;
esac
folder=$(mktemp -d "${TMPDIR:-/tmp}/crosstune-$which.XXXXXX")
trap 'rm -rf "$folder"' EXIT
cd "$folder"
${PYTHON:-python3.11} -m venv venv
pip() { venv/bin/python -m pip --quiet --disable-pip-version-check "$@"; }
pip install uv
pip wheel --no-deps --wheel-dir wheel "$source"
wheel=$(ls wheel/*.whl)
venv/bin/uv pip compile --quiet --resolution "$resolution" --python-version 3.11 --extra demo --no-header \
    --no-annotate "$source/pyproject.toml" | grep -vE '^(torch|triton|nvidia-|cuda-)' > versions.txt
if [ -n "${TORCH:-}" ]; then pip install "torch==$TORCH"; else pip install -r "$source/requirements-torch.txt"; fi
pip install --constraint versions.txt "$wheel[demo]"
venv/bin/python -m pip check
venv/bin/python -m pip list --disable-pip-version-check | grep -iE '^(crosstune|torch|transformers|peft|polars|pydantic|typer|altair) '

mkdir work && cd work
say() { echo; echo "$ crosstune $*"; }
crosstune() { say "$@"; ../venv/bin/crosstune "$@"; }
crosstune --version
crosstune list studies
if [ -n "${LIMIT:-}" ]; then
    crosstune run studies/demo.yaml --limit "$LIMIT" --set train.steps=2
    crosstune report runs/demo
else
    crosstune demo
fi
test -s runs/demo/report.html
printf '\n\n\n\n' | crosstune init mine.yaml
crosstune plan mine.yaml
crosstune run mine.yaml --limit "${LIMIT:-20}" --seed 0 --set train.steps=3
store=$(ls -d runs/*/ | grep -v demo/ | head -1)
crosstune results "$store"
crosstune report "$store"
crosstune export "$store" paper
run=$(../venv/bin/crosstune results runs/demo --runs | grep -oE '[0-9a-f]{16}.* lora' | grep -oE '^[0-9a-f]{16}' | head -1)
crosstune export runs/demo "$run" --adapter lora
crosstune export runs/demo "$run" --merged merged
crosstune predict "runs/demo/$run" --text Bern --language de
crosstune check runs/demo
test -s lora/adapter_model.safetensors && test -s merged/model.safetensors && ls paper/figures paper/tables > /dev/null
echo "The wheel works with the $which versions."
