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
from volgen.images import nifti


class Config(BaseConfig):
    """Voxels that are measured: those of a mask, or some slices from one end."""

    kind: Literal["inpaint"] = "inpaint"
    mask: Path | None = None
    """NIfTI volume of the run's shape, in RAS+: not 0 where a voxel is measured."""
    axis: Axis = "S"
    """Without a mask: the axis along which slices are measured from the low end, and the rest is not: with S, the lower part of a head."""
    share: float = Field(default=0.5, ge=0.0, le=1.0)
    """Without a mask: which share of the slices is measured."""

    def build(self, shape: Shape3, device: torch.device) -> Operator:
        """Makes the operator.

        Raises:
            UserError: the mask cannot be read, has another shape, or holds NaN.
        """
        return Inpaint(self._measured(shape).to(device))

    def _measured(self, shape: Shape3) -> Tensor:
        if self.mask is None:
            place = AXES.index(self.axis)
            slices = torch.arange(shape[place]) < round(self.share * shape[place])
            return slices.view([-1 if axis == place else 1 for axis in range(3)]).expand(shape)
        volume = nifti.read(self.mask).reoriented("RAS")
        if volume.shape != shape:
            raise UserError(
                str(self.mask), f"has {list(volume.shape)} voxels", f"the run's {list(shape)}", "give a mask in the run's frame"
            )
        voxels = torch.from_numpy(volume.voxels)
        if not voxels.isfinite().all():
            raise UserError(str(self.mask), "holds NaN or infinite voxels", "numbers: not 0 where a voxel is measured")
        return voxels != 0


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

    def closed(self, gamma: float) -> Proximal:
        """(z + gamma data) / (1 + gamma) where a voxel is measured, z where not."""
        weight = 1.0 if math.isinf(gamma) else gamma / (1.0 + gamma)
        return lambda z_BCXYZ, data: torch.where(self._measured, torch.lerp(z_BCXYZ, data, weight), z_BCXYZ)
