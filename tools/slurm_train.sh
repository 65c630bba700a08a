#!/usr/bin/env bash
# Trains a config on a Slurm cluster:
#   GPUS=16 GPUS_PER_NODE=8 tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]
# CPUS_PER_TASK and SRUN_ARGS='--qos=high ...' go to srun. Submit a new job with --resume to go on.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
tools=$(cd "$(dirname "$0")" && pwd)
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
command -v torchrun >/dev/null || PATH="$tools/../.venv/bin:$PATH" # what `make` installed
# shellcheck disable=SC2086 # SRUN_ARGS holds several words
exec srun \
    --partition="$1" \
    --job-name="$2" \
    --gres="gpu:$per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    python -u "$tools/train.py" "$3" --launcher slurm "${@:4}"
