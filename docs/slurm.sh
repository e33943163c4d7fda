#!/bin/bash
# Train on several machines of a SLURM cluster: sbatch docs/slurm.sh, from the project's root, which all of them see.
#
# A process that dies is started again three times, a job that is preempted or runs out of time is queued again; both go on
# after the last whole epoch. What stands behind the script's name goes to the bundle: sbatch docs/slurm.sh --experiment mine
#SBATCH --job-name=monai_vmat
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120

set -euo pipefail
CONFIGS=bundles/dose/configs
FILES="['$CONFIGS/train.json','$CONFIGS/multi_gpu_train.json']"
HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)

# PyTorch 2.13: restarted processes would wait for those before them (see docs/multi_gpu.md).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / SLURM_GPUS_ON_NODE))

# Two minutes before the end the job goes back into the queue. Its id, by which a run is known as its own, stays the same.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

srun torchrun --nnodes="$SLURM_NNODES" --nproc_per_node="$SLURM_GPUS_ON_NODE" --max-restarts=3 \
    --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="$HOST:29500" \
    -m monai.bundle run training --config_file "$FILES" "$@" &
wait $!
