"""Shading: each voxel is brighter or darker by a factor, which changes slowly (a bias field).

A is a diagonal matrix. Shading multiplies intensities, of which air has none: :func:`volgen.runs.observed.observe` brings data of shaded
intensities to the model range.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from volgen.acquisition.fields import smooth_field
from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.protocols import Operator, Proximal, Shape3
from volgen.operators._images import image_of_shape


class Config(BaseConfig):
    """A field that is given, or a smooth random one."""

    kind: Literal["bias"] = "bias"
    field: Path | None = None
    """NIfTI volume of the run's shape, in RAS+: by how much each voxel is brighter, positive; random if None."""
    strength: float = Field(default=0.2, ge=0.0, le=2.0)
    """Without a field: standard deviation of its logarithm."""
    waves: int = Field(default=2, ge=1, le=8)
    """Without a field: most half waves from one side of the volume to the other."""
    seed: int = Field(default=0, ge=0)
    """Without a field: which one."""

    def build(self, shape: Shape3, device: torch.device) -> Operator:
        """Makes the operator.

        Raises:
            UserError: the field cannot be read, has another shape, or is not positive.
        """
        if self.field is None:
            return Shading(torch.exp(self.strength * smooth_field(shape, self.waves, self.seed, "bias")).to(device))
        field = image_of_shape(self.field, shape)
        if not (field > 0).all():
            raise UserError(str(self.field), f"is {float(field.min()):.4g} somewhere", "positive factors")
        return Shading(field.to(device))


class Shading(Operator):
    """Multiplies voxel by voxel.

    Args:
        factor_XYZ: positive.
    """

    apart = True

    def __init__(self, factor_XYZ: Tensor) -> None:
        self._factor = factor_XYZ

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        """Data shaped like the volumes."""
        return self._factor * x_BCXYZ

    def adjoint(self, data: Tensor) -> Tensor:
        """The same factors."""
        return self._factor * data

    def closed(self, gamma: float) -> Proximal:
        """(z + gamma b data) / (1 + gamma b^2), with b the field."""
        b = self._factor
        if math.isinf(gamma):
            return lambda z_BCXYZ, data: data / b
        return lambda z_BCXYZ, data: (z_BCXYZ + gamma * b * data) / (1.0 + gamma * b**2)
