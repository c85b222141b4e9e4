#!/usr/bin/env bash
# Slurm: sbatch --nodes 8 --gpus-per-node 8 scripts/launch_slurm.sh stage=foundation model=7b_mot data=own runtime=zero3
# A SIGTERM comes two minutes before the end, the run is saved, and the job goes back into the queue.
#SBATCH --job-name=unimedvl
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -uo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1)
gpus=${SLURM_GPUS_ON_NODE:-8}
srun bash -c 'exec accelerate launch --use_deepspeed --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
  --num_processes $((SLURM_NNODES * '"$gpus"')) --main_process_ip '"$first"' --main_process_port 29500 \
  --deepspeed_multinode_launcher standard --module unimedvl.train "$@"' launch "$@"
status=$?
if [ "$status" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
