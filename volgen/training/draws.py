"""Noise levels and noise of a batch: functions of (seed, phase, step, position in the global batch), whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from volgen.core.cores import cores
from volgen.core.rng import normal, permutation, uniform

LARGE = 1 << 20
"""Voxels from which on the volumes of a batch get their noise side by side: one thread takes 0.15 s for 256^3, and a GPU waits for it."""
GOLDEN = 0.6180339887498949
"""Fractional part of the golden ratio: multiples of it fill [0, 1) most evenly."""


def quantiles(count: int, seed: int, phase: str, step: int) -> list[float]:
    """One quantile in [0, 1) for each position of a global batch; each is uniform, together they are stratified.

    Systematic sampling: position p gets (r(p) + u) / count with r a random order and u shared by the batch, so that every batch covers
    the whole span of noise levels. Over steps, u moves by the golden ratio from a random start, which covers each stratum as
    evenly. Both take variance out of the loss without bias.
    """
    offset = (uniform(seed, "sigma", phase) + step * GOLDEN) % 1.0
    order = permutation(count, seed, "sigma", phase, step)
    # Just below 1, (order + offset) / count may round up to it.
    return [min((place + offset) / count, 1.0 - 2.0**-53) for place in order]


def noise(x_BCXYZ: Tensor, positions: Sequence[int], seed: int, phase: str, step: int) -> Tensor:
    """Standard normal noise shaped like a part of the batch, on its device; ``positions`` are global."""

    def draw(position: int) -> Tensor:
        return normal(x_BCXYZ.shape[1:], seed, "noise", phase, step, position)

    if len(positions) == 1 or x_BCXYZ[0].numel() < LARGE:
        drawn = [draw(position) for position in positions]
    else:
        with ThreadPoolExecutor(min(len(positions), cores())) as threads:
            drawn = list(threads.map(draw, positions))
    return torch.stack(drawn).to(x_BCXYZ.device)
