#!/usr/bin/env bash
# Trains on several ranks of this machine: bash launch/local.sh RANKS --config CONFIG.yaml [--section.key value ...]
#
#   LAUNCHER  torchrun (default) or deepspeed. torchrun passes a signal on to every rank at once, so that an interrupted run is saved
#             without haste; the deepspeed launcher signals one rank after another and kills what is left of each after 30 seconds.
#   VENV, PYTHON, TORCH_SPEC  see launch/setup.sh
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || fail "usage: bash launch/local.sh RANKS --config CONFIG.yaml [--section.key value ...]"
ranks=$1
shift
setup_volgen ""
# Ranks share the cores; torchrun would give each of them one thread.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( ($(nproc) + ranks - 1) / ranks ))}
case ${LAUNCHER:-torchrun} in
    torchrun) exec torchrun --standalone --nproc-per-node "$ranks" -m volgen train "$@" ;;
    # --no_local_rank: ranks are read from the environment.
    deepspeed) exec deepspeed --num_gpus "$ranks" --no_local_rank --module volgen train "$@" ;;
    *) fail "LAUNCHER is '$LAUNCHER'; it may be torchrun or deepspeed" ;;
esac
