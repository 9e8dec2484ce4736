"""A denoiser that is asked about both sides: a head and its mirror image are equally good examples to a network that was trained on both.

D'(y, s) = (D(y, s) + M D(M y, s)) / 2 with M the mirror image along X. Where D is wrong by chance, because a network has seen few people,
its two answers are wrong differently, and their mean is wrong by less (an ensemble of two that costs no training).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser

LEFT_RIGHT = 2
"""The dimension of BCXYZ that runs from left to right."""


class MirroredDenoiser:
    """A :class:`~volgen.core.protocols.Denoiser` by the equation of this module.

    Attributes:
        inner: the denoiser that is asked twice.
    """

    def __init__(self, inner: Denoiser) -> None:
        self.inner = inner

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """Returns x0_BCXYZ; images that are given are mirrored with the volume."""
        channels = None if given.channels is None else given.channels.flip(LEFT_RIGHT)
        other = self.inner(y_BCXYZ.flip(LEFT_RIGHT), sigma_B, replace(given, channels=channels))
        return (self.inner(y_BCXYZ, sigma_B, given) + other.flip(LEFT_RIGHT)) / 2
