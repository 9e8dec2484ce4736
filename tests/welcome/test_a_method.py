"""A method is one file: two parts in order, each with a network and a loss of its own, and a denoiser that is made of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOY = '''"""A toy of latent diffusion: one number takes volumes to latents, and denoisers work on these."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import nn

from volgen.core.config import Config as BaseConfig
from volgen.core.given import NOTHING, Examples
from volgen.core.registry import config_class
from volgen.experts.plan import Phase


class Config(BaseConfig):
    """Scaled volumes."""

    kind: Literal["toy"] = "toy"

    def build(self, recipe) -> Toy:
        return Toy(recipe)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x, _):
        return self.scale * x


class Unit:
    """Latents shall have a mean square of 1."""

    def loss(self, network, examples, draws, ids=()):
        latent = network(examples.x_BCXYZ, examples.x_BCXYZ.new_zeros(len(examples)))
        return (latent.square().mean(dim=(1, 2, 3, 4)) - 1.0).square()


class OfLatents:
    def __init__(self, inner, scale) -> None:
        self.inner, self.scale = inner, scale

    def loss(self, network, examples, draws, ids=()):
        return self.inner.loss(network, Examples(self.scale * examples.x_BCXYZ, examples.given), draws, ids)


class Toy:
    def __init__(self, recipe) -> None:
        self.recipe, self.usual = recipe, config_class("volgen.methods", "diffusion")().build(recipe)

    def __getattr__(self, name):
        return getattr(self.usual, name)

    def phases(self):
        experts = self.usual.phases()
        first = Phase("scale", None, experts[0].span, (), None, max_steps=30)
        return [first, *(replace(phase, needs=("scale",)) for phase in experts)]

    def network(self, phase, weights=None):
        return self.usual.network(phase, weights) if phase.points else Scale()

    def released(self, phase):
        return self.usual.released(phase) if phase.points else Scale()

    def objective(self, phase, fitted, sigma=None):
        return OfLatents(self.usual.objective(phase, fitted, sigma), self.scale()) if phase.points else Unit()

    def denoiser(self, network, preconditioner):
        inner, scale = self.usual.denoiser(network, preconditioner), self.scale()
        return lambda y, sigma, given=NOTHING: inner(scale * y, scale * sigma, given) / scale

    def scale(self):
        path = self.recipe.directory / "experts" / "scale" / "weights.safetensors"
        return float(load_file(path)["scale"]) if path.exists() else 1.0
'''

RECIPE = """
name: toy
data: {{store: {store}, shape: [16, 16, 16], batch_size: 2, workers: 1}}
method: {{kind: toy}}
schedule: {{kind: karras, sigma_min: 0.1, sigma_max: 10.0, points: 4}}
network: {{kind: wavelet_unet3d, channels: [4], norm_groups: 2}}
preconditioner: {{kind: edm}}
experts: {{count: 2}}
optimiser: {{learning_rate: 0.05, warmup_steps: 1}}
stopping: {{max_steps: 3, min_steps: 3, validate_every: 5, validation_volumes: 2, validation_draws: 1}}
"""


@pytest.mark.slow
def test_a_method_is_one_file(house: Callable[[], Any], blob_store: Path) -> None:
    newcomer = house()
    newcomer.add("methods/toy.py", TOY)
    config = newcomer.folder / "toy.yaml"
    config.write_text(RECIPE.format(store=blob_store))
    said = newcomer.run("train", "--config", config)
    assert said.index("the scale: 30 steps") < said.index("expert 1 of 2 (sigma") < said.index("expert 0 of 2 (sigma")
    losses: dict[str, list[float]] = {}
    for line in (newcomer.folder / "runs/toy/metrics.jsonl").read_text().splitlines():
        losses.setdefault(json.loads(line)["phase"], []).append(json.loads(line)["loss"])
    assert [len(losses[name]) for name in ("scale", "1", "0")] == [30, 3, 3] and losses["scale"][-1] < 0.5 * losses["scale"][0]
    newcomer.run("sample", "runs/toy", "--out", "drawn", "--count", "1")
    (sidecar,) = (newcomer.folder / "drawn").rglob("sub-*.json")
    assert "nothing to do" in newcomer.run("train", "--config", config)
    assert "method.kind" in newcomer.run("train", "--config", config, "--method.kind", "diffusion", code=2)
    assert json.loads(sidecar.read_text())["RunFingerprint"]
