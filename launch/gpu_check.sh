#!/usr/bin/env bash
# Checks on one GPU, in at most eight minutes and without a network, what no test on a CPU can: bash launch/gpu_check.sh [--cpu] [OUT] [...]
#
#   OUT      folder for check.json, check.md and what the parts make (default: gpu_check, in the checkout)
#   --cpu    the small form: the same parts on a CPU, in a minute
#   VENV     environment with volgen and its extra "test" (default: .venv in the checkout, else the current one); nothing is installed
#
# Further options are those of tests/gpu/harness/check.py (--minutes M, --only PART ...). Exit code: how many parts did not pass.
# docs/gpu.md says what the parts are.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

options=() out=""
while (( $# )); do
    case $1 in
        --only) options+=("$@"); break ;; # it takes all that follows
        --minutes) options+=("$1" "${2:?--minutes M}"); shift ;;
        -*) options+=("$1") ;;
        *) out=$1 ;;
    esac
    shift
done
out=$(realpath --canonicalize-missing "${out:-$VOLGEN_ROOT/gpu_check}")
cd "$VOLGEN_ROOT"
find_volgen
exec python tests/gpu/harness/check.py "$out" "${options[@]}"
