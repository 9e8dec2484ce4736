"""Receive coils: what maps of their sensitivity look like, and what they are if nobody has measured them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from volgen.acquisition.fields import smooth_field
from volgen.core.protocols import Shape3
from volgen.core.rng import generator, uniform

REACH = 0.9
"""Distance at which a coil's sensitivity has halved, in half edges of the field of view."""
DISTANCE = 1.3
"""How far from the middle coils are, in half edges."""
POWER_STEPS = 12
"""Steps of the power iteration: sensitivities are far above the noise, so that it converges quickly."""


def coil_maps(count: int, shape: Shape3, seed: int) -> Tensor:
    """Made-up sensitivities of coils around a head, complex64 [count, X, Y, Z]; in every voxel their squares sum to 1.

    The coils sit on a sphere at nearly equal distances, turned at random; each sees what is near to it, with a smooth phase of its own.

    Args:
        count: coils; one sees everything alike, without phase.
        shape: voxels.
        seed: which of the arrays of coils it is.
    """
    if count == 1:
        return torch.ones(1, *shape, dtype=torch.complex64)
    axes = [(2 * torch.arange(edge, dtype=torch.float32) + 1) / edge - 1 for edge in shape]
    turned, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator(seed, "coils", count)))
    maps = torch.empty(count, *shape, dtype=torch.complex64)
    for coil in range(count):
        height = 1 - (2 * coil + 1) / count  # the spiral of Fibonacci
        angle = coil * math.pi * (3 - math.sqrt(5))
        flat = math.sqrt(1 - height**2)
        place = DISTANCE * (turned @ torch.tensor([flat * math.cos(angle), flat * math.sin(angle), height]))
        apart = sum(
            ((axis - place[number]) ** 2).view([-1 if axes_number == number else 1 for axes_number in range(3)])
            for number, axis in enumerate(axes)
        )
        size = 1 / (1 + apart / REACH**2) ** 1.5
        phase = 2 * math.pi * uniform(seed, "coil phase", coil) + 0.7 * smooth_field(shape, 2, seed, "coil", coil)
        maps[coil] = torch.polar(size, phase)
    maps /= _rss(maps)
    return maps


def estimated_maps(calibration_cXYZ: Tensor, shape: Shape3) -> Tensor:
    """Sensitivities, with the phase of the image in them, from low-resolution images (Walsh, Gmitro & Marcellin 2000).

    In every voxel the sensitivities are the direction in which most of what the coils saw nearby lies. That leaves a common phase
    open, which is chosen so that the volume they combine to is real: what is reconstructed with them has no phase left but what is
    not smooth. Their squares sum to 1 in every voxel.

    Args:
        calibration_cXYZ: complex images of coils, of the centre of k-space alone, on any grid of the same field of view, best one that
            is as coarse as they are.
        shape: voxels of the maps.
    """
    images = calibration_cXYZ.to(torch.complex64)
    count = len(images)
    near = (images[:, None] * images[None].conj()).reshape(count * count, *images.shape[1:])
    near = torch.complex(*(avg_pool3d(part[None], 3, 1, 1, count_include_pad=False)[0] for part in (near.real, near.imag)))
    near = near.reshape(count, count, *images.shape[1:])
    maps = images + 1e-6 * images.abs().max()
    for _ in range(POWER_STEPS):
        maps = torch.einsum("cdxyz,dxyz->cxyz", near, maps)
        maps = maps / _rss(maps)
    combined = (maps.conj() * images).sum(dim=0)
    maps = maps * torch.polar(torch.ones_like(combined.real), combined.angle())
    for axis, edge in enumerate(shape, 1):
        matrix = _between(maps.shape[axis], edge).to(maps)
        maps = torch.tensordot(maps, matrix, dims=([axis], [1])).movedim(-1, axis)
    return maps / _rss(maps)


def _rss(maps_cXYZ: Tensor) -> Tensor:
    """Root of the sum of squares over coils, above 0."""
    size: Tensor = torch.linalg.vector_norm(maps_cXYZ, dim=0)
    return size.clamp_min(torch.finfo(torch.float32).tiny)


def _between(known: int, wanted: int) -> Tensor:
    """Linear interpolation from one grid of a field of view to another, [wanted, known]; their middles are at edge // 2, as in k-space."""
    place = known // 2 + (torch.arange(wanted, dtype=torch.float64) - wanted // 2) * known / wanted
    return (1 - (place.clamp(0, known - 1)[:, None] - torch.arange(known)).abs()).clamp_min(0.0)
