"""A run directory with random weights, as `volgen train` leaves one: what a benchmark of sampling needs is its size, not what it learnt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from volgen.core.config import dump_yaml, validate
from volgen.core.files import sha256, write_json, write_text
from volgen.core.protocols import Shape3
from volgen.core.run_files import CONFIG, ENSEMBLE, LEDGER, PRECONDITIONER
from volgen.core.span import tile
from volgen.experts import ensemble
from volgen.experts.ensemble import Ensemble, ExpertRecord
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap
from volgen.privacy.plans.none import NOTHING
from volgen.recipe import Recipe
from volgen.runs.paths import Paths
from volgen.runs.trained import TrainedRun, open_run


def make_run(directory: Path, shape: Shape3, channels: Sequence[int], experts: int, files: int | None = None) -> TrainedRun:
    """Writes a run with one expert for each of ``experts`` noise levels, in bf16.

    Args:
        directory: made.
        shape: voxels of its volumes.
        channels: widths of its wavelet U-Nets.
        experts: how many.
        files: how many different files of weights there are, which experts share in turn; one for each if None.
    """
    content: dict[str, Any] = {
        "name": "bench", "data": {"store": "none.zarr", "shape": list(shape)}, "schedule": {"kind": "log_snr", "points": experts},
        "network": {"kind": "wavelet_unet3d", "channels": list(channels)}, "preconditioner": {"kind": "edm"},
        "experts": {"count": experts}, "engine": {"precision": "bf16"},
    }  # fmt: skip
    recipe = validate(Recipe, content, "bench")
    write_text(directory / CONFIG, dump_yaml(recipe))
    grid = recipe.schedule.grid()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = recipe.build().released(recipe.phases()[-1]).state_dict()
    weighed = []
    for number in range(files or experts):
        path = Paths(directory).weights(str(number))
        path.parent.mkdir(parents=True)
        save_file({name: tensor + 1e-3 * (number + 1) / experts for name, tensor in weights.items()}, path)
        weighed.append((path.relative_to(directory).as_posix(), sha256(path)))
    size = sum(tensor.numel() for tensor in weights.values())
    records = [
        ExpertRecord(index, span.low, span.high, *weighed[index % len(weighed)], size, 1, None)
        for index, span in enumerate(tile(grid, experts))
    ]
    ensemble.write(directory / ENSEMBLE, Ensemble(tuple(records), grid[-1], grid[0], tuple(grid)))
    Geometry(shape, (1.0, 1.0, 1.0), IntensityMap(0.0, 1.0), skull_stripped=True).write(directory)
    write_json(directory / LEDGER, NOTHING)
    save_file({}, directory / PRECONDITIONER)
    return open_run(directory)
