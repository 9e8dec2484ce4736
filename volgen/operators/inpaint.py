"""A mask: some voxels are measured as they are, of the others nothing is known. Inpainting, missing slices, half of a head.

A is a diagonal of zeros and ones, so A A = A = A*, and the proximal map is a mean voxel by voxel.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.protocols import AXES, Axis, Operator, Proximal, Shape3
from volgen.core.rng import permutation
from volgen.images.box import BoxConfig
from volgen.operators._images import image_of_shape


class Config(BaseConfig):
    """Voxels that are measured: those of a mask, or some slices from one end."""

    kind: Literal["inpaint"] = "inpaint"
    mask: Path | None = None
    """NIfTI volume of the run's shape, in RAS+: not 0 where a voxel is measured."""
    axis: Axis = "S"
    """Without a mask: the axis along which slices are measured from the low end, and the rest is not: with S, the lower part of a head."""
    share: float = Field(default=0.5, ge=0.0, le=1.0)
    """Without a mask: which share of the slices is measured."""
    scattered: bool = False
    """Whether the slices that are not measured are some at random, rather than those of the high end; without a mask."""
    hole: BoxConfig | None = None
    """A box of voxels that is not measured, such as one around a lesion (``hole.start``, ``hole.size``); with it, all slices are."""
    seed: int = Field(default=0, ge=0)
    """Which slices are missing, if they are scattered."""

    def build(self, shape: Shape3, device: torch.device) -> Operator:
        """Makes the operator.

        Raises:
            UserError: the mask cannot be read, has another shape, or holds NaN.
        """
        return Inpaint(self._measured(shape).to(device))

    def _measured(self, shape: Shape3) -> Tensor:
        measured = self._slices(shape) if self.mask is None else image_of_shape(self.mask, shape) != 0
        if self.hole is None:
            return measured
        if not BoxConfig.whole(shape).holds(self.hole):
            found = f"{list(self.hole.size)} voxels from {list(self.hole.start)} on"
            raise UserError("--operator.hole", found, f"a box in {list(shape)} voxels")
        measured = measured.clone() if self.mask is not None else torch.ones(shape, dtype=torch.bool)
        measured[self.hole.place] = False
        return measured

    def _slices(self, shape: Shape3) -> Tensor:
        place = AXES.index(self.axis)
        edge = shape[place]
        order = torch.tensor(permutation(edge, self.seed, "slices")) if self.scattered else torch.arange(edge)
        return (order < round(self.share * edge)).view([-1 if axis == place else 1 for axis in range(3)]).expand(shape)


class Inpaint(Operator):
    """Keeps the voxels that are measured; the others are 0 in the data.

    Args:
        measured_XYZ: bool.
    """

    apart = True

    def __init__(self, measured_XYZ: Tensor) -> None:
        self._measured = measured_XYZ

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        """Data shaped like the volumes."""
        return torch.where(self._measured, x_BCXYZ, 0.0)

    def adjoint(self, data: Tensor) -> Tensor:
        """The same: a mask is its own adjoint."""
        return self.apply(data)

    def seen(self, data: Tensor) -> Tensor:
        """Voxels that are measured."""
        return self.apply(data)

    def closed(self, gamma: float) -> Proximal:
        """(z + gamma data) / (1 + gamma) where a voxel is measured, z where not."""
        weight = 1.0 if math.isinf(gamma) else gamma / (1.0 + gamma)
        return lambda z_BCXYZ, data: torch.where(self._measured, torch.lerp(z_BCXYZ, data, weight), z_BCXYZ)
