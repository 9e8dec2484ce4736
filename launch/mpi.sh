#!/usr/bin/env bash
# Trains on the machines of a hostfile with Open MPI's mpirun, over ssh or inside a job of a batch system:
#   bash launch/mpi.sh HOSTFILE --config CONFIG.yaml [--section.key value ...]
#
#   HOSTFILE     as for launch/hostfile.sh, "HOST slots=RANKS" on each line; "localhost slots=4" is four ranks of this machine
#   MASTER_ADDR  address of the first machine that the others reach (default: its name in HOSTFILE)
#   MASTER_PORT  TCP port on it (default: one that belongs to this mpirun)
#   VENV         environment with volgen, at the same path on all machines (default: .venv in the checkout, else the current one)
#
# MPI only starts the ranks; they talk through NCCL or gloo. SIGTERM, SIGUSR1 and Ctrl-C to this script save and stop (exit code 85).
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

[[ $# -ge 3 && -f $1 ]] || fail "usage: bash launch/mpi.sh HOSTFILE --config CONFIG.yaml [--section.key value ...]"
hostfile=$1
shift
command -v mpirun >/dev/null || fail "mpirun is not on PATH; install openmpi-bin, or load your cluster's module"
find_volgen

first=$(awk '!/^[[:space:]]*(#|$)/ { print $1; exit }' "$hostfile")
export MASTER_ADDR=${MASTER_ADDR:-$first}
# What the ranks shall know too; a variable that is not set must not be named.
exports=()
for name in PATH VIRTUAL_ENV MASTER_ADDR $(compgen -e | grep -E '^(CUDA_LAUNCH_|DS_|GLOO_|MASTER_PORT|MKL_|NCCL_|OMP_|PYTHON|TORCH_)' || true); do
    [[ ! -v $name ]] || exports+=(-x "$name")
done
# --bind-to none: each rank and its threads would share one core. setsid: Ctrl-C reaches this script and not mpirun too.
setsid mpirun --hostfile "$hostfile" --bind-to none "${exports[@]}" python -m volgen train "$@" &
pid=$!
# mpirun kills its ranks one second after SIGTERM or Ctrl-C, which is too soon to save; SIGUSR1 it only passes on.
trap 'kill -USR1 "$pid"' TERM USR1 INT
while true; do
    code=0
    wait "$pid" || code=$?
    kill -0 "$pid" 2>/dev/null || exit "$code" # else a signal has ended the waiting, not mpirun
done
