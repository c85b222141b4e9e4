#!/usr/bin/env bash
# The three stages in order, each from the EMA weights of the one before. Started again, it goes on where it was.
#   scripts/train_curriculum.sh model=nano data=mini runtime=cpu
#   INIT=path/to/weights LAUNCH="scripts/launch_node.sh" scripts/train_curriculum.sh model=7b_mot data=own runtime=zero3
# RUNS is the folder of the stages, INIT a directory of weights for the first one, LAUNCH what starts a stage, EXPORT
# further words of the exports.
set -euo pipefail
runs=${RUNS:-runs/curriculum}
python=${PYTHON:-python}
launch=${LAUNCH:-$python -m unimedvl.train}
init=${INIT:-}

for stage in foundation instruction unified; do
  out=$runs/$stage
  if [ ! -d "$out/export" ]; then
    words=("stage=$stage" "output=$out")
    if [ -n "$init" ]; then
      words+=("model.init=$init" "model.autoencoder=$init" "model.tokenizer=$init")
    fi
    # shellcheck disable=SC2086  # the launcher is a command with arguments
    $launch "${words[@]}" "$@"
    # shellcheck disable=SC2086  # several words
    $python -m unimedvl.train export "$out" --out "$out/export" ${EXPORT:-}
  fi
  init=$out/export
done
echo "the model: $init"
