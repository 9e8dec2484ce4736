"""Consistency training without a teacher (Song et al. 2023, algorithm 3; Geng et al. 2025, easy consistency tuning, for the schedule).

Of x0 + s z and x0 + r z, with the same noise and r next below s, one volume cannot tell that they are not on one path of the flow, so that
jumps from both have to end at the same place; from where jumps end they go nowhere, and that anchors all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.given import Examples
from volgen.training.jumps import landed
from volgen.training.objective import Draws, Jumper, Network


class Config(BaseConfig):
    """Jumps from neighbouring noise levels end at the same place; for ``method.kind: jump``."""

    jumps: ClassVar[bool] = True
    teaches_itself: ClassVar[bool] = True
    patients_apart: ClassVar[bool] = False

    kind: Literal["consistency"] = "consistency"
    halve_every: NonNegativeInt = 250
    """Steps after which neighbours are half as far from each other: at first the neighbour of a level is where its jump ends, then half of
    the grid's points in between are left out, and so on, until the next point of the grid is. 0: that from the first step on."""
    bend: float = Field(default=0.03, gt=0.0, le=10.0)
    """Pseudo-Huber's c, of errors in units of what an untrained network is off by: larger ones count by their size, not their square."""
    detail: NonNegativeFloat = 1.0
    """How much more the finest Haar bands count than others."""

    def build(self, trainee: Jumper) -> Consistency:
        """The loss of one phase."""
        return Consistency(self, trainee)


@dataclass(frozen=True)
class Consistency:
    """The :class:`~volgen.training.objective.Objective` of consistency.

    Attributes:
        config: its settings.
        trainee: what is trained.
    """

    config: Config
    trainee: Jumper

    def loss(self, network: Network, examples: Examples, draws: Draws, ids: Sequence[str] = ()) -> Tensor:
        """The loss [B] at one pair of neighbours and under one noise for each example; the lower one is the target, without a gradient."""
        x_BCXYZ = examples.x_BCXYZ
        high = [self.trainee.sigma(quantile) for quantile in draws.quantiles()]
        low, end = [self.neighbour(sigma, draws.step) for sigma in high], [self.trainee.end(sigma) for sigma in high]
        high_B, low_B, end_B = (torch.tensor(levels, device=x_BCXYZ.device) for levels in (high, low, end))
        z_BCXYZ = draws.normal(x_BCXYZ.shape[1:]).to(x_BCXYZ.device)
        jump = self.trainee.jump(network, ids)
        with torch.no_grad():
            target_BCXYZ = landed(jump, x_BCXYZ + low_B[:, None, None, None, None] * z_BCXYZ, low, end, examples.given)
        found_BCXYZ = jump(x_BCXYZ + high_B[:, None, None, None, None] * z_BCXYZ, high_B, end_B, examples.given)
        return bent(jump.missed(found_BCXYZ - target_BCXYZ, high_B, end_B, self.config.detail), self.config.bend)

    def neighbour(self, sigma: float, step: int) -> float:
        """The noise level that one is compared with in a step."""
        points, end = self.trainee.points, self.trainee.end(sigma)
        below = [point for point in points[: bisect_left(points, sigma)] if point > end]
        hop = max(1, len(points) >> (max(step - 1, 0) // self.config.halve_every)) if self.config.halve_every else 1
        return below[-hop] if hop <= len(below) else end


def bent(square_B: Tensor, bend: float) -> Tensor:
    """Pseudo-Huber of weighted squares u, sqrt(u + c^2) - c (Song & Dhariwal 2024): large errors count by their size, not their square."""
    return (square_B + bend**2).sqrt() - bend
