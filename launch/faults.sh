#!/usr/bin/env bash
# Injects faults into every command and prints a table of what came of them: bash launch/faults.sh [--full] [pytest options]
#
#   without --full  a sample of all faults, in about a minute
#   --full          every cut after every system call, hundreds of damaged files and kills, ext4 on loop devices: about half an hour
#   TABLE           where the counts go, as JSON lines (default: a temporary file)
#   VENV, PYTHON, TORCH_SPEC  see launch/setup.sh
#
# Power cuts need strace; those on loop devices need root, too. Without them their tests are skipped and say so.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

form=short
if [[ ${1:-} == --full ]]; then
    form=full
    shift
fi
setup_volgen "${VOLGEN_EXTRAS:-test}"
cd "$VOLGEN_ROOT"
table=${TABLE:-$(mktemp)}
step "injecting faults, the $form form"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
status=0
python -m pytest -n 0 -m faults tests/faults --faults "$form" --faults-table "$table" "$@" || status=$?
python tests/faults/harness/tally.py "$table" || status=$?
(( status == 0 )) && step "nothing was lost"
exit "$status"
