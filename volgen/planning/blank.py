"""Draws that are no numbers: planning needs what training allocates and computes, whatever the values are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BlankDraws:
    """A :class:`~volgen.training.objective.Draws` of zeros; on fake tensors it takes no memory.

    Attributes:
        count: examples.
        step: step of training.
    """

    count: int
    step: int = 1

    def quantiles(self, purpose: str = "sigma") -> list[float]:
        """The median for everybody."""
        return [0.5] * self.count

    def normal(self, shape: Sequence[int], purpose: str = "noise") -> Tensor:
        """Zeros of ``shape`` for everybody."""
        return torch.zeros(self.count, *shape)
