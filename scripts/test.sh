#!/usr/bin/env bash
# Make the environment if it is not there, then lint, check types and run the tests.
#   scripts/test.sh               everything that fits a laptop
#   scripts/test.sh -m slow       the long tests;  -m gpu  those for CUDA;  any other pytest argument works too
# PYTHON chooses the interpreter (3.10 to 3.13), TORCH the torch requirement, VENV the environment's folder.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
torch=${TORCH:-torch==2.13.0}

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
# Installed again only when what it is made from has changed.
stamp="$venv/.unimedvl-$(cat pyproject.toml scripts/test.sh | sha256sum | cut -c1-16)-${torch//[^a-z0-9.]/_}"
if [ ! -e "$stamp" ]; then
  # torch comes first and by itself: a CPU build stays, whatever is resolved later.
  "$venv/bin/python" -m pip install --quiet "$torch"
  # DeepSpeed's operators are compiled when they are used, where they can be.
  DS_BUILD_OPS=0 "$venv/bin/python" -m pip install --quiet --editable '.[dev]'
  touch "$stamp"
fi

if [ $# -eq 0 ]; then
  "$venv/bin/ruff" check .
  "$venv/bin/ruff" format --check .
  "$venv/bin/pyright" --pythonpath "$venv/bin/python"
fi
# The tests may not reach the network.
export HF_HUB_OFFLINE=1
exec "$venv/bin/python" -m pytest "$@"
