"""A fitted Gaussian in a tenth of its bytes, for a model that is handed on: what is lost is far below what noise hides.

Most of a volume is air, where all heads are alike: there mean and variance of a detail coefficient are zero, and are not stored. Elsewhere
a mean takes 16 bits and a variance 8, its place on a logarithmic axis. The error of a Wiener filter v/(v + s^2) whose v is wrong by a
factor 1 + d is at most d^2 / 4 above the least (to second order in d), and d is a few per cent. The low-pass corner of the last level,
which holds the air too, is kept as it is.

Legend: X Y Z coefficients of a volume, x y z its low-pass corner after all levels, n detail coefficients that are not air.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from volgen.models.haar import low_pass
from volgen.models.preconditioners._gaussian_fit import Statistics

CORNER, PRESENT, MEANS, CODES, RANGE = "corner", "present", "detail_means", "detail_variances", "variance_range"
COMPONENTS, VARIANCES = "components", "variances"
FLOOR = 1e-8
"""Variances below are none: a standard deviation of 1e-4, of intensities in [-1, 1]."""
STEPS = 254
"""Steps from the smallest to the largest variance; code 0 is none, and 1 the smallest."""


def packed(statistics: Statistics, levels: int) -> dict[str, Tensor]:
    """Tensors by name, of which :func:`unpacked` makes nearly the same statistics.

    Args:
        statistics: a fit.
        levels: levels of its pyramid.
    """
    s, inside = statistics, low_pass(statistics.residual.shape, levels)
    means, codes, limits = s.mean[0].half(), *_codes(s.residual)
    present = (codes > 0) | (means != 0)
    present[inside] = False
    return {
        CORNER: torch.stack([s.mean[0][inside], s.residual[inside]]).contiguous(),
        PRESENT: torch.from_numpy(np.packbits(present.numpy().ravel())),
        MEANS: means[present],
        CODES: codes[present],
        RANGE: limits,
        COMPONENTS: s.components.half().contiguous(),
        VARIANCES: s.variances,
    }


def is_packed(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors are those of :func:`packed`."""
    return CORNER in state


def unpacked(state: Mapping[str, Tensor], levels: int) -> Statistics:
    """The statistics, float32.

    Raises:
        KeyError: a tensor is missing.
        ValueError: tensors do not belong together.
    """
    corner, limits = state[CORNER], state[RANGE]
    if corner.dim() != 4 or len(corner) != 2 or limits.shape != (2,):
        raise ValueError(f"'{CORNER}' is {list(corner.shape)} and '{RANGE}' is {list(limits.shape)}")
    shape = [edge << levels for edge in corner.shape[1:]]
    inside, count = low_pass(shape, levels), math.prod(shape)
    bits, means, codes = state[PRESENT], state[MEANS], state[CODES]
    if bits.dtype != torch.uint8 or codes.dtype != torch.uint8 or bits.shape != (-(-count // 8),):
        raise ValueError(f"'{PRESENT}' is {bits.dtype}{list(bits.shape)} and '{CODES}' is {codes.dtype}, of {count} coefficients")
    present = torch.from_numpy(np.unpackbits(bits.numpy(), count=count)).bool().view(shape)
    found = int(present.sum())
    if means.shape != (found,) or codes.shape != (found,):
        raise ValueError(f"'{MEANS}' is {list(means.shape)} and '{CODES}' is {list(codes.shape)}, where {found} coefficients are present")
    mean, residual = torch.zeros(shape), torch.zeros(shape)
    mean[present], residual[present] = means.float(), _variances(codes, limits)
    mean[inside], residual[inside] = corner[0].float(), corner[1].float()
    return Statistics(mean[None], state[COMPONENTS].float(), residual, state[VARIANCES].float())


def _codes(variance: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 codes of variances, and the smallest and largest that they stand for."""
    there = variance[variance >= FLOOR]
    low, high = (float(there.min()), float(there.max())) if there.numel() else (FLOOR, FLOOR)
    step = max(math.log(high / low), 1e-6) / STEPS
    places = ((variance.clamp(low, high).log() - math.log(low)) / step).round().clamp(0, STEPS)
    return torch.where(variance >= FLOOR, places + 1, 0.0).to(torch.uint8), torch.tensor([low, high])


def _variances(codes: Tensor, limits: Tensor) -> Tensor:
    low, high = limits.double().log().tolist()
    values = torch.cat([torch.zeros(1), torch.linspace(low, high, STEPS + 1, dtype=torch.float64).exp().float()])
    return values[codes.long()]
