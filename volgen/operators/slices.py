"""Thick slices: each is a mean over voxels along one axis, by a profile, and there may be gaps between them.

Slice super-resolution asks for the volume behind them. Along the axis A is a small matrix, the same for every line of voxels, so the
proximal map is known. The weights of a slice sum to 1: slices of air are air.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.protocols import AXES, Axis, Operator, Shape3
from volgen.operators._separable import Separable


class Config(BaseConfig):
    """Slices that are thicker than voxels."""

    kind: Literal["slices"] = "slices"
    axis: Axis = "S"
    """The axis across which the slices lie: axial ones with S."""
    thickness: float = Field(default=2.0, gt=0.0, le=64.0)
    """Thickness of a slice in voxels; of a Gaussian profile, its full width at half of its height."""
    gap: float = Field(default=0.0, ge=-32.0, le=64.0)
    """Voxels between a slice and the next; negative where they overlap."""
    first: NonNegativeFloat = 0.0
    """Where the first slice begins, in voxels from the low end."""
    profile: Literal["box", "gaussian"] = "box"
    """How what a slice shows depends on where in it something is."""

    def build(self, shape: Shape3, device: torch.device) -> Operator:
        """Makes the operator.

        Raises:
            UserError: no slice fits into the volume, or slices lie upon each other.
        """
        place = AXES.index(self.axis)
        profiles = self.profiles(shape[place])
        return Separable([profiles if axis == place else None for axis in range(3)], device)

    def profiles(self, edge: int) -> Tensor:
        """Weight of each of ``edge`` voxels in each slice that fits, float64 [slices, edge]; rows sum to 1."""
        spacing = self.thickness + self.gap
        if spacing <= 0:
            raise UserError("--operator.gap", f"{self.gap:g} of slices {self.thickness:g} thick", "slices that lie one after the other")
        count = math.floor((edge - self.first - self.thickness) / spacing + 1e-6) + 1
        if count < 1:
            found = f"a slice of {self.thickness:g} voxels from {self.first:g} on"
            raise UserError("--operator.thickness", found, f"one that fits into {edge} voxels")
        begin = self.first + spacing * torch.arange(count, dtype=torch.float64)[:, None]
        borders = torch.arange(edge + 1, dtype=torch.float64)
        if self.profile == "box":
            reached = (borders - begin).clamp(0.0, self.thickness)
        else:
            sd = self.thickness / math.sqrt(8 * math.log(2))
            reached = torch.special.ndtr((borders - begin - self.thickness / 2) / sd)
        weights = reached.diff(dim=1)
        return weights / weights.sum(dim=1, keepdim=True)
