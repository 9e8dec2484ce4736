"""Latent diffusion: exact for a Gaussian behind a linear autoencoder, gated by reconstructions, and refused where it cannot be had."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.cli import main
from volgen.commands.train.size import report
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.given import Examples
from volgen.core.protocols import Problem
from volgen.methods import Fitted
from volgen.methods.latent import AUTOENCODER, LatentDiffusion, decibels
from volgen.models.haar import corner_scale, means, spread
from volgen.planning.blank import BlankDraws
from volgen.recipe import Recipe
from volgen.runs.trained import open_run
from volgen.sampling import descent
from volgen.sampling.samplers.heun import Config as Heun

OWN = {"kind": "latent", "channels": [4, 8], "norm_groups": 4, "latent_channels": 1, "steps": 3, "gate": 0.0}
GAUSSIAN = {"kind": "gaussian", "rank": 2, "levels": 1, "folds": 3}


def recipe(store: Path, runs: Path, **sections: Any) -> Recipe:
    content = {
        "name": "run", "runs": str(runs), "seed": 5, "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2},
        "method": OWN, "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 20.0}, "preconditioner": GAUSSIAN,
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "experts": {"warm_start": "none"},
        "optimiser": {"warmup_steps": 1, "gradient_clip": 0.0}, "engine": {"checkpoint_every": 2},
        "stopping": {"max_steps": 3, "min_steps": 3, "validate_every": 2, "validation_volumes": 2},
    }  # fmt: skip
    return validate(Recipe, {**content, **sections}, "test")


class Corner:
    """A linear autoencoder with an orthonormal decoder: a volume's low-pass Haar corner, and the volume that has only this."""

    def encode(self, x_BCXYZ: Tensor) -> Tensor:
        return means(x_BCXYZ, 1) * corner_scale(1)

    def decode(self, z_BCXYZ: Tensor) -> Tensor:
        return spread(z_BCXYZ / corner_scale(1), 1)


def gaussian_people(count: int, edge: int = 4) -> Tensor:
    """Latents of few directions with unequal spread, and a little of everything."""
    random = torch.Generator().manual_seed(3)
    directions = torch.linalg.qr(torch.randn(edge**3, 2, generator=random))[0].T * torch.tensor([[3.0], [1.5]])
    z = 0.4 + torch.randn(count, 2, generator=random) @ directions + 0.2 * torch.randn(count, edge**3, generator=random)
    return z.view(count, 1, edge, edge, edge)


def silent(input_BCXYZ: Tensor, noise_B: Tensor) -> Tensor:
    """A network that adds nothing, so that the denoiser is that of the fitted Gaussian."""
    return torch.zeros_like(input_BCXYZ[:, :1])


def test_a_linear_autoencoder_makes_latent_diffusion_of_a_gaussian_exact(tmp_path: Path) -> None:
    """What is drawn is decoder(m + v^(1/2) z), in closed form, sample by sample; so its mean is D m and its covariance D diag(v) D^T."""
    own = recipe(
        tmp_path,
        tmp_path,
        data={"store": "x", "shape": [8, 8, 8], "batch_size": 2},
        preconditioner={**GAUSSIAN, "rank": 0, "levels": 0, "rank_level": 0},
    )
    method, space = LatentDiffusion(own, own.method), Corner()
    z, people = gaussian_people(40), [str(number) for number in range(40)]
    x = space.decode(z)
    torch.testing.assert_close(space.encode(x), z)
    fitted = own.preconditioner.fit(lambda: (space.encode(one[None])[0, 0] for one in x), people, 0)
    denoiser = own.model.denoiser(silent, fitted)
    shape, grid = (1, *method.grid), torch.logspace(math.log10(50.0), -3, 240).tolist()
    assert shape == (1, 4, 4, 4)
    drawn = descent.sample(
        denoiser, Heun().build(), descent.down(grid), seed=7, indices=range(6), shape=shape, device=torch.device("cpu"),
        problem=Problem(fitted.prior),
    )  # fmt: skip
    decoded = torch.stack([space.decode(one[None])[0] for one in drawn])
    noise = torch.stack([descent.white(shape, 7, "start", index) for index in range(6)])
    mean, spread_of = z.mean(dim=0), fitted.noised(torch.ones(1, *shape), 0.0)[0] - z.mean(dim=0)
    expected = space.decode(mean + spread_of * noise)
    assert float((decoded - expected).abs().max()) < 0.02 * float(expected.std())
    assert float(expected.std()) > 0.1


def test_denoisers_are_trained_on_latents_and_the_autoencoder_is_judged_by_what_it_loses(tmp_path: Path) -> None:
    own = recipe(tmp_path, tmp_path, preconditioner={"kind": "edm"})
    method = own.build()
    first, expert = method.phases()
    assert (first.name, first.points, first.max_steps, expert.needs) == (AUTOENCODER, (), 3, (AUTOENCODER,))
    x, fitted = torch.rand(2, 1, 16, 16, 16) * 2 - 1, own.preconditioner.fit(list, [], 0)
    objective = method.objective(expert, Fitted(fitted, space=Corner()))
    seen: list[Tensor] = []

    def network(input_BCXYZ: Tensor, noise_B: Tensor) -> Tensor:
        seen.append(input_BCXYZ)
        return torch.zeros_like(input_BCXYZ)

    loss = objective.loss(network, Examples(x), BlankDraws(2))
    sigma = expert.sigma(0.5, True)
    z = Corner().encode(x)
    assert seen[0].shape == z.shape
    kept = 0.25 / (sigma**2 + 0.25)  # EDM's skip path, without noise
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(loss, weight * ((kept - 1.0) * z).square().mean(dim=(1, 2, 3, 4)))
    judged = method.objective(first, Fitted(fitted))
    with torch.no_grad():
        lost = judged.loss(lambda volumes, _: volumes + 0.1, Examples(x), BlankDraws(2))
    assert decibels(float(lost.mean())) == pytest.approx(10 * math.log10(4 / 0.01), rel=1e-4)


def test_denoisers_wait_for_an_autoencoder_that_is_good_enough(blob_store: Path, tmp_path: Path) -> None:
    asked = recipe(blob_store, tmp_path, method={**OWN, "gate": 90.0})
    with pytest.raises(UserError, match=r"the autoencoder: reconstructs people it was not trained on at [0-9.]+ dB") as refused:
        train(asked)
    assert "method.gate" in str(refused.value)
    run = train(recipe(blob_store, tmp_path))
    assert run == asked.directory, "with a lower gate the same run goes on"


@pytest.fixture(scope="module")
def finished(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe(blob_store, tmp_path_factory.mktemp("latent")))


def test_a_run_knows_its_autoencoder(finished: Path, tmp_path: Path) -> None:
    run = open_run(finished)
    space = run.space(torch.device("cpu"))
    assert run.piece == (8, 8, 8) and space.decode(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 1, 16, 16, 16)
    assert run.latents != ("",)
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    weights = copy / "experts" / AUTOENCODER / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.safetensors"):
        open_run(copy)


def test_a_run_of_latents_reconstructs_through_its_decoder(finished: Path, blob_store: Path, tmp_path: Path) -> None:
    words = ["reconstruct", finished, "--simulate", blob_store, "--split", "train", "--people", 1, "--operator", "identity"]
    chi_squares = {}
    for kind, more in (("resample", ["--guidance.iterations", 30]), ("dps", ["--guidance.strength", 1e-3]), ("projection", [])):
        asked = [*words, "--noise", 0.05, "--out", tmp_path / kind, "--count", 2, "--guidance", kind, *more]
        assert main([str(word) for word in asked]) == (2 if kind == "projection" else 0), kind
        if kind != "projection":
            chi_squares[kind] = json.loads((tmp_path / kind / "calibration.json").read_text())["heads"][0]["chi_squares"]
    # An autoencoder of three steps comes no nearer to anybody; a guidance that does next to nothing draws somebody else.
    assert max(chi_squares["resample"]) < min(chi_squares["dps"])


def test_volumes_of_a_run_of_latents_are_not_compared_with_voxels_on_their_way(
    finished: Path, blob_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in (
        (["distil", finished, "--name", "student", "--steps", "2"], "is of method.kind 'latent'"),
        (["bench", "experts", finished, "--store", blob_store, "--split", "validation"], "is made of voxels"),
    ):
        assert main([str(word) for word in words]) == 2, words[0]
        assert message in capsys.readouterr().err


def test_an_autoencoder_is_no_shared_network(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample", finished, "--out", tmp_path / "s", "--count", "1", "--guidance", "auto", "--guidance.weak", "shared"]
    assert main([str(word) for word in words]) == 2 and "the run has no shared network" in capsys.readouterr().err
    recipe = open_run(finished).recipe
    assert [phase.shared for phase in recipe.phases()] == [False, False]
    assert "order of training    autoencoder, then high to low noise" in report(recipe)


def test_a_private_run_takes_the_autoencoder_of_a_public_one(finished: Path, blob_store: Path, tmp_path: Path) -> None:
    privacy = {"kind": "dp_sgd", "epsilon": 6.0, "delta": 1e-3, "views": 1, "accountant": "rdp", "spare": 0.5}
    with pytest.raises(UserError, match="trains an autoencoder with the cohort first"):
        recipe(blob_store, tmp_path, privacy=privacy)
    begun = recipe(blob_store, tmp_path, start={"kind": "public", "run": str(finished)})
    assert [phase.name for phase in begun.trained()] == ["0"]
    run = train(begun)
    path = Path("experts") / AUTOENCODER / "weights.safetensors"
    assert (run / path).read_bytes() == (finished / path).read_bytes()
    with pytest.raises(UserError, match=r"method\.latent_channels is 2 here and 1 there"):
        train(recipe(blob_store, tmp_path / "other", start={"kind": "public", "run": str(finished)}, method={**OWN, "latent_channels": 2}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"store": "x", "shape": [15, 16, 16], "batch_size": 2}}, "multiples of 2"),
        ({"level": 1}, "of whole volumes"),
        ({"view": {"kind": "whole", "place": True}}, "without places"),
        ({"experts": {"count": 4, "chains": 2, "groups": 2}}, "one network after another"),
        ({"method": {**OWN, "latent_channels": 8}}, "is no compression"),
        ({"method": {**OWN, "norm_groups": 3}}, "does not divide"),
        ({"objective": {"kind": "consistency"}}, "networks that jump"),
    ],
)
def test_what_it_is_not_for_is_refused(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, tmp_path, **sections)
