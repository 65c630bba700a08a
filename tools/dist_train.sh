#!/usr/bin/env bash
# Trains a config on the GPUs of one machine, or of several:
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# MAX_RESTARTS=3 starts all ranks again, from the last checkpoint, when one of them fails.
# On several, once on each: NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 tools/dist_train.sh ...
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
fi
tools=$(cd "$(dirname "$0")" && pwd)
command -v torchrun >/dev/null || PATH="$tools/../.venv/bin:$PATH" # what `make` installed
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 # torchrun passes them on
# torchrun kills the ranks that have not saved after so many seconds; 30 without it
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"
exec torchrun \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="$2" \
    --max-restarts="${MAX_RESTARTS:-0}" \
    "$tools/train.py" "$1" --launcher pytorch "${@:3}"
