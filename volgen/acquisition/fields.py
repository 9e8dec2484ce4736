"""Smooth random fields: shading of a coil, phase of an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from volgen.core.protocols import Shape3
from volgen.core.rng import normal


def smooth_field(shape: Shape3, waves: int, seed: int, *key: int | str) -> Tensor:
    """A random field [X, Y, Z] without high frequencies, of mean 0 and standard deviation 1 over the volume; 0 if there are no waves.

    Args:
        shape: voxels.
        waves: most half waves from one side of the volume to the other.
        seed: seed.
        key: which of the fields of a seed.
    """
    weights = normal((waves + 1,) * 3, seed, "field", *key).double()
    order = torch.arange(waves + 1, dtype=torch.float64)
    # The more waves, the weaker: what is left of a field far from its sources.
    weights /= (1 + order[:, None, None] ** 2 + order[None, :, None] ** 2 + order**2) / 2
    weights[0, 0, 0] = 0.0
    field = weights
    for edge in shape:  # the axis that is done goes to the end
        places = (torch.arange(edge, dtype=torch.float64) + 0.5) / edge
        field = torch.tensordot(field, torch.cos(math.pi * order[:, None] * places), dims=([0], [0]))
    field = field - field.mean()
    return (field / field.std().clamp_min(1e-12)).float()
