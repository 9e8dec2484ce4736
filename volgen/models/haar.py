"""Orthonormal Haar wavelets of volumes and of slices: no loss, and white noise stays white with the same sigma.

Legend: B batch, C channel, X Y Z axes of a volume, ... two axes of a slice or three of a volume.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

Index = tuple[Any, ...]
_SQRT_HALF = math.sqrt(0.5)


def analyse(x: Tensor) -> Tensor:
    """One level: [B, C, X, Y, Z] with even edges -> [B, 8C, X/2, Y/2, Z/2]; slices [B, C, X, Y] -> [B, 4C, X/2, Y/2].

    Output channel ``band * C + c``: band 0 is low-pass; bits 2, 1, 0 of a band (1, 0 of a slice's) say high-pass along X, Y, Z.
    """
    for axis in reversed(range(2, x.dim())):
        even, odd = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
        x = torch.cat([even + odd, even - odd], dim=1) * _SQRT_HALF
    return x


def synthesise(c: Tensor) -> Tensor:
    """Inverse (and adjoint) of :func:`analyse`: [B, 8C, X, Y, Z] -> [B, C, 2X, 2Y, 2Z]; slices [B, 4C, X, Y] -> [B, C, 2X, 2Y]."""
    for axis in range(2, c.dim()):
        low, high = c.chunk(2, dim=1)
        c = torch.stack([low + high, low - high], dim=axis + 1).flatten(axis, axis + 1) * _SQRT_HALF
    return c


def pyramid(x_BCXYZ: Tensor, levels: int) -> Tensor:
    """``levels`` levels in the layout of Mallat (1989): same shape, the low-pass of the last level in the low-index corner."""
    result = x_BCXYZ.clone()
    for level in range(levels):
        octants = _octants(x_BCXYZ.shape[2:], level)
        for place, band in zip(octants, analyse(result[low_pass(x_BCXYZ.shape[2:], level)]).chunk(8, dim=1), strict=True):
            result[place] = band
    return result


def unpyramid(c_BCXYZ: Tensor, levels: int) -> Tensor:
    """Inverse (and adjoint) of :func:`pyramid`."""
    result = c_BCXYZ.clone()
    for level in reversed(range(levels)):
        octants = _octants(c_BCXYZ.shape[2:], level)
        result[low_pass(c_BCXYZ.shape[2:], level)] = synthesise(torch.cat([result[place] for place in octants], dim=1))
    return result


def means(x_BCXYZ: Tensor, levels: int) -> Tensor:
    """Means over cubes of 2^levels voxels: 2^(-1.5 levels) times the low-pass corner of a :func:`pyramid`."""
    return avg_pool3d(x_BCXYZ, 2**levels) if levels else x_BCXYZ


def corner_scale(level: int) -> float:
    """A low-pass corner over the means that it stands for, 2^(1.5 level): the norm of a cube of 2^level ones."""
    return float(2 ** (1.5 * level))


def levels_between(fine: int, coarse: int) -> int:
    """How often voxels are doubled on the way from ``fine`` along an edge to ``coarse`` along the same one."""
    return (fine // coarse).bit_length() - 1


def spread(x_BCXYZ: Tensor, levels: int) -> Tensor:
    """Each voxel repeated over its cube of 2^levels: what :func:`unpyramid` makes of a low-pass corner, 2^(1.5 levels) x, alone."""
    return interpolate(x_BCXYZ, scale_factor=float(2**levels), mode="nearest") if levels else x_BCXYZ


def voxel_variance(variance_BCXYZ: Tensor, levels: int) -> Tensor:
    """Variance of each voxel when the coefficients of a :func:`pyramid` are independent with the given variances.

    A Haar coefficient of level l spreads its energy evenly over its cube of 8^l voxels.
    """
    shape = variance_BCXYZ.shape[2:]
    result = variance_BCXYZ[low_pass(shape, levels)]
    for level in reversed(range(levels)):
        details = [variance_BCXYZ[place] for place in _octants(shape, level)[1:]]
        result = interpolate((result + torch.stack(details).sum(dim=0)) / 8, scale_factor=2.0, mode="nearest")
    return result


def pyramid_pieces(c_KXYZ: Tensor, row_B: Tensor, start_B3: Tensor, size: Sequence[int], levels: int) -> Tensor:
    """Pyramids [B, X, Y, Z] of pieces of volumes, from pyramids of the volumes: pieces of whole cubes have coefficients of their own.

    Args:
        c_KXYZ: pyramids of volumes.
        row_B: which of them each piece is of.
        start_B3: voxels at which pieces begin, multiples of 2^levels. Outside of the volume, what is nearest is repeated.
        size: voxels of a piece, multiples of 2^levels.
        levels: levels of the pyramids.
    """
    whole, result = c_KXYZ.shape[1:], c_KXYZ.new_empty(len(row_B), *size)
    for level in range(levels):
        edge = 2 ** (level + 1)
        places = list(zip(_octants(whole, level), _octants(size, level), strict=True))
        for source, target in places if level == levels - 1 else places[1:]:
            result[target] = _gathered(c_KXYZ[source], row_B, start_B3 // edge, [edges // edge for edges in size])
    return result if levels else _gathered(c_KXYZ, row_B, start_B3, size)


def _gathered(x_KXYZ: Tensor, row_B: Tensor, start_B3: Tensor, size: Sequence[int]) -> Tensor:
    indices = [row_B.view(-1, 1, 1, 1)]
    for axis, (count, edge) in enumerate(zip(size, x_KXYZ.shape[1:], strict=True)):
        index_BN = (start_B3[:, axis, None] + torch.arange(count, device=start_B3.device)).clamp(0, edge - 1)
        indices.append(index_BN.view([-1, *(count if a == axis else 1 for a in range(3))]))
    return x_KXYZ[tuple(indices)]


def low_pass(shape: Sequence[int], level: int) -> Index:
    """Place of the low-pass corner of [..., X, Y, Z] after ``level`` levels of a pyramid."""
    return (..., *(slice(0, size >> level) for size in shape))


def subbands(shape: Sequence[int], levels: int) -> Iterator[tuple[int, Index]]:
    """Places of all bands of a pyramid of ``levels`` levels, each with the coarsest level of voxels that still shows it."""
    for level in range(levels):
        yield from ((level, place) for place in _octants(shape, level)[1:])
    yield levels, low_pass(shape, levels)


def _octants(shape: Sequence[int], level: int) -> list[Index]:
    """Places of the eight bands of one level, in the order of :func:`analyse`."""
    half = [size >> (level + 1) for size in shape]
    return [
        (..., *(slice(size, 2 * size) if band >> bit & 1 else slice(0, size) for size, bit in zip(half, (2, 1, 0), strict=True)))
        for band in range(8)
    ]
