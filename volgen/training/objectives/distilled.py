"""Distillation of a teacher's trajectories: jumps end where the teacher's solver came to, in one evaluation.

Regression on pairs first (Luhman & Luhman 2021): the flow is a map, so what is learnt is no mean of several volumes. Then, if asked for,
consistency between neighbouring noise levels on these trajectories (Song et al. 2023, algorithm 2, with the teacher's steps taken before).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.given import Examples
from volgen.core.protocols import Cut, Scan, Shape3, Take, Trajectory
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
    at: tuple[NonNegativeInt, ...] = ()
    """Level of the voxels on which each of these states was on its way, never rising, where the teacher's volumes climbed: experts see the
    states of their own level, and where the last jump of these ends. Empty: all were whole volumes, and experts see all of them."""
    top: float = Field(default=0.75, gt=0.0, le=1.0)
    """Share of examples that jump from the highest noise level of an expert, which sampling asks about; the others from those below it."""
    consistency_after: NonNegativeInt = 0
    """Steps after which the target is what the network makes of the next lower state, without a gradient; 0: never."""
    detail: NonNegativeFloat = 1.0
    """How much more the finest Haar bands count than others."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if self.at and (len(self.at) != len(self.levels) or list(self.at) != sorted(self.at, reverse=True)):
            raise ValueError(f"at is {list(self.at)}, but has to be one level of voxels for each of {len(self.levels)}, never rising")
        return self

    def states(self, level: int) -> int:
        """Volumes in an example of experts of a level: the states of a trajectory that they see."""
        return len(self.places(level))

    def places(self, level: int) -> range:
        """Which states of a trajectory experts of a level see: those of their own voxels, and where the last of their jumps ends."""
        if not self.at:
            return range(len(self.levels) + 1)
        first = self.at.index(level) if level in self.at else len(self.at)
        return range(first, first + self.at.count(level) + 1)

    def cut(self, cut: Callable[[Take], Cut]) -> Cut:
        """Trajectories instead of scans.

        Args:
            cut: what of a scan the expert is trained on, from what there is of a box of its voxels.
        """

        def states(scan: Scan, start: Shape3, size: Shape3) -> Tensor:
            trajectory: Trajectory = scan  # type: ignore[assignment]  # that is what such a store has
            return trajectory.states(start, size, climbed=bool(self.at))

        return cut(states)

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
        """Which state of an example has a noise level; the last one of a trajectory is clean."""
        places = self.config.places(self.trainee.level)
        for row, place in enumerate(places):
            known = self.trainee.seen(self.config.levels[place]) if place < len(self.config.levels) else 0.0
            if math.isclose(known, sigma, rel_tol=DIGITS):
                return row
        return None

    def _at(self, states_BTXYZ: Tensor, levels: Sequence[float]) -> Tensor:
        """The state of each trajectory at its noise level, [B, 1, X, Y, Z]."""
        places = [self._place(level) for level in levels]
        assert None not in places, f"the store has no states at {levels}"
        return torch.stack([states_BTXYZ[row, place] for row, place in enumerate(places)])[:, None]
