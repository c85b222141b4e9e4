# Sourced by test.sh and demo.sh: make the environment if it is not there; afterwards $venv/bin/python is its Python.
# PYTHON chooses the interpreter (3.10 to 3.13), TORCH the torch requirement, VENV the environment's folder; with READY=1
# it is used as it is.
# shellcheck shell=bash
venv=${VENV:-.venv}
torch=${TORCH:-torch==2.13.0}

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
# Installed again only when what it is made from has changed.
stamp="$venv/.unimedvl-$(cat pyproject.toml scripts/environment.sh | sha256sum | cut -c1-16)-${torch//[^a-z0-9.]/_}"
if [ ! -e "$stamp" ] && [ -z "${READY:-}" ]; then
  # torch comes first and by itself: a CPU build stays, whatever is resolved later.
  "$venv/bin/python" -m pip install --quiet "$torch"
  # DeepSpeed's operators are compiled when they are used, where they can be.
  DS_BUILD_OPS=0 "$venv/bin/python" -m pip install --quiet --editable '.[dev]'
  touch "$stamp"
fi
