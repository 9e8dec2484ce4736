#!/usr/bin/env bash
# Sets itself up and runs the tests: bash launch/test.sh [pytest options, such as -m slow or tests/unit]
#
#   VOLGEN_TEST_DATA  folder of real scans (brains-2mm/, native/) for the tests that need more than the sample cohort
#   TEST_WORKERS      processes that run tests (default: one for each core; 0 runs them in this process)
#   VENV, PYTHON, TORCH_SPEC  see launch/setup.sh
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

setup_volgen "${VOLGEN_EXTRAS:-test}"
cd "$VOLGEN_ROOT"
[[ -z ${VOLGEN_TEST_DATA:-} ]] || step "with the scans in $VOLGEN_TEST_DATA"
step "running the tests"
# One thread each: as many processes as cores share the machine. Counted first, because nproc counts what OMP_NUM_THREADS allows.
workers=${TEST_WORKERS:-$(nproc)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# A file's tests stay in one process, in the order of their names: what a file trains once is trained once, and what takes longest begins first.
python -m pytest -n "$workers" --dist loadfile --no-loadscope-reorder "$@"
step "all tests passed"
