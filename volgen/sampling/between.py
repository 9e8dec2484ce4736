"""Volumes between two others: their noise is turned from that of one seed to that of another.

At a fraction t of the way it is cos(pi t / 2) e_A + sin(pi t / 2) e_B, the spherical interpolation of Shoemake 1985 between vectors at a
right angle, which independent noises of many voxels are. Every voxel stays exactly standard normal, so each volume between is one that the
model draws, and noise is mapped to volumes continuously (Song et al. 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from volgen.core.protocols import Shape4
from volgen.sampling.descent import Noise, place_of_index


@dataclass(frozen=True)
class Turned:
    """Noise of a row of volumes: the first is volume 0 of one seed, the last volume 0 of another.

    Attributes:
        noise: draws the noise of a volume.
        seeds: the two seeds.
        points: volumes of the row, at least two.
    """

    noise: Noise
    seeds: tuple[int, int]
    points: int

    def fraction(self, index: int) -> float:
        """How far on the way volume ``index`` is, from 0 to 1."""
        return index / (self.points - 1)

    def draw(self, shape: Shape4, seed: int, *key: int | str) -> Tensor:
        """Noise [C, X, Y, Z] of one key of a descent, whose index says how far on the way it is; ``seed`` says nothing."""
        place = place_of_index(key)
        index, own = int(key[place]), (*key[:place], 0, *key[place + 1 :])
        first, last = self.seeds
        if index in (0, self.points - 1):  # rounding would leave a trace of the other
            return self.noise(shape, last if index else first, *own)
        angle = math.pi / 2 * self.fraction(index)
        return math.cos(angle) * self.noise(shape, first, *own) + math.sin(angle) * self.noise(shape, last, *own)
