#!/usr/bin/env bash
# What the pages of docs take for granted, tiny: bash tiny.sh [store | run] makes in this folder
#   SCANS, STORE    the sample cohort and its store (16^3 voxels of 14 mm)
#   CONFIG.yaml     a configuration that trains on STORE in seconds
#   RUN, SAMPLES    a finished run of it, and two volumes (with "run")
# Made once for all pages of one call of run_blocks.py.
set -euo pipefail
made=${DOCS_TINY:-$PWD/.tiny}
mkdir -p "$made"
cd "$made"
if [[ ! -e STORE/manifest.json ]]; then
    volgen cohort SCANS
    volgen ingest SCANS STORE --shape 16 --voxel-size 14 --validation 0.15
    cat > CONFIG.yaml <<'YAML'
name: tiny
seed: 0
data: {store: STORE, shape: [16, 16, 16], batch_size: 8, workers: 1}
schedule: {kind: log_snr, points: 8}
network: {kind: wavelet_unet3d, channels: [8], norm_groups: 4}
preconditioner: {kind: gaussian, levels: 2, rank: 2}
experts: {count: 8}
stopping: {max_steps: 2, min_steps: 1, validate_every: 1, validation_draws: 1, validation_volumes: 2}
YAML
fi
if [[ ${1:-store} == run && ! -e RUN/ensemble.json ]]; then
    volgen train --config CONFIG.yaml
    ln -s runs/tiny RUN
    volgen sample RUN --out SAMPLES --count 2 --seed 0
fi
cd "$OLDPWD"
for name in "$made"/*; do
    [[ -e ${name##*/} ]] || cp -a "$name" .
done
