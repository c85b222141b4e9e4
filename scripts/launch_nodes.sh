#!/usr/bin/env bash
# Several nodes that share this folder, by a hostfile of "name slots=8" lines, from the first of them:
#   HOSTFILE=hosts scripts/launch_nodes.sh stage=foundation model=7b_mot data=own runtime=zero3
set -euo pipefail
hostfile=${HOSTFILE:?name the hostfile: HOSTFILE=hosts}
port=${PORT:-29500}
mapfile -t hosts < <(grep -v '^ *#' "$hostfile" | awk 'NF {print $1}')
slots=$(grep -v '^ *#' "$hostfile" | grep -o 'slots=[0-9]*' | head -1 | cut -d= -f2)
processes=$((${#hosts[@]} * ${slots:-8}))
for rank in "${!hosts[@]}"; do
  command=(accelerate launch --use_deepspeed --num_machines "${#hosts[@]}" --machine_rank "$rank"
    --num_processes "$processes" --main_process_ip "${hosts[0]}" --main_process_port "$port"
    --deepspeed_multinode_launcher standard --module unimedvl.train "$@")
  # shellcheck disable=SC2029  # the words are meant to be put in here
  ${SSH:-ssh} "${hosts[$rank]}" "cd $(printf %q "$PWD") && $(printf '%q ' "${command[@]}")" &
done
status=0
for job in $(jobs -p); do
  wait "$job" || status=$?
done
exit "$status"
