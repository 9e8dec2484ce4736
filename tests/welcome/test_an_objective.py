"""An objective is one file: it is found, trained, validated, planned and sampled from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOY = '''"""A toy: consistency training (Song et al. 2023, equation 10) between neighbouring levels, the network being its own target."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveFloat

from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """What a network says of a noise level, it shall say of the next higher one."""

    kind: Literal["toy"] = "toy"
    anchor: PositiveFloat = 1.0
    """Weight of the clean volume at the lowest level."""

    def build(self, trainee) -> Toy:
        return Toy(self.anchor, trainee)


class Toy:
    def __init__(self, anchor, trainee) -> None:
        self.anchor, self.trainee = anchor, trainee

    def loss(self, network, examples, draws, ids=()):
        x, points, denoise = examples.x_BCXYZ, self.trainee.points, self.trainee.denoiser(network, ids)
        places = [int(quantile * (len(points) - 1)) for quantile in draws.quantiles()]
        low, high = (x.new_tensor([points[place + up] for place in places])[:, None, None, None, None] for up in (0, 1))
        z = draws.normal(x.shape[1:]).to(x.device)
        with torch.no_grad():
            target = denoise(x + low * z, low.flatten(), examples.given)
        above = denoise(x + high * z, high.flatten(), examples.given)
        first = denoise(x + points[0] * z, torch.full_like(low.flatten(), points[0]), examples.given)
        return ((above - target).square() + self.anchor * (first - x).square()).mean(dim=(1, 2, 3, 4))
'''

RECIPE = """
name: toy
data: {{store: {store}, shape: [16, 16, 16], batch_size: 2, workers: 1}}
schedule: {{kind: karras, sigma_min: 0.1, sigma_max: 10.0, points: 6}}
network: {{kind: wavelet_unet3d, channels: [4], norm_groups: 2}}
preconditioner: {{kind: edm}}
objective: {{kind: toy, anchor: 2.0}}
optimiser: {{learning_rate: 0.003, warmup_steps: 1}}
ema: {{decay: 0.5}}
stopping: {{max_steps: 20, min_steps: 20, validate_every: 2, validation_volumes: 2, validation_draws: 1}}
"""


@pytest.mark.slow
def test_an_objective_is_one_file(house: Callable[[], Any], blob_store: Path) -> None:
    newcomer = house()
    newcomer.add("training/objectives/toy.py", TOY)
    config = newcomer.folder / "toy.yaml"
    config.write_text(RECIPE.format(store=blob_store))
    newcomer.run("train", "--config", config)
    lines = [json.loads(line) for line in (newcomer.folder / "runs/toy/metrics.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert len(lines) == 20 and losses[-1] < 0.8 * losses[0], "it learns"
    assert "is of another configuration: objective.anchor" in newcomer.run("train", "--config", config, "--objective.anchor", "3", code=2)
    words = ("--config", config, "--nodes", "1", "--gpus-per-node", "1", "--gpu-memory", "8", "--out")
    newcomer.run("plan", *words, "toy-plan", "--name", "again")
    toy = json.loads((newcomer.folder / "toy-plan/plan.json").read_text())["chosen"]["flops_per_step"]
    config.write_text(config.read_text().replace("objective: {kind: toy, anchor: 2.0}\n", ""))
    newcomer.run("plan", *words, "usual-plan", "--name", "again")
    usual = json.loads((newcomer.folder / "usual-plan/plan.json").read_text())["chosen"]["flops_per_step"]
    assert 2.0 < toy / usual < 2.5, "two passes forward and back, and one forward only"
    newcomer.run("sample", "runs/toy", "--out", "drawn", "--count", "1")
    assert list((newcomer.folder / "drawn").rglob("*.nii.gz"))
