#!/usr/bin/env bash
# Slurm: sbatch --nodes 8 --gpus-per-node 8 scripts/launch_slurm.sh stage=foundation model=7b_mot data=own runtime=zero3
# Ten minutes before its end the job tells the run to save and stop, and goes back into the queue.
#SBATCH --job-name=unimedvl
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
set -uo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1)
export GPUS=${SLURM_GPUS_ON_NODE:-8} FIRST=$first
stop=$PWD/.stop-$SLURM_JOB_ID
rm -f "$stop"
trap 'touch "$stop"' USR1

srun bash -c 'exec accelerate launch --use_deepspeed --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
  --num_processes $((SLURM_NNODES * GPUS)) --main_process_ip "$FIRST" --main_process_port 29500 \
  --deepspeed_multinode_launcher standard --module unimedvl.train "$@"' launch "$@" "checkpoint.stop_file=$stop" &
job=$!
wait "$job"
status=$?
while kill -0 "$job" 2>/dev/null; do  # the signal has ended the first wait
  wait "$job"
  status=$?
done
if [ -e "$stop" ]; then
  rm -f "$stop"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
