"""Noise levels and noise of a batch: functions of (seed, phase, step, position in the global batch), whatever the number of ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from volgen.core.cores import cores
from volgen.core.rng import normal, permutation, uniform
from volgen.training.objective import Draws

LARGE = 1 << 20
"""Voxels from which on the volumes of a batch get their noise side by side: one thread takes 0.09 s for 256^3, and a GPU waits for it."""
GOLDEN = 0.6180339887498949
"""Fractional part of the golden ratio: multiples of it fill [0, 1) most evenly."""


def quantiles(count: int, seed: int, phase: str, step: int, purpose: str = "sigma") -> list[float]:
    """One quantile in [0, 1) for each position of a global batch; each is uniform, together they are stratified.

    Systematic sampling: position p gets (r(p) + u) / count with r a random order and u shared by the batch, so that every batch covers
    the whole span of noise levels. Over steps, u moves by the golden ratio from a random start, which covers each stratum as
    evenly. Both take variance out of the loss without bias.
    """
    offset = (uniform(seed, purpose, phase) + step * GOLDEN) % 1.0
    order = permutation(count, seed, purpose, phase, step)
    # Just below 1, (order + offset) / count may round up to it.
    return [min((place + offset) / count, 1.0 - 2.0**-53) for place in order]


@dataclass(frozen=True)
class StepDraws:
    """The :class:`~volgen.training.objective.Draws` of some examples of one training step.

    Attributes:
        seed: seed of the run, or of one patient.
        phase: name of the network that is trained.
        step: from 1.
        count: examples of the whole global batch.
        positions: places of these examples in it.
    """

    seed: int
    phase: str
    step: int
    count: int
    positions: Sequence[int]

    def quantiles(self, purpose: str = "sigma") -> list[float]:
        """Stratified over the global batch (:func:`quantiles`)."""
        drawn = quantiles(self.count, self.seed, self.phase, self.step, purpose)
        return [drawn[position] for position in self.positions]

    def normal(self, shape: Sequence[int], purpose: str = "noise") -> Tensor:
        """The numbers of each position."""

        def draw(position: int) -> Tensor:
            return normal(shape, self.seed, purpose, self.phase, self.step, position)

        if len(self.positions) == 1 or math.prod(shape) < LARGE:
            drawn = [draw(position) for position in self.positions]
        else:
            with ThreadPoolExecutor(min(len(self.positions), cores())) as threads:
                drawn = list(threads.map(draw, self.positions))
        return torch.stack(drawn)


@dataclass(frozen=True)
class JoinedDraws:
    """Several draws of one step, one after another.

    Attributes:
        each: at least one.
    """

    each: Sequence[Draws]

    @property
    def step(self) -> int:
        """The step that all of them are of."""
        return self.each[0].step

    def quantiles(self, purpose: str = "sigma") -> list[float]:
        """The quantiles of all, one after another."""
        return [quantile for one in self.each for quantile in one.quantiles(purpose)]

    def normal(self, shape: Sequence[int], purpose: str = "noise") -> Tensor:
        """The noise of all, one after another."""
        return torch.cat([one.normal(shape, purpose) for one in self.each])
