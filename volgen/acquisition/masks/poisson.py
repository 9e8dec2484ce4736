"""Poisson-disc sampling of variable density: random, yet no two phase encodes close together (Bridson 2007; Vasanawala et al. 2011).

Aliases look like noise, as with random masks, and there are no holes, which coils could not fill. Candidates come in random order and
are taken if none that was taken before lies within a distance that grows with that from the centre of k-space.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from volgen.acquisition.masks._shared import Undersampled, radius
from volgen.core.rng import permutation


class Config(Undersampled):
    """Phase encodes that keep a distance from each other, a larger one far from the centre."""

    kind: Literal["poisson"] = "poisson"
    slope: float = Field(default=2.0, ge=0.0, le=20.0)
    """Growth of the distance from the centre of k-space to its edge, in units of that at the centre; 0 is a uniform density."""

    def draw(self, shape: tuple[int, int]) -> Tensor:
        """Which phase encodes are measured, bool [P, Q]; exactly as many as the acceleration says."""
        count = self.count(shape)
        core, allowed = self.core(shape).numpy(), self.allowed(shape).numpy()
        order = np.asarray(permutation(shape[0] * shape[1], self.seed, "mask", "poisson"))
        order = order[(allowed & ~core).ravel()[order]]
        growth = (1.0 + self.slope * radius(shape)).numpy()
        wanted = count - int(core.sum())
        low, high = 0.0, float(max(shape))  # at distance 0 every candidate is taken
        taken = order
        for _ in range(24):
            middle = (low + high) / 2
            found = _apart(order, core, growth * middle)
            if len(found) < wanted:
                high = middle
            else:
                low, taken = middle, found
                if len(found) <= 1.01 * wanted:
                    break
        mask = torch.from_numpy(core.copy())
        mask.view(-1)[torch.from_numpy(taken[:wanted])] = True  # the few too many were the last that found room
        return mask


def _apart(order: NDArray[np.int64], core: NDArray[np.bool_], distance: NDArray[np.float64]) -> NDArray[np.int64]:
    """Candidates that lie farther from all that are taken before them than their distance."""
    columns = core.shape[1]
    blocked = core.copy()
    flat, taken = blocked.reshape(-1), []
    discs: dict[int, NDArray[np.bool_]] = {}
    for place in order.tolist():
        if flat[place]:
            continue
        taken.append(place)
        row, column = divmod(place, columns)
        reach = distance[row, column]
        edge = int(reach)
        key = int(reach * reach)  # squares of whole distances are whole numbers
        if key not in discs:
            steps = np.arange(-edge, edge + 1)
            discs[key] = steps[:, None] ** 2 + steps**2 <= key
        top, left = max(row - edge, 0), max(column - edge, 0)
        window = blocked[top : row + edge + 1, left : column + edge + 1]
        start = (top - row + edge, left - column + edge)
        window |= discs[key][start[0] : start[0] + window.shape[0], start[1] : start[1] + window.shape[1]]
    return np.asarray(taken, dtype=np.int64)
