#!/usr/bin/env bash
# Make the weights that ship with the package: UniMed-Mini, the small autoencoder, the three stages, and a last run with
# mostly questions, all with their seeds in configs/. An hour and a half at most on two cores. Started again, it goes on
# where it was.
#   scripts/train_bundled.sh      writes runs/bundled/nano; copy it to unimedvl/nano to ship it
# RUNS is the folder, PYTHON the interpreter of an environment with the package, AUTOENCODER_STEPS and further words for
# the stages make it shorter.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-runs/bundled}
python=${PYTHON:-python}
data=${DATA:-data/mini}
half="--dtype bfloat16 --autoencoder-dtype bfloat16 --settings configs/infer/nano.yaml"

[ -f "$data/manifest.json" ] || "$python" -m unimedvl.data build mini --out "$data"
if [ ! -d "$runs/autoencoder/final" ]; then
  "$python" -m unimedvl.train stage=autoencoder model=nano data=mini "data_dir=$data" "output=$runs/autoencoder" \
    "autoencoder.steps=${AUTOENCODER_STEPS:-2200}"
fi
RUNS=$runs PYTHON=$python scripts/train_curriculum.sh model=nano data=mini "data_dir=$data" runtime=cpu \
  "model.autoencoder=$runs/autoencoder/final" "model.tokenizer=$data/tokenizer" "$@"
before=$runs/unified/export
"$python" -m unimedvl.train stage=unified model=nano data=mini "data_dir=$data" runtime=cpu experiment=nano_reading \
  "model.init=$before" "model.autoencoder=$runs/autoencoder/final" "model.tokenizer=$before" "output=$runs/reading" "$@"
if [ ! -d "$runs/nano" ]; then
  made=$runs/.nano
  rm -rf "$made"
  # shellcheck disable=SC2086  # several words
  "$python" -m unimedvl.train export "$runs/reading" --out "$made" $half
  mkdir "$made/recipe"
  for stage in autoencoder foundation instruction unified reading; do
    cp "$runs/$stage/config.yaml" "$made/recipe/$stage.yaml"
  done
  (cd "$data" && sha256sum manifest.json) > "$made/recipe/data.sha256"
  mv "$made" "$runs/nano"
fi
echo "the weights: $runs/nano"
