"""Partial Fourier: one side of k-space, and a little of the other, which the mirrored lines of a real image would tell.

With an unknown phase they do not tell it; a prior of volumes may.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """All lines from one end of k-space to a little beyond its centre."""

    kind: Literal["partial"] = "partial"
    share: float = Field(default=0.75, gt=0.5, le=1.0)
    """How much is measured, such as 6/8."""
    along: Literal["first", "second"] = "first"
    """Along which of the two phase encodes the rest is left out."""

    def draw(self, shape: tuple[int, int]) -> Tensor:
        """Which phase encodes are measured, bool [P, Q]: those of high frequency on the negative side are not."""
        edge = shape[0] if self.along == "first" else shape[1]
        kept = torch.arange(edge) >= edge - math.ceil(self.share * edge - 1e-9)
        return (kept[:, None] if self.along == "first" else kept[None]).expand(shape).clone()
