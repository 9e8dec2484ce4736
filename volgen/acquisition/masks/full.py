"""Everything: a scan that is not accelerated."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """Every phase encode."""

    kind: Literal["full"] = "full"

    def draw(self, shape: tuple[int, int]) -> Tensor:
        """All of the grid, bool [P, Q]."""
        return torch.ones(shape, dtype=torch.bool)
