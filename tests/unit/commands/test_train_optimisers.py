"""Training with an optimiser beside DeepSpeed's goes on after a crash, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.experts import ensemble
from volgen.recipe import Recipe
from volgen.training.optimisers import LIBRARIES

PowerCut = Callable[[int], AbstractContextManager[None]]
RATES = {"prodigy": 1.0}


@pytest.fixture(params=sorted(LIBRARIES))
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    pytest.importorskip(LIBRARIES[chosen].module)
    return chosen


def recipe(store: Path, runs: Path, kind: str, **sections: Any) -> Recipe:
    content = {
        "name": "run", "runs": str(runs), "seed": 5, "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 3.0}, "preconditioner": {"kind": "edm"},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "ema": {"decay": 0.0},
        "optimiser": {"algorithm": kind, "warmup_steps": 2, "learning_rate": RATES.get(kind, 1e-3)}, "engine": {"checkpoint_every": 2},
        "stopping": {"max_steps": 7, "min_steps": 7, "validate_every": 3, "validation_volumes": 2, "validation_draws": 1},
    }  # fmt: skip
    return validate(Recipe, {**content, **sections}, "test")


def test_a_crashed_training_goes_on_and_equals_one_that_did_not(kind: str, blob_store: Path, tmp_path: Path, power_cut: PowerCut) -> None:
    whole = train(recipe(blob_store, tmp_path / "whole", kind))
    with power_cut(4):
        train(recipe(blob_store, tmp_path / "cut", kind))
    resumed = train(recipe(blob_store, tmp_path / "cut", kind))
    (one, other) = ([expert.sha256 for expert in ensemble.read(run / "ensemble.json").experts] for run in (whole, resumed))
    assert one == other
