"""White noise: every voxel on its own, which is what denoisers are trained with."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Shape4
from volgen.core.rng import normal


class Config(BaseConfig):
    """Independent standard normal numbers; the default."""

    kind: Literal["white"] = "white"

    def draw(self, shape: Shape4, seed: int, *key: int | str) -> Tensor:
        """Noise [C, X, Y, Z] of one key."""
        return normal(shape, seed, *key)
