#!/usr/bin/env bash
# From the sample cohort of real scans to generated brains and a slice report: bash launch/quickstart.sh [OUT]
#
#   OUT               where everything goes (default: quickstart, in the checkout)
#   QUICKSTART_SHORT  1 trains a few steps only: it shows that everything runs, not what it can do
#   VENV, PYTHON, TORCH_SPEC  see launch/setup.sh
#
# A second run continues where the first one stopped: every command keeps what is already there.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

[[ $# -le 1 && ${1:-} != -* ]] || fail "usage: bash launch/quickstart.sh [OUT]"
out=$(realpath --canonicalize-missing "${1:-$VOLGEN_ROOT/quickstart}")
config=$VOLGEN_ROOT/configs/quickstart.yaml
options=()
if [[ ${QUICKSTART_SHORT:-0} != 0 ]]; then
    options=(--stopping.max_steps 4 --stopping.min_steps 1 --stopping.validate_every 2 --stopping.validation_volumes 2)
    ! grep -q '^ *shared_steps:' "$config" || options+=(--experts.shared_steps 4)
fi
# bf16 makes a step four times as fast on a processor (or GPU) that has it, and slower on one that emulates it.
if ! grep -qwE 'avx512_bf16|amx_bf16|bf16' /proc/cpuinfo && ! command -v nvidia-smi >/dev/null; then
    options+=(--engine.precision fp32)
fi

setup_volgen ""

step "the sample cohort: 61 people's real scans"
volgen cohort "$out/scans"
step "ingest: 4 mm, 40 x 48 x 40"
volgen ingest "$out/scans" "$out/cohort.zarr" --shape 40 48 40 --voxel-size 4
step "train, under DeepSpeed"
volgen train --config "$config" --name run --runs "$out" --data.store "$out/cohort.zarr" "${options[@]}"
step "sample 8 brains"
volgen sample "$out/run" --out "$out/samples" --count 8 --seed 0
step "report: the samples against the real scans"
volgen report "$out/samples" --reference "$out/cohort.zarr" --out "$out/report"

step "done"
printf 'volumes  %s\npicture  %s\nreport   %s\n' "$out/samples" "$out/samples/overview.png" "$out/report/report.html"
