#!/usr/bin/env bash
# UniMedVL in miniature, on a laptop without a GPU: the environment, UniMed-Mini, the three stages in a short form, the
# evaluation on held-out images, and one report. Started again, it goes on where it was.
#   scripts/demo.sh               about ten minutes on two cores; writes runs/demo/report.html
# OUT is the folder, STEPS the steps of each stage, ROWS the rows of each task that are evaluated; PYTHON, TORCH and
# VENV: see environment.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
out=${OUT:-runs/demo}
steps=${STEPS:-300}
rows=${ROWS:-60}
data=${DATA:-data/mini}
python=$venv/bin/python
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false HF_DATASETS_DISABLE_PROGRESS_BARS=1

[ -f "$data/manifest.json" ] || "$python" -m unimedvl.data build mini --out "$data"

# The autoencoder is the bundled one, for a good one takes longer than all the rest. Everything else starts fresh.
RUNS=$out/runs PYTHON=$python EXPORT="--settings configs/infer/nano.yaml" \
  scripts/train_curriculum.sh model=nano data=mini "data_dir=$data" runtime=cpu model.autoencoder=bundled \
  "steps=$steps" "validation.every=$steps" "checkpoint.every=100"

evaluate() { # name model
  "$python" -m unimedvl.eval benchmark=mini "model=$2" "out=$out/evaluation/$1" "data=$data" \
    "classifier=$out/evaluation/classifier.safetensors" "limit=$rows" drawings=24 seeds=1 batches=8 > "$out/$1.txt"
}
mkdir -p "$out/evaluation"
runs=() models=()
for stage in foundation instruction unified; do
  echo "evaluating $stage"
  evaluate "$stage" "$out/runs/$stage/export"
  runs+=(--run "$stage=$out/runs/$stage")
  models+=(--model "$stage=$out/evaluation/$stage")
done
echo "evaluating the bundled weights"
evaluate bundled bundled
"$python" -m unimedvl.eval report --out "$out/report.html" "${runs[@]}" "${models[@]}" \
  --model "bundled=$out/evaluation/bundled"
