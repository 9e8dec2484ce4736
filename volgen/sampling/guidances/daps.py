"""DAPS (Zhang, Chu, Berner, Meng, Anandkumar & Song 2025, "Improving diffusion inverse problem solving with decoupled noise annealing").

A volume is drawn from::

    x0 ~ exp(-|x0 - c|^2 / (2 r^2) - |y - A x0|^2 / (2 s_y^2)),      r = s

around a centre c, and noise of the next level is added to x0 (the solver ``renoise``). For linear instruments x0 is drawn exactly, by
perturbing and solving, where the paper walks for a hundred steps of Langevin's dynamics. As published, c is the end of the probability flow
that begins at x; for a Gaussian, with r = s, the unmeasured part then has twice its variance. With c what is expected it is right.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from volgen.core.conjugate import Limits
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Noises, Problem
from volgen.sampling.guidances._data import Informed, Solving, level, measurement, noise_of, proximal, white_data


class Config(Solving):
    """Zhang et al. 2025: volumes drawn between a centre and the data; goes with ``--sampler renoise``."""

    goes_with: ClassVar[Mapping[str, Any]] = {"kind": "renoise"}
    kind: Literal["daps"] = "daps"
    centre: Literal["expected", "flow"] = "expected"
    """What the denoiser expects, or (as published) the end of a probability flow, for which experts of lower noise levels are asked too."""
    flow_steps: int = Field(default=5, ge=1, le=1000)
    """Steps of Euler's method of a flow."""

    def build(self) -> DAPS:
        """Makes the guidance."""
        return DAPS(self.flow_steps if self.centre == "flow" else 1, self.limits)


@dataclass(frozen=True)
class DAPS(Informed):
    """The equation of this module.

    Attributes:
        steps: how many Euler steps lead from the noise level to 0; with one, the centre is what is expected.
        limits: when iterations stop.
    """

    kind = "daps"

    renoises = True

    steps: int
    limits: Limits

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        """One evaluation of the denoiser for each step of the flow."""
        measured = measurement(problem, self.kind)
        noise = noise_of(measured)

        def guided(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            sigma = level(sigma_B)
            drawn = self._centre(denoise, y_BCXYZ, sigma_B, given) + sigma * noises(0)
            data = measured.data + noise * white_data(noises, 1, measured.data)
            return proximal(measured, sigma**2 / noise**2, self.limits)(drawn, data)

        return guided

    def _centre(self, denoise: Denoiser, x_BCXYZ: Tensor, sigma_B: Tensor, given: Given) -> Tensor:
        # Levels of Karras et al. 2022 with rho 7, from the step's own to 0.
        levels = [sigma_B * (1.0 - step / self.steps) ** 7 for step in range(self.steps + 1)]
        for sigma, after in itertools.pairwise(levels):
            x0_BCXYZ = denoise(x_BCXYZ, sigma, given)
            x_BCXYZ = x0_BCXYZ + (after / sigma).view(-1, 1, 1, 1, 1) * (x_BCXYZ - x0_BCXYZ)
        return x_BCXYZ
