"""A view is one file: experts of one bank differ in view, network and level, and are trained, planned and drawn from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOY = '''"""A toy: an expert sees one half of the volume, left or right, at a time."""

from __future__ import annotations

from typing import Literal

import torch

from volgen.core.config import Config as BaseConfig
from volgen.core.given import NOTHING, Examples, Given
from volgen.core.rng import uniform
from volgen.models.denoiser import PreconditionedDenoiser


class Config(BaseConfig):
    """Half after half, each with a channel that says which."""

    kind: Literal["toy"] = "toy"
    known: Literal[1] = 1
    """Which half it is."""
    places: Literal[False] = False
    """Not where in the half."""
    anywhere: Literal[False] = False
    """Halves of pieces are no halves of volumes."""

    def inputs(self, preconditioner, network):
        if not preconditioner.anywhere:
            raise ValueError(f"halves cannot be had with preconditioner.kind '{preconditioner.kind}'")
        return preconditioner.inputs

    def piece(self, shape, aligned):
        return (shape[0] // 2, *shape[1:])

    def examples(self, shape):
        return 2

    def cut(self, cut, aligned, take=None):
        def half(scan, seed, *key):
            size, side = scan.shape[0] // 2, int(2 * uniform(seed, "half", *key))
            x = scan.slices(0, side * size, (side + 1) * size)[None, None]
            if take is not None:
                x = take(scan, (side * size, 0, 0), (size, *scan.shape[1:]))[None]
            return Examples(x, _told(x[:, :1], side))

        return half

    def of_examples(self, network, preconditioner):
        return PreconditionedDenoiser(network, preconditioner)

    def denoiser(self, network, preconditioner, made_of):
        inner = PreconditionedDenoiser(network, preconditioner)

        def whole(y, sigma, given=NOTHING):
            return torch.cat([inner(half, sigma, _told(half, side)) for side, half in enumerate(y.chunk(2, dim=2))], dim=2)

        return whole


def _told(x, side):
    return Given(torch.full_like(x, 2.0 * side - 1.0))
'''

RECIPE = """
name: toy
data: {{store: {store}, shape: [16, 16, 16], batch_size: 2, workers: 1}}
schedule: {{kind: karras, sigma_min: 0.1, sigma_max: 10.0, points: 5}}
network: {{kind: wavelet_unet3d, channels: [4], norm_groups: 2}}
preconditioner: {{kind: edm}}
experts:
  models:
    - {{points: 2, view: {{kind: toy}}, network: {{kind: slice_unet2d, channels: [4], norm_groups: 2}}}}
    - {{points: [2, 1], level: 1, stopping: {{max_steps: 6, min_steps: 6, validation_volumes: 2, validation_draws: 1}}, batch_size: 4}}
optimiser: {{learning_rate: 0.01, warmup_steps: 1}}
stopping: {{max_steps: 4, min_steps: 4, validate_every: 2, validation_volumes: 2, validation_draws: 1}}
"""


@pytest.mark.slow
def test_a_view_is_one_file(house: Callable[[], Any], blob_store: Path) -> None:
    newcomer = house()
    newcomer.add("models/views/toy.py", TOY)
    config = newcomer.folder / "toy.yaml"
    config.write_text(RECIPE.format(store=blob_store))
    told = newcomer.run("train", "--config", config, "--dry-run")
    assert "model 0              expert 0: level 0, view toy, 8 x 16 x 16 at once, at most 4 steps of 2 volumes" in told
    assert "model 1              experts 1 to 2: level 1, view whole, 8 x 8 x 8 at once, at most 6 steps of 4 volumes" in told
    refused = newcomer.run("train", "--config", config, "--preconditioner.kind", "gaussian", code=2)
    assert "experts.models.0: halves cannot be had with preconditioner.kind 'gaussian'" in refused
    newcomer.run("train", "--config", config)
    run = newcomer.folder / "runs/toy"
    experts = json.loads((run / "ensemble.json").read_text())["experts"]
    assert [(e["steps"], e.get("level"), e.get("view", {}).get("kind"), e.get("network", {}).get("kind")) for e in experts] == [
        (4, None, "toy", "slice_unet2d"), (6, 1, None, None), (6, 1, None, None),
    ]  # fmt: skip
    card = (run / "README.md").read_text()
    assert "1 of `slice_unet2d` (" in card and "2 of `wavelet_unet3d` at level 1 (" in card
    newcomer.run(
        "plan", "--config", config, "--nodes", "1", "--gpus-per-node", "1", "--gpu-memory", "8", "--out", "plan", "--name", "again"
    )
    assert (newcomer.folder / "plan/deepspeed-1.json").exists()
    newcomer.run("sample", run, "--out", "drawn", "--count", "1")
    assert list((newcomer.folder / "drawn").rglob("*.nii.gz"))
