#!/usr/bin/env bash
# One node, every GPU: scripts/launch_node.sh stage=foundation model=7b_mot data=own runtime=zero3
# GPUS limits their number.
set -euo pipefail
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
exec accelerate launch --use_deepspeed --num_machines 1 --num_processes "$gpus" --module unimedvl.train "$@"
