#!/usr/bin/env bash
# Several nodes that share this folder, by a hostfile of "name slots=8" lines, from the first of them:
#   HOSTFILE=hosts scripts/launch_nodes.sh stage=foundation model=7b_mot data=own runtime=zero3
# To stop and save: touch the file that checkpoint.stop_file=FILE names.
set -euo pipefail
hostfile=${HOSTFILE:?name the hostfile: HOSTFILE=hosts}
port=${PORT:-29500}
mapfile -t hosts < <(awk '!/^ *#/ && NF {print $1}' "$hostfile")
mapfile -t slots < <(awk '!/^ *#/ && NF {n = 8; for (i = 2; i <= NF; i++) if (sub("slots=", "", $i)) n = $i; print n}' \
  "$hostfile" | sort -u)
if [ "${#hosts[@]}" -eq 0 ] || [ "${#slots[@]}" -ne 1 ]; then
  echo "error: $hostfile needs hosts with equal slots=N" >&2
  exit 2
fi
processes=$((${#hosts[@]} * slots[0]))
jobs=()
trap 'kill "${jobs[@]}" 2>/dev/null || true' EXIT
for rank in "${!hosts[@]}"; do
  command=(accelerate launch --use_deepspeed --num_machines "${#hosts[@]}" --machine_rank "$rank"
    --num_processes "$processes" --main_process_ip "${hosts[0]}" --main_process_port "$port"
    --deepspeed_multinode_launcher standard --module unimedvl.train "$@")
  # With a terminal of its own, a remote run ends with its connection.
  ${SSH:-ssh -tt} "${hosts[$rank]}" "cd $(printf %q "$PWD") && $(printf '%q ' "${command[@]}")" &
  jobs+=($!)
done
for _ in "${jobs[@]}"; do
  wait -n  # the first that fails ends the others
done
