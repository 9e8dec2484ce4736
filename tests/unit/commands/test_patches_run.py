"""Experts of patches from end to end: trained, planned, drawn from, audited, and trained privately."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.commands.audit.losses import losses
from volgen.commands.audit.people import Examined
from volgen.commands.sample.sample import sample
from volgen.commands.train import size
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.given import Examples, Given
from volgen.data.store import Store
from volgen.methods import Fitted
from volgen.models.place import coordinates
from volgen.planning import step as planning
from volgen.privacy.per_sample import PerSample
from volgen.recipe import Recipe
from volgen.runs.trained import open_run
from volgen.training.draws import StepDraws

LOCAL = {"kind": "wavelet_unet3d", "channels": [8], "norm": "pixel", "place": {"grid": 3}}
PATCHES = {"kind": "patches", "edge": 8, "per_scan": 2, "foreground": 0.3}


def recipe(store: Path, runs: Path, **sections: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "run", "runs": str(runs), "seed": 5,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2, "workers": 1},
        "schedule": {"kind": "karras", "points": 4, "sigma_min": 0.1, "sigma_max": 10.0},
        "network": LOCAL, "view": PATCHES,
        "preconditioner": {"kind": "gaussian", "levels": 2, "rank_level": 1, "rank": 2, "folds": 2},
        "experts": {"count": 1},
        "optimiser": {"learning_rate": 0.01, "warmup_steps": 1},
        "stopping": {"max_steps": 4, "min_steps": 4, "validate_every": 2, "validation_volumes": 2, "validation_draws": 2},
    }  # fmt: skip
    return validate(Recipe, {**content, **sections}, "test")


def test_a_bank_of_patches_and_whole_volumes_is_trained_and_drawn_from(blob_store: Path, tmp_path: Path) -> None:
    coarse = {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}
    tiles = {**PATCHES, "edge": [16, 8, 8], "per_scan": 1, "tile": 8}
    models = [{"points": 1}, {"points": 1, "view": tiles}, {"points": 2, "level": 1, "view": {"kind": "whole"}, "network": coarse}]
    made = recipe(blob_store, tmp_path, experts={"models": models})
    assert "model 0              expert 0: level 0, view patches, 16 x 8 x 8 at once, at most 4 steps of 2 volumes" in size.report(made)
    run = train(made)
    experts = json.loads((run / "ensemble.json").read_text())["experts"]
    assert [(e["steps"], e.get("level"), e.get("view", {}).get("kind")) for e in experts] == [
        (4, None, None),
        (4, None, "patches"),
        (4, 1, "whole"),
    ]
    assert all(torch.isfinite(torch.tensor(expert["validation_loss"])) for expert in experts)
    assert list(sample(run, tmp_path / "out", count=1, seed=0).rglob("*.nii.gz"))
    trained = open_run(run)
    people = [Examined(Store.open(blob_store), (record,), False, False) for record in Store.open(blob_store).split("train")[:1]]
    found = losses(trained, people, list(trained.ensemble.grid), 2, 0, torch.device("cpu"))
    assert found.shape == (1, 4) and (found > 0).all()


def test_the_loss_of_patches_over_a_volume_is_that_of_the_volume(tmp_path: Path) -> None:
    # Of an untrained network, which adds nothing: eight patches that fill the volume, and all of it as one.
    each, whole = recipe(tmp_path, tmp_path), recipe(tmp_path, tmp_path, view={"kind": "patches", "edge": 16})
    fit = {
        name: torch.rand(t.shape, generator=torch.Generator().manual_seed(2)) + 0.1
        for name, t in each.preconditioner.blank((16, 16, 16), 4).state().items()
    }
    fitted = Fitted(each.preconditioner.restore(fit))
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    places = [(i, j, k) for i in (0, 8) for j in (0, 8) for k in (0, 8)]

    def loss(made: Recipe, clean: Tensor, where: Tensor) -> Tensor:
        method = made.build()
        (phase,) = made.trained()
        objective = method.objective(phase, fitted, lambda quantile: 0.5)
        return objective.loss(method.forward(method.network(phase)), Examples(clean, Given(where)), _Silent(len(clean)))

    parts = torch.cat([x[:, :, i : i + 8, j : j + 8, k : k + 8] for i, j, k in places], dim=2).unflatten(2, (4, 16)).movedim(2, 0)[:, 0]
    where = torch.cat([coordinates((16, 16, 16), place, (8, 8, 8)) for place in places], dim=2).unflatten(2, (4, 16)).movedim(2, 0)[:, 0]
    expected = loss(whole, x, coordinates((16, 16, 16), (0, 0, 0), (16, 16, 16)))
    torch.testing.assert_close(loss(each, parts, where).mean(), expected.mean(), rtol=1e-4, atol=1e-6)


class _Silent:
    step = 1

    def __init__(self, count: int) -> None:
        self.count = count

    def quantiles(self, purpose: str = "sigma") -> list[float]:
        return [0.5] * self.count

    def normal(self, shape: Any, purpose: str = "noise") -> Tensor:
        return torch.zeros(self.count, *shape)


def test_a_step_is_planned_for_patches(tmp_path: Path) -> None:
    whole = planning.trace(recipe(tmp_path, tmp_path, view={"kind": "whole", "place": True}), 2, 10, gpu=False)
    patches = planning.trace(recipe(tmp_path, tmp_path), 2, 10, gpu=False)
    assert 0.2 * whole.flops < patches.flops < 0.35 * whole.flops, "two patches of 8^3 are a fourth of 16^3"
    assert patches.peak < 0.5 * whole.peak


PRIVATE = {
    "privacy": {"kind": "dp_sgd", "epsilon": 6.0, "delta": 1e-3, "views": 2, "accountant": "rdp"},
    "optimiser": {"warmup_steps": 2, "gradient_clip": 0.0}, "preconditioner": {"kind": "edm"},
}  # fmt: skip


def test_patches_of_a_patient_are_one_contribution(blob_store: Path, tmp_path: Path) -> None:
    made = recipe(blob_store, tmp_path, **PRIVATE)
    assert json.loads((train(made) / "privacy_ledger.json").read_text())["unit"] == "patient"
    # Two patients with two views of two patches each, from one pass and from passes of their own.
    method, (phase, *_) = made.build(), made.trained()
    network = method.network(phase)
    for parameter in network.parameters():
        parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    objective = method.objective(phase, Fitted(made.preconditioner.blank((16, 16, 16), 4)))
    examples = method.examples(4, partial(torch.randn, generator=torch.Generator().manual_seed(1)))
    each = PerSample(network)
    loss_B = objective.loss(lambda *inputs: network(*each.inputs(*inputs)), examples, StepDraws(0, "0", 1, 4, range(4)))
    together = each.gradients(loss_B, 2)
    each.close()
    for patient in range(2):
        rows = range(2 * patient, 2 * patient + 2)
        alone = objective.loss(network, examples[list(rows)], StepDraws(0, "0", 1, 4, rows)).mean()
        for mine, gradient in zip(together, torch.autograd.grad(alone, list(network.parameters())), strict=True):
            torch.testing.assert_close(mine[patient], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-7)


def test_networks_that_need_the_whole_volume_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs the whole volume .* use wavelet_unet3d with norm pixel"):
        recipe(tmp_path, tmp_path, network={"kind": "wavelet_unet3d"})
    with pytest.raises(UserError, match=r"view.edge is \[6, 6, 6\], but network and preconditioner need multiples of \[4, 4, 4\]"):
        recipe(tmp_path, tmp_path, view={"kind": "patches", "edge": 6})
