"""Phase encodes drawn at random, more of them where k-space has more to tell (Lustig, Donoho & Pauly 2007)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from volgen.acquisition.masks._shared import Undersampled, radius
from volgen.core.rng import generator


class Config(Undersampled):
    """Each phase encode by itself, with a density that falls with the distance from the centre."""

    kind: Literal["random"] = "random"
    power: float = Field(default=2.0, ge=0.0, le=10.0)
    """The density is (1 - distance) to this power; 0 draws all alike."""

    def draw(self, shape: tuple[int, int]) -> Tensor:
        """Which phase encodes are measured, bool [P, Q]; exactly as many as the acceleration says."""
        uniform = torch.rand(shape, generator=generator(self.seed, "mask", "random"), dtype=torch.float64)
        density = (1.0 - radius(shape) / 1.5).clamp_min(1e-6) ** self.power
        # The largest of log p - log(-log u) are a draw without replacement (Gumbel's trick).
        order = density.log() - (-uniform.clamp(1e-300, 1 - 1e-16).log()).log()
        order[self.core(shape)] = torch.inf
        order[~self.allowed(shape)] = -torch.inf
        chosen = order.flatten().argsort(descending=True, stable=True)[: self.count(shape)]
        mask = torch.zeros(shape, dtype=torch.bool)
        mask.view(-1)[chosen] = True
        return mask
