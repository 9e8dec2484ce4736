"""The rows of the benchmark that are volgen's own code: without a network, and with each guidance."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from volgen.bench._shared.scene import Made, Scene
from volgen.bench.reconstruct.wavelets import sparsest
from volgen.core.config import Config
from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Guidance
from volgen.core.registry import config_class, kinds
from volgen.images.intensity import to_model
from volgen.sampling.guidances.gauss import Config as Gauss
from volgen.sampling.guidances.none import Config as Unguided
from volgen.sampling.guidances.resample import Config as Resample

Method = Callable[[Scene], Made]
GUIDANCES, SAMPLERS = "volgen.sampling.guidances", "volgen.sampling.samplers"
ZERO_FILLED, COMPRESSED, GAUSSIAN = "zero-filled", "compressed sensing", "Gaussian alone"


def zero_filled(scene: Scene) -> Made:
    """What was not measured is 0: the adjoint of the data."""
    return Made([], to_model(scene.measurement.operator.adjoint(scene.of_intensities()))[0])


def sparse(scene: Scene, weight: float) -> Made:
    """Compressed sensing with a weight."""
    return Made([], to_model(sparsest(scene.measurement.operator, scene.of_intensities(), weight, scene.shape))[0])


def gaussian(scene: Scene) -> Made:
    """The posterior of the Gaussian that the run was fitted to: its mean in closed form and draws of it, without a network."""
    problem = scene.problem
    mean = problem.prior(torch.zeros(scene.shape, device=scene.device), scene.grid[0])
    clean = torch.full((1,), math.inf)

    def of(guidance: Guidance, index: int) -> Tensor:
        def expected(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            return mean

        with torch.no_grad():
            return guidance.guide(expected, problem, lambda k: scene.noise("gaussian", index, k))(mean, clean)[0].cpu()

    drawing = Resample().build()
    return Made([of(drawing, index) for index in range(scene.count)], of(Gauss().build(), 0))


def guidances(asked: tuple[str, ...], scene: Scene) -> list[str]:
    """Guidances that make volumes agree with measurements; those that were asked for, in this order, if any were.

    Raises:
        UserError: there is no such guidance, or one cannot be had with the run.
    """
    strange = [name for name in asked if name not in kinds(GUIDANCES)]
    if strange:
        raise UserError("--guidances", f"there is no guidance '{strange[0]}'", f"some of {', '.join(kinds(GUIDANCES))}")
    found = []
    for kind in asked or kinds(GUIDANCES):
        config: Config = config_class(GUIDANCES, kind)()
        try:
            config.build().check(scene.problem)  # type: ignore[attr-defined]
        except UserError:
            if asked:
                raise
            continue
        if config != Unguided():
            found.append(kind)
    return found
