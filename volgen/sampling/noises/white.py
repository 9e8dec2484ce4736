"""White noise: every voxel on its own, which is what denoisers are trained with."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Shape3
from volgen.core.rng import normal


class Config(BaseConfig):
    """Independent standard normal numbers; the default."""

    kind: Literal["white"] = "white"

    def draw(self, shape: Shape3, seed: int, *key: int | str) -> Tensor:
        """Noise [1, X, Y, Z] of one key."""
        return normal((1, *shape), seed, *key)
