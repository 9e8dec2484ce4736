"""Random transforms of a training volume: the numbers are drawn here, TorchIO's deterministic transforms apply them.

TorchIO's own random transforms, and ``Transform.__call__``, draw from torch's global generator, which threads share. Drawing from a
keyed generator and calling ``apply_transform`` leaves that generator alone, and makes a volume a function of its key.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from volgen.core.config import Config
from volgen.core.rng import generator


class AugmentConfig(Config):
    """Random transforms of a training volume (TorchIO). All zero: none."""

    rotation_degrees: NonNegativeFloat = 0.0
    """Largest rotation about each axis."""
    translation_mm: NonNegativeFloat = 0.0
    """Largest shift along each axis."""
    scale: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Largest relative change of size along each axis."""
    flip_left_right: bool = False
    """Mirror half of the volumes. Brains are not symmetric: this trades the true asymmetry for more data."""

    def build(self) -> Augmentation:
        """The transform, or the one that does nothing."""
        moves = bool(self.rotation_degrees or self.translation_mm or self.scale)
        return RandomPose(self) if moves or self.flip_left_right else Unchanged()


class Augmentation(Protocol):
    """A random transform that is a function of its key.

    Attributes:
        moves: whether it changes anything; if not, whole volumes need not be read for the sake of a part.
    """

    moves: bool

    def __call__(self, volume_XYZ: Tensor, affine: NDArray[np.float64], seed: int, *key: int | str) -> Tensor:
        """A volume of the same shape and, up to interpolation, the same range."""
        ...


class Unchanged:
    """No augmentation."""

    moves = False

    def __call__(self, volume_XYZ: Tensor, affine: NDArray[np.float64], seed: int, *key: int | str) -> Tensor:
        """Returns the volume itself."""
        return volume_XYZ


class RandomPose:
    """Rotation, translation, scaling about the image centre, and mirroring; uncovered corners hold the volume's minimum."""

    moves = True

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    def __call__(self, volume_XYZ: Tensor, affine: NDArray[np.float64], seed: int, *key: int | str) -> Tensor:
        """Returns a new volume; equal keys give equal volumes on every rank."""
        config, source = self.config, generator(seed, "augment", *key)
        draws = (torch.rand(10, generator=source, dtype=torch.float64) * 2 - 1).tolist()
        subject = tio.Subject(image=tio.ScalarImage(tensor=volume_XYZ[None], affine=affine))
        if config.rotation_degrees or config.translation_mm or config.scale:
            pose = tio.Affine(
                scales=_three([1.0 + config.scale * draw for draw in draws[0:3]]),
                degrees=_three([config.rotation_degrees * draw for draw in draws[3:6]]),
                translation=_three([config.translation_mm * draw for draw in draws[6:9]]),
                default_pad_value="minimum",
            )
            subject = pose.apply_transform(subject)
        moved: Tensor = subject["image"].data[0]
        # Mirrored by index, about the image's middle; axis 0 runs from left to right in every store.
        return moved.flip(0).contiguous() if config.flip_left_right and draws[9] > 0 else moved.contiguous()


def _three(values: list[float]) -> tuple[float, float, float]:
    x, y, z = values
    return x, y, z
