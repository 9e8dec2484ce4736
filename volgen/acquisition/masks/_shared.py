"""What masks that leave out most of k-space have in common: how much they measure, the centre, the corners, and a seed."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from volgen.core.config import Config
from volgen.core.errors import UserError


class Undersampled(Config):
    """A grid of phase encodes of which one in ``acceleration`` is measured, and all around the centre."""

    acceleration: float = Field(default=4.0, ge=1.0, le=64.0)
    """Phase encodes of the grid for each one that is measured, the centre and the corners counted too."""
    centre: float = Field(default=0.08, ge=0.0, le=1.0)
    """Share of each edge that is measured completely around the centre of k-space."""
    corners: bool = False
    """Whether the corners of k-space, outside of the ellipse that touches its edges, may be measured."""
    seed: int = Field(default=0, ge=0)
    """Which of the masks of this kind it is."""

    def count(self, shape: tuple[int, int]) -> int:
        """How many phase encodes are measured.

        Raises:
            UserError: they are fewer than the centre has, or more than there are inside of the corners.
        """
        count = round(shape[0] * shape[1] / self.acceleration)
        fewest, most = int(self.core(shape).sum()), int(self.allowed(shape).sum())
        if not fewest <= count <= most:
            found = f"{count} of {shape[0]} x {shape[1]} phase encodes (acceleration {self.acceleration:g})"
            do = "change the mask's acceleration, centre or corners"
            raise UserError("mask", found, f"{fewest} (the centre) to {most} of them", do)
        return count

    def core(self, shape: tuple[int, int]) -> Tensor:
        """The centre, which is measured completely; bool [P, Q]."""
        inside = torch.zeros(shape, dtype=torch.bool)
        first, second = (centred(edge, max(round(self.centre * edge), 1)) for edge in shape)
        inside[first, second] = True
        return inside

    def allowed(self, shape: tuple[int, int]) -> Tensor:
        """What may be measured: everything, or everything but the corners; bool [P, Q]."""
        return torch.ones(shape, dtype=torch.bool) if self.corners else (radius(shape) <= 1.0) | self.core(shape)


def centred(edge: int, width: int) -> slice:
    """``width`` neighbours around the centre of k-space along an edge, which is at ``edge // 2``."""
    start = edge // 2 - width // 2
    return slice(start, start + width)


def radius(shape: tuple[int, int]) -> Tensor:
    """How far from the centre of k-space, [P, Q]; 1 on the ellipse that touches its edges."""
    first, second = ((torch.arange(edge, dtype=torch.float64) - edge // 2) / (edge / 2) for edge in shape)
    return torch.hypot(first[:, None], second[None])
