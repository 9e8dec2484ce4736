"""Blur by a Gaussian along each axis: resolution that a scanner, a movement or a filter has taken away.

At the volume's end the kernel is cut off and its weights are made to sum to 1 again, so that air stays air and nothing comes in from
outside. The singular values of the three matrices give the proximal map; there is none of infinite weight where the blur is so strong
that details are gone but for rounding.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.config import three
from volgen.core.protocols import Operator, Shape3
from volgen.operators._separable import Separable

Width = float
Widths = tuple[Width, Width, Width]


class Config(BaseConfig):
    """A Gaussian kernel."""

    kind: Literal["blur"] = "blur"
    width: Widths = Field(default=(2.0, 2.0, 2.0))
    """Full width at half of the kernel's height along R, A and S, in voxels, 0 to 64, or one number for all; 0 is no blur."""

    @field_validator("width", mode="before")
    @classmethod
    def _cube(cls, value: Any) -> Any:
        return three([value] if isinstance(value, float) else value)

    @field_validator("width")
    @classmethod
    def _in_range(cls, value: Widths) -> Widths:
        if not all(0.0 <= width <= 64.0 for width in value):
            raise ValueError(f"{list(value)} is not between 0 and 64 voxels")
        return value

    def build(self, shape: Shape3, device: torch.device) -> Operator:
        """Makes the operator."""
        return Separable([_kernel(edge, width) if width else None for edge, width in zip(shape, self.width, strict=True)], device)


def _kernel(edge: int, width: float) -> Tensor:
    """Weight of each voxel in each, float64 [edge, edge]."""
    places = torch.arange(edge, dtype=torch.float64)
    weights = torch.exp(-4 * math.log(2) * ((places[:, None] - places) / width) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)
