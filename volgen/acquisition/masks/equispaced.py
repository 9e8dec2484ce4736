"""Lines at equal distances, shifted from row to row (CAIPIRINHA: Breuer et al. 2006), and all of them around the centre."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from volgen.acquisition.masks._shared import Undersampled
from volgen.core.rng import uniform


class Config(Undersampled):
    """A lattice: lines at equal distances along the first phase encode, moved on by ``shift`` from one of the second to the next."""

    kind: Literal["equispaced"] = "equispaced"
    shift: int = Field(default=1, ge=0, le=8)
    """Lines by which the lattice moves from one phase encode of the second axis to the next; with 0 whole lines of k-space are left out."""

    def draw(self, shape: tuple[int, int]) -> Tensor:
        """Which phase encodes are measured, bool [P, Q]; nearly as many as the acceleration says, where whole lines allow it."""
        count, offset = self.count(shape), uniform(self.seed, "mask", "equispaced")
        core, allowed = self.core(shape), self.allowed(shape)
        first, second = (torch.arange(edge, dtype=torch.float64) for edge in shape)
        place = first[:, None] + self.shift * second[None]

        def lattice(density: float) -> Tensor:
            return (((place * density + offset) % 1.0 < density) & allowed) | core

        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if int(lattice(middle).sum()) < count else (low, middle)
        return min((lattice(low), lattice(high)), key=lambda mask: abs(int(mask.sum()) - count))
