"""Starting `volgen train` in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Sections = dict[str, Any]
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def content(store: Path, runs: Path, name: str, **sections: Sections) -> Sections:
    """A small configuration; ``sections`` are merged into it."""
    whole: Sections = {
        "name": name, "runs": str(runs), "seed": 5,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 4, "workers": 1},
        "schedule": {"kind": "log_snr", "points": 6, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8, 8], "norm_groups": 4},
        "preconditioner": {"kind": "gaussian", "rank": 2, "levels": 1},
        "experts": {"count": 2},
        "optimiser": {"warmup_steps": 2},
        "stopping": {"max_steps": 3, "validate_every": 2, "validation_volumes": 2, "validation_draws": 2},
    }  # fmt: skip
    for section, values in sections.items():
        before = whole.get(section, {})
        # Another kind has other keys.
        whole[section] = values if values.get("kind", before.get("kind")) != before.get("kind") else {**before, **values}
    return whole


@pytest.fixture
def resume(tmp_path: Path) -> Callable[[str], None]:
    """``resume(name)``: continues a run that ``start`` began, in this process, with one rank."""
    from volgen import recipe
    from volgen.commands.train.train import train

    def go_on(name: str) -> None:
        train(recipe.load(tmp_path / f"{name}.yaml"))

    return go_on


@pytest.fixture(scope="module")
def alone(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``alone(**sections)``: the run directory of an undisturbed run of one rank, in this process; made once for each configuration."""
    from volgen.commands.train.train import train
    from volgen.core.config import validate
    from volgen.recipe import Recipe

    made: dict[str, Path] = {}

    def run(**sections: Sections) -> Path:
        key = repr(sections)
        if key not in made:
            runs = tmp_path_factory.mktemp("alone")
            made[key] = train(validate(Recipe, content(blob_store, runs, "run", **sections), "test"))
        return made[key]

    return run


@pytest.fixture
def configure(blob_store: Path, tmp_path: Path) -> Callable[..., Path]:
    """``configure(name, **sections)``: writes the configuration of a run ``tmp_path / "runs" / name`` and returns its path."""

    def write(name: str, **sections: Sections) -> Path:
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(content(blob_store, tmp_path / "runs", name, **sections)))
        return config

    return write


@pytest.fixture
def start(configure: Callable[..., Path]) -> Callable[..., subprocess.Popen[str]]:
    """``start(name, ranks, only, **sections)``: begins a training run under ``tmp_path / "runs" / name`` and returns its process."""

    def begin(name: str, ranks: int = 1, only: str | None = None, **sections: Sections) -> subprocess.Popen[str]:
        config = configure(name, **sections)
        launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [sys.executable, *launcher, "-m", "volgen", "train", "--config", str(config), *(["--only", only] if only else [])]
        environment = {key: value for key, value in os.environ.items() if key not in LAUNCHER_VARIABLES}
        environment["OMP_NUM_THREADS"] = "1"
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    return begin
