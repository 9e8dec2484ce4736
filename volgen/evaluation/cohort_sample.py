"""The volumes that the measures of a cohort are taken on, small enough to be in memory together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.core.tree import each
from volgen.evaluation.check import Triple
from volgen.evaluation.cohort import cohort_quality
from volgen.evaluation.measure import robust_unit
from volgen.evaluation.verdict import number
from volgen.images.blocks import block_means, edge_for

MOST_TRAIN, MOST_OTHER, MOST_GENERATED = 64, 32, 64
LARGEST_EDGE = 96
FEWEST_TRAIN, FEWEST_OTHER = 3, 2
Unit = NDArray[np.float32]


class CohortSample:
    """Collects volumes one by one; larger grids than 96 voxels along an edge are averaged over blocks of voxels.

    Args:
        train: ids of the people that a model is trained on.
        other: ids of the people that it has not seen.
        shape: voxels of every real scan; None if they differ, and then nothing is measured.
        voxel_size: mm.
    """

    def __init__(self, train: Sequence[str], other: Sequence[str], shape: tuple[int, int, int] | None, voxel_size: Triple) -> None:
        self.shape = shape
        self.factor = edge_for(shape, LARGEST_EDGE) if shape else 1
        self.voxel_size: Triple = (voxel_size[0] * self.factor, voxel_size[1] * self.factor, voxel_size[2] * self.factor)
        self._train, self._other = set(_spread(train, MOST_TRAIN)), set(_spread(other, MOST_OTHER))
        self._kept: dict[str, list[Unit]] = {"train": [], "other": [], "generated": []}
        self._another_shape = False

    def wants(self, person: str) -> bool:
        """Whether this real scan is needed."""
        return self.shape is not None and person in self._train | self._other

    def add_real(self, person: str, voxels: NDArray[Any]) -> None:
        """Keeps a scan, in any intensity unit."""
        self._keep("train" if person in self._train else "other", voxels)

    def add_generated(self, voxels: NDArray[Any]) -> None:
        """Keeps a volume that is to be judged, up to the 64th."""
        if len(self._kept["generated"]) < MOST_GENERATED:
            self._keep("generated", voxels)

    def measure(self) -> dict[str, Any]:
        """``cohort`` of ``report.json``: the measures with six significant digits, or ``{"skipped": reason}``."""
        train, other, generated = (self._kept[name] for name in ("train", "other", "generated"))
        if self.shape is None or self._another_shape:
            return {"skipped": "The volumes and the reference do not share one shape, so the cohort as a whole was not measured."}
        if len(train) < FEWEST_TRAIN or len(other) < FEWEST_OTHER or not generated:
            needed = f"{FEWEST_TRAIN} training people, {FEWEST_OTHER} others and a readable volume"
            return {"skipped": f"The cohort as a whole was not measured: that needs {needed}."}
        measured: dict[str, Any] = _rounded(cohort_quality(generated, other, train, self.voxel_size))
        return {"voxel_size": _rounded(list(self.voxel_size)), **measured}

    def _keep(self, group: str, voxels: NDArray[Any]) -> None:
        if self.shape is None or voxels.shape != self.shape:
            self._another_shape = True
        elif np.isfinite(voxels).all():
            self._kept[group].append(block_means(robust_unit(np.asarray(voxels, dtype=np.float32)), [self.factor] * 3))


def _spread(people: Sequence[str], most: int) -> list[str]:
    """People evenly over the list, ``most`` of them or fewer."""
    places = np.linspace(0, len(people) - 1, min(most, len(people))).round().astype(int)
    return [people[place] for place in np.unique(places)]


def _rounded(value: Any) -> Any:
    return each(value, lambda item: number(item) if isinstance(item, float) else item)
