"""An elliptical shutter: the corners of k-space are left out, which hold little but noise."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from volgen.acquisition.masks._shared import radius
from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """What lies in an ellipse around the centre of k-space."""

    kind: Literal["elliptical"] = "elliptical"
    size: float = Field(default=1.0, gt=0.0, le=1.5)
    """The ellipse's axes in edges of k-space; 1 touches them (an acceleration of 4 / pi), 1.42 holds all."""

    def draw(self, shape: tuple[int, int]) -> Tensor:
        """The ellipse, bool [P, Q]."""
        return radius(shape) <= self.size
