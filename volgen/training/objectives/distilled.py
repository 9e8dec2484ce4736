"""Distillation of a teacher's trajectories: jumps end where the teacher's solver came to, in one evaluation.

Regression on pairs first (Luhman & Luhman 2021): the flow is a map, so what is learnt is no mean of several volumes. Then, if asked for,
consistency between neighbouring noise levels on these trajectories (Song et al. 2023, algorithm 2, with the teacher's steps taken before).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.given import Examples
from volgen.core.protocols import Cut, Scan, Trajectory
from volgen.training.jumps import landed
from volgen.training.objective import Draws, Jumper, Network

DIGITS = 1e-6
"""Relative digits to which noise levels are compared."""


class Config(BaseConfig):
    """Jumps end where a teacher's trajectories do; what ``volgen distil`` trains with."""

    jumps: ClassVar[bool] = True
    patients_apart: ClassVar[bool] = False

    kind: Literal["distilled"] = "distilled"
    levels: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    """Noise levels of the states that the store keeps of each trajectory, descending; the last state, behind them, is clean."""
    top: float = Field(default=0.75, gt=0.0, le=1.0)
    """Share of examples that jump from the highest noise level of an expert, which sampling asks about; the others from those below it."""
    consistency_after: NonNegativeInt = 0
    """Steps after which the target is what the network makes of the next lower state, without a gradient; 0: never."""
    detail: NonNegativeFloat = 1.0
    """How much more the finest Haar bands count than others."""

    @property
    def states(self) -> int:
        """Volumes in an example: the states of a trajectory."""
        return len(self.levels) + 1

    def cut(self, cut: Cut, seen: Callable[[Tensor], Tensor]) -> Cut:
        """Trajectories instead of scans.

        Args:
            cut: what of a scan the expert is trained on.
            seen: what of volumes [B, C, X, Y, Z] it sees; means over cubes of noisy volumes are noisy volumes.
        """

        def states(scan: Scan, seed: int, *key: int | str) -> Examples:
            trajectory: Trajectory = scan  # type: ignore[assignment]  # that is what such a store has
            return Examples(seen(trajectory.states()[None]), cut(scan, seed, *key).given)

        return states

    def build(self, trainee: Jumper) -> Distilled:
        """The loss of one phase."""
        return Distilled(self, trainee)


@dataclass(frozen=True)
class Distilled:
    """The :class:`~volgen.training.objective.Objective` of distillation.

    Attributes:
        config: its settings.
        trainee: what is trained.
    """

    config: Config
    trainee: Jumper

    def loss(self, network: Network, examples: Examples, draws: Draws, ids: Sequence[str] = ()) -> Tensor:
        """The loss [B] of one jump of each trajectory."""
        states_BTXYZ = examples.x_BCXYZ
        high = [self.level(quantile) for quantile in draws.quantiles()]
        end = [self.trainee.end(sigma) for sigma in high]
        low = [self.neighbour(sigma, to, draws.step) for sigma, to in zip(high, end, strict=True)]
        high_B, end_B = (torch.tensor(levels, device=states_BTXYZ.device) for levels in (high, end))
        jump = self.trainee.jump(network, ids)
        with torch.no_grad():
            target_BCXYZ = landed(jump, self._at(states_BTXYZ, low), low, end, examples.given)
        found_BCXYZ = jump(self._at(states_BTXYZ, high), high_B, end_B, examples.given)
        return jump.missed(found_BCXYZ - target_BCXYZ, high_B, end_B, self.config.detail)

    def level(self, quantile: float) -> float:
        """The noise level that a quantile in [0, 1) stands for."""
        *others, top = [point for point in self.trainee.points if self._place(point) is not None]
        if quantile < self.config.top or not others:
            return top
        return others[int((quantile - self.config.top) / (1.0 - self.config.top) * len(others))]

    def neighbour(self, sigma: float, end: float, step: int) -> float:
        """Where the target begins to jump: where the jump ends, so that it goes nowhere, or later at the next state on the way."""
        if not self.config.consistency_after or step <= self.config.consistency_after:
            return end
        points = self.trainee.points
        below = [point for point in points[: bisect_left(points, sigma)] if point > end and self._place(point) is not None]
        return below[-1] if below else end

    def _place(self, sigma: float) -> int | None:
        """Which state of a trajectory has a noise level; the last one is clean."""
        if sigma == 0.0:
            return len(self.config.levels)
        kept = enumerate(self.config.levels)
        return next((place for place, level in kept if math.isclose(self.trainee.seen(level), sigma, rel_tol=DIGITS)), None)

    def _at(self, states_BTXYZ: Tensor, levels: Sequence[float]) -> Tensor:
        """The state of each trajectory at its noise level, [B, 1, X, Y, Z]."""
        places = [self._place(level) for level in levels]
        assert None not in places, f"the store has no states at {levels}"
        return torch.stack([states_BTXYZ[row, place] for row, place in enumerate(places)])[:, None]
