"""The audit on real brains: it finds a model made to memorise, does not accuse a private one, and catches noise that was left out.

14 mm, 12 x 16 x 12 voxels: one to five minutes of one core for each.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from volgen import cli
from volgen.commands.ingest.ingest import ingest
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.data.half import HalfConfig
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.store import Store
from volgen.models.denoiser import PreconditionedDenoiser
from volgen.models.networks import wavelet_unet3d as networks
from volgen.models.preconditioners import edm as preconditioners
from volgen.privacy.accounting import calibrate
from volgen.privacy.mechanism import GradientMechanism
from volgen.privacy.membership import statistics
from volgen.privacy.one_run import lower_bound
from volgen.privacy.plans.dp_sgd import Mechanism
from volgen.privacy.secret import Secret
from volgen.recipe import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SHAPE = (12, 16, 12)


@pytest.fixture(scope="module", name="store")
def _store(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """61 people of one study, 16 of them for training: the coins of seed 1 put eight on each side."""
    folder = tmp_path_factory.mktemp("cohort")
    scans, store = folder / "scans", folder / "store"
    scans.mkdir()
    for person in (test_data / "brains-2mm").glob("sub-DEP*"):
        (scans / person.name).symlink_to(person)
    ingest(scans, store, IngestConfig(shape=SHAPE, voxel_size=14.0, validation=0.1, test=0.7))
    return store


def recipe(store: Path, name: str, steps: int, batch: int, **sections: Any) -> Recipe:
    """The noise levels at which memory shows first, and a network that is quick at it: two Haar levels leave 3 x 4 x 3 places."""
    content: dict[str, Any] = {
        "name": name, "runs": str(store.parent / "runs"), "seed": 1,
        "data": {"store": str(store), "shape": list(SHAPE), "batch_size": batch, "workers": 1, "half": {"seed": 1, "side": "a"}},
        "schedule": {"kind": "log_snr", "points": 8, "sigma_min": 0.1, "sigma_max": 1.5},
        "network": {"kind": "wavelet_unet3d", "channels": [32], "norm_groups": 4, "haar_levels": 2},
        "preconditioner": {"kind": "edm"},
        "optimiser": {"warmup_steps": 10, "gradient_clip": 0.0, "learning_rate": 5e-3},
        "stopping": {"max_steps": steps, "min_steps": steps, "validate_every": steps, "validation_draws": 1, "validation_volumes": 2},
        "engine": {"checkpoint_every": steps},
        **sections,
    }  # fmt: skip
    found = validate(Recipe, content, "test")
    assert len(found.data.records(Store.open(store), "train")) == 8
    return found


def private(epsilon: float, views: int) -> dict[str, Any]:
    return {"privacy": {"kind": "dp_sgd", "epsilon": epsilon, "delta": 1e-3, "accountant": "rdp", "views": views}}


def audited(run: Path, store: Path, out: Path) -> tuple[int, dict[str, Any]]:
    words = ["audit", str(run), "--members", str(store), "--out", str(out), "--batch-size", "8", "--levels", "2", "--count", "24"]
    code = cli.main(words)
    return code, json.loads((out / "audit.json").read_text())


def test_a_model_made_to_memorise_eight_people_is_found(store: Path, tmp_path: Path) -> None:
    code, found = audited(train(recipe(store, "memory", 1000, 16)), store, tmp_path / "audit")
    assert code == 1
    assert found["membership"]["leaks"] and found["membership"]["statistics"][found["membership"]["best"]]["auc"] > 0.95
    assert found["epsilon"]["epsilon"] > 0.4
    assert found["claim"]["epsilon"] is None and not found["refuted"]
    statement = (tmp_path / "audit" / "statement.html").read_text()
    assert "There is no privacy guarantee." in statement and "who was trained on can be told" in statement


def test_copies_that_a_model_draws_of_eight_people_are_found(store: Path, tmp_path: Path) -> None:
    """A network with room for eight heads, at all noise levels: its volumes are them."""
    sections = {
        "schedule": {"kind": "log_snr", "points": 16, "sigma_min": 0.05, "sigma_max": 20.0}, "sampler": {"kind": "dpmpp_2m"},
        "network": {"kind": "wavelet_unet3d", "channels": [48, 96], "norm_groups": 4},
    }  # fmt: skip
    code, found = audited(train(recipe(store, "copies", 1500, 16, **sections)), store, tmp_path / "audit")
    assert code == 1 and found["membership"]["leaks"]
    nearest = found["nearest"]
    assert nearest["leaks"] and nearest["copies"] > 3
    assert nearest["nearest_is_member"] == 24 and nearest["drawn_to_members"] < 0.3 * nearest["members_to_members"]
    assert "copies:" in (tmp_path / "audit" / "statement.html").read_text()


def test_a_private_model_of_the_same_people_is_not_accused(store: Path, tmp_path: Path) -> None:
    run = train(recipe(store, "private", 200, 4, **private(3.0, 4)))
    code, found = audited(run, store, tmp_path / "audit")
    assert code == 0 and not found["findings"]
    assert found["epsilon"]["epsilon"] <= found["claim"]["epsilon"] <= 3.0


def weighted(denoise: PreconditionedDenoiser, x_BCXYZ: torch.Tensor, z_BCXYZ: torch.Tensor, sigma_B: torch.Tensor) -> torch.Tensor:
    """The loss, written down once more."""
    error = denoise(x_BCXYZ + sigma_B[:, None, None, None, None] * z_BCXYZ, sigma_B) - x_BCXYZ
    return (denoise.weight(sigma_B) * error.square().mean(dim=(1, 2, 3, 4))).mean()


def by_mechanism(x_BCXYZ: torch.Tensor, inside: np.ndarray, noise: float, steps: int) -> np.ndarray:
    """Losses [people, 1] after training by the mechanism of private runs in a plain loop: two patients a step, 16 views of each."""
    torch.manual_seed(0)
    network = networks.Config(channels=(32,), norm_groups=4, haar_levels=2).build(inputs=1)
    edm = preconditioners.Config().fit(lambda: iter(x_BCXYZ[:, 0]), [""] * len(x_BCXYZ), 0)
    denoise, weights = PreconditionedDenoiser(network, edm), list(network.parameters())
    optimiser = torch.optim.AdamW(weights, lr=5e-3, betas=(0.9, 0.99), weight_decay=0.0)
    members = np.flatnonzero(inside)
    mechanism = GradientMechanism(Mechanism(2 / len(members), noise, 1.0), 2.0, Secret(bytes(32)), 0, 1)
    for _ in range(steps):
        total = mechanism.zeros([p.shape for p in weights], torch.device("cpu"))
        for person in mechanism.draw(len(members)):
            views = x_BCXYZ[members[[person] * 16]]
            sigma_B = torch.exp(torch.empty(16).uniform_(math.log(0.1), math.log(1.5)))
            loss = weighted(denoise, views, torch.randn_like(views), sigma_B)
            mechanism.add(total, torch.autograd.grad(loss, weights))
        for parameter, gradient in zip(weights, mechanism.finish(total), strict=True):
            parameter.grad = gradient
        optimiser.step()
    with torch.no_grad():
        z, sigma_B = torch.randn(8, *x_BCXYZ.shape[1:]), torch.full((8,), 0.144)
        losses = [weighted(denoise, x[None].expand_as(z), z, sigma_B) for x in x_BCXYZ]
    return np.array(losses, dtype=np.float64)[:, None]


def test_noise_that_was_left_out_shows_more_than_the_ledger_allows(store: Path) -> None:
    """With 16 coins and three tests the most that can be shown at all is epsilon 1.2, if every guess is right; the claim is 0.4."""
    claim, delta, steps = 0.4, 1e-3, 350
    opened = Store.open(store)
    x_BCXYZ = torch.stack([torch.from_numpy(opened.read_unit(r)) * 2.0 - 1.0 for r in opened.split("train")])[:, None]
    inside = np.array([HalfConfig(seed=1, side="a").holds(r.patient) for r in opened.split("train")])
    noise = calibrate(claim, delta, 2 / inside.sum(), steps, "rdp")

    def shown(noise: float) -> float:
        return lower_bound(statistics(by_mechanism(x_BCXYZ, inside, noise, steps), ["loss"]), inside, delta, 0.95).epsilon

    assert shown(noise) <= claim
    assert shown(0.0) > claim
