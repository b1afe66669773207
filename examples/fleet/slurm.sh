#!/bin/bash
# One share of a set for each task of an array, each on a GPU of its own, all into one folder:
#
#   MODEL=stabilityai/stable-diffusion-2-1-base PROMPTS=prompts.txt OUT=/shared/set sbatch slurm.sh
#
# A task that is stopped goes on when it is queued again; so does the whole array when it is submitted again.
#SBATCH --job-name=mitune-set
#SBATCH --array=0-7
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

number=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))
exec mitune build --model "$MODEL" --prompts "$PROMPTS" --out "$OUT" --shard "$number/$SLURM_ARRAY_TASK_COUNT" ${OPTIONS:-}
