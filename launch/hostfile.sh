#!/usr/bin/env bash
# Trains on the machines of a hostfile, with DeepSpeed's launcher over pdsh and ssh:
#   bash launch/hostfile.sh HOSTFILE --config CONFIG.yaml [--section.key value ...]
#
#   HOSTFILE     one line for each machine: "HOST slots=RANKS" (as many ranks as GPUs)
#   MASTER_ADDR  address of the first machine that the others reach (default: the first that `hostname -I` prints on it)
#   MASTER_PORT  TCP port on it (default: 29500)
#   VENV         environment with volgen, at the same path on all machines (default: .venv in the checkout, else the current one)
#
# Checkout, VENV, store and runs are on a file system that all machines share: `volgen doctor --hostfile HOSTFILE --shared DIR`.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

[[ $# -ge 3 && -f $1 ]] || fail "usage: bash launch/hostfile.sh HOSTFILE --config CONFIG.yaml [--section.key value ...]"
hostfile=$1
shift
find_volgen
# A machine that does not answer would leave the others waiting for it for half an hour.
python -m volgen doctor --hostfile "$hostfile" --shared . --quick

export PDSH_RCMD_TYPE=ssh
# Else pdsh would wait for ever for a machine to which the network is cut.
export PDSH_SSH_ARGS_APPEND="${PDSH_SSH_ARGS_APPEND:-} -o ServerAliveInterval=15"
# The launcher passes on NCCL_*, PYTHON* and few others; these too shall be the same on all machines. It takes one NAME=VALUE
# on each line and stumbles over anything else. It reads the file through the open descriptor, so nothing is left behind.
variables=$(mktemp)
env | grep -E '^(CUDA_LAUNCH_|DS_|GLOO_|LD_LIBRARY_PATH|MKL_|OMP_|TORCH_)[A-Z0-9_]*=.' > "$variables" || true
exec 3< "$variables"
rm "$variables"
export DS_ENV_FILE=/proc/self/fd/3

# The words pass through the shells of the machines.
words=()
for word in "$@"; do
    if [[ $word == *' '* ]]; then words+=("$word"); else words+=("$(printf '%q' "$word")"); fi
done
# --no_local_rank: ranks are read from the environment.
exec deepspeed --hostfile "$hostfile" --master_addr "${MASTER_ADDR:-}" --master_port "${MASTER_PORT:-29500}" \
    --no_local_rank --module volgen train "${words[@]}"
