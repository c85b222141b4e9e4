#!/usr/bin/env bash
# Make the environment if it is not there, then lint, check types and run the tests.
#   scripts/test.sh               everything that fits a laptop
#   scripts/test.sh -m slow       the long tests;  -m gpu  those for CUDA;  any other pytest argument works too
# PYTHON, TORCH and VENV: see environment.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

if [ $# -eq 0 ]; then
  "$venv/bin/ruff" check .
  "$venv/bin/ruff" format --check .
  "$venv/bin/pyright" --pythonpath "$venv/bin/python"
  # Two processes of one thread each are done in little more than half the time of one with two threads.
  export OMP_NUM_THREADS=1
  set -- --numprocesses 2 --dist loadfile
fi
# The tests may not reach the network.
export HF_HUB_OFFLINE=1
exec "$venv/bin/python" -m pytest "$@"
