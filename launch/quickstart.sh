#!/usr/bin/env bash
# Brains of the packaged model, then from real scans to a model of one's own, its volumes and a slice report: bash launch/quickstart.sh [OUT]
#
#   OUT               where everything goes (default: quickstart, in the checkout)
#   QUICKSTART_SHORT  1 draws one brain and trains a few steps only: it shows that everything runs, not what it can do
#   VENV, PYTHON, TORCH_SPEC  see launch/setup.sh
#
# A second run continues where the first one stopped: every command keeps what is already there.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

[[ $# -le 1 && ${1:-} != -* ]] || fail "usage: bash launch/quickstart.sh [OUT]"
out=$(realpath --canonicalize-missing "${1:-$VOLGEN_ROOT/quickstart}")
config=$VOLGEN_ROOT/configs/quickstart.yaml
options=() brains=4
if [[ ${QUICKSTART_SHORT:-0} != 0 ]]; then
    options=(--stopping.max_steps 4 --stopping.min_steps 1 --stopping.validate_every 2 --stopping.validation_volumes 2)
    brains=1
    ! grep -q '^ *shared_steps:' "$config" || options+=(--experts.shared_steps 4)
fi
# bf16 makes a step four times as fast on a processor (or GPU) that has it, and slower on one that emulates it.
if ! grep -qwE 'avx512_bf16|amx_bf16|bf16' /proc/cpuinfo && ! command -v nvidia-smi >/dev/null; then
    options+=(--engine.precision fp32)
fi

setup_volgen ""

step "$brains brains of the model in the package, at 2 mm"
volgen sample pretrained:t1w-1mm --out "$out/brains" --count "$brains" --voxel-size 2
step "a model of one's own. The sample cohort: 61 people's real scans"
volgen cohort "$out/scans"
step "ingest: 4 mm, 40 x 48 x 40"
volgen ingest "$out/scans" "$out/cohort.zarr" --shape 40 48 40 --voxel-size 4
step "train for some minutes, under DeepSpeed"
volgen train --config "$config" --name run --runs "$out" --data.store "$out/cohort.zarr" "${options[@]}"
step "sample 8 brains"
volgen sample "$out/run" --out "$out/samples" --count 8 --seed 0
step "report: the samples against the real scans"
volgen report "$out/samples" --reference "$out/cohort.zarr" --out "$out/report"

step "done"
printf 'brains of the packaged model  %s\nvolumes of your own           %s\nreport on these               %s\n' \
    "$out/brains/overview.png" "$out/samples/overview.png" "$out/report/report.html"
