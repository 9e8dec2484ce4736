"""deepinv's own samplers (Tachella et al. 2025) with volgen's denoiser: the package is optional, and imported here alone."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from volgen.bench._shared.scene import Made, Scene
from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.images.intensity import to_model
from volgen.sampling.guidances.none import UNGUIDED

WEIGHT = 1.0
"""DPS: their default weight of the data."""


def methods() -> Mapping[str, Any]:
    """Their samplers as rows.

    Raises:
        UserError: deepinv is not installed.
    """
    if importlib.util.find_spec("deepinv") is None:
        raise UserError("--deepinv", "deepinv is not installed", "the package deepinv", "pip install deepinv, or leave the option out")
    return {"deepinv's DPS": dps, "deepinv's DiffPIR": diffpir}


def dps(scene: Scene) -> Made:
    """``deepinv.sampling.DPS`` with as many evaluations as the others have."""

    def draw(there: Any, denoiser: Any, seed: int) -> Tensor:
        steps = len(scene.grid) + 1  # the last of their points is noise 0, where nothing is asked
        random = torch.Generator(scene.device).manual_seed(seed)
        sampler = there.sampling.DPS(denoiser, num_steps=steps, weight=WEIGHT, device=scene.device, rng=random)
        found: Tensor = sampler(_real(scene.of_intensities()), _physics(there, scene), seed=seed)
        return found

    return _drawn(scene, draw)


def diffpir(scene: Scene) -> Made:
    """``deepinv.sampling.DiffPIR`` with its default settings and as many evaluations as the others have."""

    def draw(there: Any, denoiser: Any, seed: int) -> Tensor:
        fidelity, noise = there.optim.data_fidelity.L2(), scene.measurement.noise / 2.0
        sampler = there.sampling.DiffPIR(denoiser, fidelity, sigma=noise, max_iter=len(scene.grid), device=scene.device)
        torch.manual_seed(seed)
        found: Tensor = sampler(_real(scene.of_intensities()), _physics(there, scene))
        return found

    return _drawn(scene, draw)


def _drawn(scene: Scene, draw: Any) -> Made:
    there: Any = importlib.import_module("deepinv")
    drawing = scene.drawing(UNGUIDED, scene.trained.recipe.sampler)
    problem, highest = drawing.problem, scene.grid[0]
    with drawing.bank(scene.grid, 2) as bank:

        class OnUnit(there.models.Denoiser):  # type: ignore[misc]
            """The run's denoiser of intensities in [0, 1]; above its noise levels, what its Gaussian expects."""

            def __init__(self) -> None:
                super().__init__()

            def forward(self, x: Tensor, sigma: Any, given: Given = NOTHING, **more: Any) -> Tensor:
                level = 2.0 * float(torch.as_tensor(sigma).flatten()[0])
                noisy, told = to_model(x.float()), torch.full((1,), level, device=x.device)
                if level > highest and problem.expected is not None:
                    return (problem.expected(noisy, told) + 1.0) / 2.0
                return (bank(noisy, told.clamp(max=highest), given) + 1.0) / 2.0

        denoiser = OnUnit()
        return Made([to_model(draw(there, denoiser, scene.seed * 1000 + index).detach().float())[0].cpu() for index in range(scene.count)])


def _physics(there: Any, scene: Scene) -> Any:
    operator, noise = scene.measurement.operator, scene.measurement.noise / 2.0
    return there.physics.LinearPhysics(
        A=lambda x, **more: _real(operator.apply(x.float())), A_adjoint=lambda y, **more: operator.adjoint(_complex(y.float(), scene)),
        noise_model=there.physics.GaussianNoise(noise),
    )  # fmt: skip


def _real(data: Tensor) -> Tensor:
    return torch.view_as_real(data) if data.is_complex() else data


def _complex(data: Tensor, scene: Scene) -> Tensor:
    return torch.view_as_complex(data.contiguous()) if scene.measurement.data.is_complex() else data
