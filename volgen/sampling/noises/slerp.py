"""Noise that neighbouring slices share in part, by spherical interpolation between independent key slices. No training is needed.

Between two keys e_0, e_1 at a fraction t in [0, 1] the noise is cos(pi t / 2) e_0 + sin(pi t / 2) e_1: the spherical interpolation of
Shoemake 1985 between vectors at a right angle, which independent noise of many voxels is. Every voxel stays exactly standard normal; linear
interpolation would lose variance between the keys.

A network that denoises every slice on its own answers similar noise with similar slices, so the stack gets smoother along the axis. It is
still no volume: what one slice does not know of the next, no noise can tell it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import AXES, Axis, Shape4
from volgen.core.rng import normal


class Config(BaseConfig):
    """Key slices every ``spacing`` slices; two slices d apart between the same keys have correlation cos(pi d / (2 spacing))."""

    kind: Literal["slerp"] = "slerp"
    axis: Axis = "S"
    """Along which axis neighbouring slices share noise: the one that the model's slices lie across."""
    spacing: int = Field(default=4, ge=1)
    """Slices from key to key; 1 is white noise."""

    def draw(self, shape: Shape4, seed: int, *key: int | str) -> Tensor:
        """Noise [C, X, Y, Z] of one key: standard normal in every voxel."""
        axis = 1 + AXES.index(self.axis)
        segments, rest = divmod(shape[axis] - 1, self.spacing)
        keys = list(shape)
        keys[axis] = segments + 1 + (rest > 0)
        noise = normal((keys[axis], *(size for place, size in enumerate(shape) if place != axis)), seed, "slerp", *key)
        slices = []
        for place in range(shape[axis]):
            segment, step = divmod(place, self.spacing)
            angle = math.pi * step / (2 * self.spacing)
            slices.append(noise[segment] if step == 0 else math.cos(angle) * noise[segment] + math.sin(angle) * noise[segment + 1])
        return torch.stack(slices, dim=axis)
