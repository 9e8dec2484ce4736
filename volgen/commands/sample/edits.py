"""Volumes that are made of others: a row that leads from one to another, and what is drawn from a sketch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.limits import MAX_LEVELS
from volgen.core.rounding import upper
from volgen.images import nifti
from volgen.images.geometry import Geometry
from volgen.images.intensity import to_model
from volgen.runs.trained import TrainedRun
from volgen.sampling.between import Turned
from volgen.sampling.descent import Noise

SAME_MM = 1e-2
"""Largest difference between affines of one frame."""


@dataclass(frozen=True)
class SeedRow:
    """A row of volumes from one seed to another.

    Attributes:
        seeds: whose volumes 0 are its ends.
        points: how many there are.
    """

    seeds: tuple[int, int]
    points: int

    @classmethod
    def of(cls, run: TrainedRun, seeds: Sequence[int], count: int, start_index: int, seed: int) -> SeedRow:
        """The row that is asked for.

        Raises:
            UserError: it has no two ends, or the run does not draw a volume from noise of its own.
        """
        first, last = seeds
        if min(first, last) < 0 or first == last:
            raise UserError("--between", f"{first} {last}", "two different seeds, 0 or more")
        if count < 2 or start_index:
            raise UserError("--between", f"{count} volumes from {start_index} on", "--count of 2 or more, and no --start-index")
        if seed not in (0, first):
            raise UserError("--seed", f"is {seed}, and --between says {first} and {last}", "one of both", "leave --seed out")
        if run.recipe.assembly.piecewise:
            raise UserError("--between", "this run draws volumes piece by piece", "a run that draws whole volumes")
        return cls((first, last), count)

    def turned(self, noise: Noise) -> Turned:
        """What draws the noise of its volumes."""
        return Turned(noise, self.seeds, self.points)

    @property
    def told(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"between": {"seeds": list(self.seeds), "volumes": self.points}}

    def said(self, index: int) -> dict[str, Any]:
        """What the sidecar of a volume says of it."""
        return {"between": {"seeds": list(self.seeds), "fraction": index / (self.points - 1)}}


@dataclass(frozen=True)
class Sketch:
    """An image that volumes are drawn from.

    Attributes:
        path: the image.
        sigma: noise that it is given, a level of the run.
    """

    path: Path
    sigma: float

    @cached_property
    def told(self) -> dict[str, Any]:
        """What manifest and sidecars say of it: its content, wherever it lies. Its name is not said: it may be that of a person."""
        return {"sketch": {"sha256": sha256(self.path, follow=True), "sigma": self.sigma}}

    def read(self, geometry: Geometry) -> Tensor:
        """What the run draws of it, [1, 1, X, Y, Z] in the model range.

        Raises:
            UserError: it is of another frame, or holds NaN.
        """
        return geometry.place.crop(in_frame(self.path, geometry, coarser=True))


def begins_below(run: TrainedRun, sketch: Path | None, sigma: float | None) -> float:
    """The highest noise level at which volumes may begin.

    Raises:
        UserError: a sketch without noise, noise without a sketch, or less of it than the run knows.
    """
    if (sketch is None) != (sigma is None):
        there, missing = ("--sketch", "--sketch-sigma") if sigma is None else ("--sketch-sigma", "--sketch")
        raise UserError(there, f"is there, and {missing} is not", "both, or neither")
    if sketch is None or sigma is None:
        return math.inf
    if not sketch.is_file():
        raise UserError(str(sketch), "there is no such file", "a NIfTI volume")
    if run.recipe.assembly.piecewise:
        raise UserError("--sketch", "this run draws volumes piece by piece", "a run that draws whole volumes")
    lowest = min(run.ensemble.grid)
    if not (math.isfinite(sigma) and sigma >= lowest):
        expected = f"at least {upper(lowest, 4)}, the run's lowest noise level: less changes nothing"
        raise UserError("--sketch-sigma", f"{sigma:g}", expected)
    return sigma


def in_frame(path: Path, geometry: Geometry, *, coarser: bool = False) -> Tensor:
    """An image of the run's frame and intensity units, [1, 1, X, Y, Z] in the model range.

    Args:
        path: a NIfTI file.
        geometry: the run's.
        coarser: whether voxels may be 2, 4, ... times as large: each is then as many of the run's.

    Raises:
        UserError: it is of another frame, or holds NaN.
    """
    volume = nifti.read(path).reoriented("RAS")
    do = "give a volume that volgen sample or volgen anonymise wrote with this run, or bring the scan to its grid"
    levels = [level for level in range(1 + coarser * MAX_LEVELS) if all(edge % 2**level == 0 for edge in geometry.shape)]
    level = next((level for level in levels if volume.shape == tuple(edge >> level for edge in geometry.shape)), None)
    if level is None:
        more = ", or 1 / 2, 1 / 4, ... of them along each axis" if coarser else ""
        raise UserError(str(path), f"has {list(volume.shape)} voxels", f"the run's {list(geometry.shape)}{more}", do)
    affine = replace(geometry, box=None).coarser(level).affine
    if not np.allclose(volume.affine, affine, atol=SAME_MM):
        raise UserError(str(path), f"is in another place or of other voxels: affine {volume.affine.tolist()}", "the run's frame", do)
    unit = torch.from_numpy(geometry.intensity.to_unit(volume.voxels))
    if not unit.isfinite().all():
        raise UserError(str(path), "holds NaN or infinite voxels", "finite voxels")
    for axis in range(3):
        unit = unit.repeat_interleave(2**level, dim=axis)
    return to_model(unit[None, None])
