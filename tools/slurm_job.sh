#!/usr/bin/env bash
# The job that tools/slurm_train.sh submits: its ranks, and once more if they were asked to stop.
set -uo pipefail

# A rank that crashed ends the others in a minute; sooner would kill those that are still leaving
# after a signal, and hide their exit code.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 --wait=60 python -u "$@"
code=$?
[ $code -ne 75 ] || scontrol requeue "$SLURM_JOB_ID"
exit $code
