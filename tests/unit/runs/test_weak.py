"""A worse denoiser than a run's: whether it is asked about one side or both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from volgen.commands.train.train import train
from volgen.recipe import load
from volgen.runs.trained import open_run
from volgen.runs.weak import weak

CPU = torch.device("cpu")


def test_a_weak_network_of_mirrored_denoisers_may_be_asked_about_one_side(blob_store: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "name": "run", "runs": str(tmp_path), "data": {"store": str(blob_store), "batch_size": 2, "augment": {"flip_left_right": True}},
        "schedule": {"kind": "karras", "points": 4, "sigma_min": 0.1, "sigma_max": 10.0}, "preconditioner": {"kind": "edm"},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "optimiser": {"learning_rate": 0.02, "warmup_steps": 1},
        "experts": {"models": [{"points": [2, 2], "mirrored": True}], "shared_steps": 2, "warm_start": "shared"},
        "stopping": {"max_steps": 2, "validate_every": 2, "validation_volumes": 2, "validation_draws": 2},
    }  # fmt: skip
    run = open_run(train(load(content)))
    y_BCXYZ = torch.randn(1, 1, *run.whole, generator=torch.Generator().manual_seed(0))
    preconditioner = run.preconditioner(CPU)

    def asked(mirrored: bool, about_BCXYZ: torch.Tensor) -> torch.Tensor:
        grid = run.ensemble.grid
        with weak(run, "shared", preconditioner, CPU, grid, 2, corners=False, mirrored=mirrored) as bank, torch.no_grad():
            assert bank is not None
            return bank(about_BCXYZ, torch.tensor([grid[1]]))

    one, other, both = asked(False, y_BCXYZ), asked(False, y_BCXYZ.flip(2)).flip(2), asked(True, y_BCXYZ)
    assert (one - other).abs().max() > 1e-4, "a network knows no symmetry"
    torch.testing.assert_close((one + other) / 2, both)
