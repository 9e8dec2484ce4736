"""Where voxels are: three channels that say it, which are known beside a volume or a piece of one.

A coordinate is (2 i + 1) / N - 1 for voxel i of N along an axis: in (-1, 1), 0 in the middle, the same place at every level.

Legend: B batch, X Y Z voxels, ... other axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from volgen.core.protocols import Shape3

PLACES = 3
"""Channels that say where voxels are: their coordinates along R, A, S."""


def coordinates(shape: Shape3, start: Shape3, size: Shape3) -> Tensor:
    """Coordinates [1, 3, X, Y, Z], float32, of the voxels of a piece of ``size`` that begins at ``start`` of a volume of ``shape``."""
    lines = [(2 * torch.arange(first, first + count) + 1) / edge - 1 for edge, first, count in zip(shape, start, size, strict=True)]
    return torch.stack(
        torch.broadcast_tensors(*(line.view([-1 if a == axis else 1 for a in range(3)]) for axis, line in enumerate(lines)))
    )[None]


def axis_lines(coordinates_BCXYZ: Tensor) -> list[Tensor]:
    """Coordinates along each axis, [B, X], [B, Y] and [B, Z], of channels that :func:`coordinates` made."""
    x, y, z = coordinates_BCXYZ.unbind(1)
    return [x[:, :, 0, 0], y[:, 0, :, 0], z[:, 0, 0, :]]


def beginnings(coordinates_BCXYZ: Tensor, shape: Sequence[int], multiples: Sequence[int]) -> Tensor:
    """Where pieces of a volume of ``shape`` begin, int64 [B, 3]: the inverse of :func:`coordinates`.

    Whatever the channels hold, such as the made-up numbers of planning: pieces begin at multiples of ``multiples`` and lie in the volume.
    """
    found = []
    for line, size, edge, multiple in zip(axis_lines(coordinates_BCXYZ), coordinates_BCXYZ.shape[2:], shape, multiples, strict=True):
        first = ((line[:, 0] + 1) * edge / 2).floor().long()
        found.append((first // multiple * multiple).clamp(0, (edge - size) // multiple * multiple))
    return torch.stack(found, dim=1)
