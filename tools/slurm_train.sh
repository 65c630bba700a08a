#!/usr/bin/env bash
# Submits the training of a config to SLURM; it saves before its time is up, and queues again by itself:
#   GPUS=16 GPUS_PER_NODE=8 tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]
# CPUS_PER_TASK and SBATCH_ARGS='--time=8:00:00 --qos=high ...' go to sbatch.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
tools=$(cd "$(dirname "$0")" && pwd)
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
command -v torchrun >/dev/null || PATH="$tools/../.venv/bin:$PATH" # what `make` installed
# shellcheck disable=SC2086 # SBATCH_ARGS holds several words
exec sbatch \
    --partition="$1" \
    --job-name="$2" \
    --gres="gpu:$per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --requeue \
    --open-mode=append \
    --signal=USR1@120 \
    ${SBATCH_ARGS:-} \
    "$tools/slurm_job.sh" "$tools/train.py" "$3" --launcher slurm "${@:4}"
