"""Distances of generated volumes to real people, and how much they vary with which volumes were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.frechet import Features, frechet_distance
from volgen.evaluation.mask import head_mask
from volgen.evaluation.scan import HeadScan
from volgen.evaluation.spectrum import high_frequency_energy

Unit = NDArray[np.float32]
Numbers = NDArray[np.float64]
DRAWS = 5
RESAMPLES = 400


@dataclass(frozen=True)
class Yardstick:
    """Real people on one grid, as a feature space and as a distance.

    The features are 24 principal components of training people (means over 5 choices of them); the distance is that to people whom the
    model has not seen. The floor is the distance of as many real people as are drawn, whom the components have not seen either.

    Attributes:
        features: one feature space for each draw.
        unseen: features of the unseen people in each.
        floor: distances of the training people that were left out of each.
        detail: high-frequency energy of the unseen people, mean over the axes.
    """

    features: tuple[Features, ...]
    unseen: tuple[Numbers, ...]
    floor: tuple[float, ...]
    detail: float

    @classmethod
    def fit(cls, train: Sequence[Unit], unseen: Sequence[Unit], count: int) -> Self:
        """Features of volumes [X, Y, Z] in [0, 1], for samples of ``count`` volumes (half of the training people at most are the floor)."""
        rows, others = _rows(train), _rows(unseen)
        count = min(count, len(rows) // 2)
        spaces, floors = [], []
        for draw in range(DRAWS):
            order = np.random.default_rng(draw).permutation(len(rows))
            spaces.append(Features.fit(rows[order[count:]]))
            floors.append(frechet_distance(spaces[-1](rows[order[:count]]), spaces[-1](others)))
        return cls(tuple(spaces), tuple(space(others) for space in spaces), tuple(floors), float(np.mean([detail(v) for v in unseen])))

    def project(self, volumes: Sequence[Unit]) -> list[Numbers]:
        """Features [volumes, features] in each space."""
        rows = _rows(volumes)
        return [space(rows) for space in self.features]

    def distance(self, sample: Sequence[Numbers], chosen: NDArray[np.int64] | slice = slice(None)) -> float:
        """Distance of the features of a sample, or of some of its volumes."""
        return float(np.mean([frechet_distance(ours[chosen], theirs) for ours, theirs in zip(sample, self.unseen, strict=True)]))

    def resampled(self, sample: Sequence[Numbers], seed: int) -> Numbers:
        """Distances of resamples of the volumes.

        The choices are the same for every sample of one size and seed, so that samples drawn from the same noise can be compared pair
        by pair (a paired bootstrap).
        """
        generator = np.random.default_rng(seed)
        count = len(sample[0])
        choices = (generator.integers(count, size=count) for _ in range(RESAMPLES))
        return np.array([self.distance(sample, chosen) for chosen in choices])


def detail(volume: Unit) -> float:
    """High-frequency energy of a volume in [0, 1], mean over the axes."""
    scan = HeadScan(volume, head_mask(volume), (1.0, 1.0, 1.0))
    return float(np.mean([high_frequency_energy(scan, axis) for axis in range(3)]))


def _rows(volumes: Sequence[Unit]) -> Unit:
    return np.stack([volume.reshape(-1) for volume in volumes])
