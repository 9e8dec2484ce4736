"""Cartesian k-space of a 3D scan: one coil or several, of which some phase encodes were measured.

    A x = M F S x

S multiplies with the coils' sensitivities, which hold the image's phase too; F is the orthonormal Fourier transform along the two phase
encodes; M keeps those that a mask has. The readout is sampled completely in every Cartesian scan, so data are in hybrid space: k-space
after an inverse transform along the readout (:func:`volgen.acquisition.kspace.from_kspace`), in which every position along the readout is a
problem of two dimensions, and white noise stays white. They are complex, [B, coils, readout, lines], lines in the order of the mask.

Volumes are real, which for one coil without phase makes two measurements of every line: F A* A F* is diagonal, (M(k) + M(-k)) / 2, and
the proximal map is known. Coils or a phase couple lines, and it takes conjugate gradients (:func:`volgen.core.conjugate.explained`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from volgen.acquisition.coils import coil_maps
from volgen.acquisition.fields import smooth_field
from volgen.acquisition.masks.poisson import Config as Poisson
from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.protocols import AXES, Axis, Operator, Proximal, Shape3
from volgen.core.registry import union

Mask: Any = union("volgen.acquisition.masks")
AT_ONCE = 2**21
"""Complex numbers that are transformed at once: few enough for a processor's cache to help, many enough for a GPU."""


class Config(BaseConfig):
    """k-space of a Cartesian 3D scan, with coils that are given or made up."""

    kind: Literal["cartesian"] = "cartesian"
    mask: Mask = Field(default_factory=Poisson)
    """Which phase encodes are measured (``mask.kind``)."""
    readout: Axis = "S"
    """The axis along which k-space is measured completely; the phase encodes are the other two, in the order R, A, S."""
    maps: Path | None = None
    """Sensitivities of the coils, the image's phase in them: .npy, complex [coils, X, Y, Z] in the run's frame; made up if None."""
    coils: int = Field(default=1, ge=1, le=128)
    """Without maps: how many coils are made up; one sees everything alike."""
    phase: float = Field(default=0.0, ge=0.0, le=10.0)
    """Without maps: standard deviation of a smooth phase of the image, in radians."""
    seed: int = Field(default=0, ge=0)
    """Without maps: which coils and which phase."""

    def build(self, shape: Shape3, device: torch.device) -> Operator:
        """Makes the operator.

        Raises:
            UserError: the maps cannot be read or are of another shape, or the grid has no such mask.
        """
        first, second = (edge for axis, edge in zip(AXES, shape, strict=True) if axis != self.readout)
        maps = self._maps(shape)
        return Cartesian(self.mask.draw((first, second)).to(device), None if maps is None else maps.to(device), self.readout)

    def _maps(self, shape: Shape3) -> Tensor | None:
        if self.maps is not None:
            return _read(self.maps, shape)
        if self.coils == 1 and not self.phase:
            return None
        phase = self.phase * smooth_field(shape, 3, self.seed, "phase")
        return coil_maps(self.coils, shape, self.seed) * torch.polar(torch.ones(shape), phase)


class Cartesian(Operator):
    """The equation of this module.

    Args:
        mask: which phase encodes are measured, bool [P, Q], the centre of k-space at (P // 2, Q // 2).
        maps_cXYZ: complex sensitivities; one coil that sees everything alike if None.
        readout: the axis that is no phase encode.
    """

    def __init__(self, mask: Tensor, maps_cXYZ: Tensor | None = None, readout: Axis = "S") -> None:
        self._axis = AXES.index(readout)
        self._edges = (mask.shape[0], mask.shape[1])
        self._maps = None if maps_cXYZ is None else maps_cXYZ.movedim(1 + self._axis, 1).to(torch.complex64).contiguous()
        self._mask = mask
        first, second = mask.nonzero(as_tuple=True)
        places = [(place - edge // 2) % edge for place, edge in zip((first, second), self._edges, strict=True)]
        self._lines = places[0] * self._edges[1] + places[1]
        # The image's centre is at edge // 2 too: along each axis a ramp of phase, on the lines that are kept.
        turns = sum(place.double() * (edge // 2) / edge % 1.0 for place, edge in zip(places, self._edges, strict=True))
        assert isinstance(turns, Tensor)
        self._ramp = torch.polar(torch.ones_like(turns), 2 * math.pi * turns).to(torch.complex64)

    @property
    def mask(self) -> Tensor:
        """Which phase encodes are measured, bool [P, Q]."""
        return self._mask

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        """Hybrid space, complex64 [B, coils, readout, lines]."""
        x_BNPQ = x_BCXYZ[:, 0].movedim(1 + self._axis, 1).contiguous()  # one pass through memory, not one for each part
        coils = 1 if self._maps is None else len(self._maps)
        parts = []
        for part, maps in self._parts(x_BNPQ.shape[1], coils * len(x_BNPQ)):
            images = x_BNPQ[:, None, part] if maps is None else x_BNPQ[:, None, part] * maps
            parts.append(torch.fft.fft2(images, norm="ortho").flatten(-2)[..., self._lines] * self._ramp)
        return torch.cat(parts, dim=2)

    def adjoint(self, data: Tensor) -> Tensor:
        """The real part of what the coils' images combine to, [B, 1, X, Y, Z]."""
        x_BNPQ = torch.empty(len(data), data.shape[2], *self._edges, dtype=torch.float32, device=data.device)
        for part, maps in self._parts(data.shape[2], data.shape[1] * len(data)):
            images = torch.fft.ifft2(self._spread(data[:, :, part]), norm="ortho")
            x_BNPQ[:, part] = (images[:, 0] if maps is None else (images * maps.conj()).sum(dim=1)).real
        return x_BNPQ.movedim(1, 1 + self._axis)[:, None].contiguous()

    def closed(self, gamma: float) -> Proximal | None:
        """A filter in k-space for one coil that sees everything alike; None where coils or a phase couple lines."""
        if self._maps is not None:
            return None
        seen = torch.fft.ifftshift(self._mask).float()
        seen = (seen + _mirrored(seen)) / 2

        def nearest(z_BCXYZ: Tensor, data: Tensor) -> Tensor:
            back = self.adjoint(data).movedim(2 + self._axis, 2)
            z_BCNPQ = z_BCXYZ.movedim(2 + self._axis, 2)
            there, here = torch.fft.fft2(back, norm="ortho"), torch.fft.fft2(z_BCNPQ, norm="ortho")
            if math.isinf(gamma):
                found = torch.where(seen > 0, there / seen.clamp_min(0.5), here)
            else:
                found = (here + gamma * there) / (1.0 + gamma * seen)
            x_BCNPQ: Tensor = torch.fft.ifft2(found, norm="ortho").real
            return x_BCNPQ.movedim(2, 2 + self._axis)

        return nearest

    def _spread(self, data: Tensor) -> Tensor:
        """Lines put where they are in k-space, zeros elsewhere: [B, coils, N, P, Q]."""
        grid = data.new_zeros(*data.shape[:-1], self._edges[0] * self._edges[1])
        grid[..., self._lines] = data * self._ramp.conj()
        return grid.view(*data.shape[:-1], *self._edges)

    def _parts(self, positions: int, images: int) -> Iterator[tuple[slice, Tensor | None]]:
        """Positions along the readout that are computed at once, and the maps there."""
        width = max(1, AT_ONCE // (images * self._edges[0] * self._edges[1]))
        for first in range(0, positions, width):
            part = slice(first, first + width)
            yield part, None if self._maps is None else self._maps[:, part]


def _mirrored(grid: Tensor) -> Tensor:
    """A grid of k-space, as the Fourier transform orders it, at -k."""
    return grid.flip((-2, -1)).roll((1, 1), dims=(-2, -1))


def _read(path: Path, shape: Shape3) -> Tensor:
    try:
        maps = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(str(path), f"cannot be read ({' '.join(str(error).split())})", "an .npy file of sensitivities") from None
    if not isinstance(maps, np.ndarray) or not np.iscomplexobj(maps) or maps.shape[1:] != shape:
        found = f"{maps.dtype} {list(maps.shape)}" if isinstance(maps, np.ndarray) else "several arrays"
        raise UserError(str(path), f"holds {found}", f"complex [coils, {', '.join(map(str, shape))}]", "give maps in the run's frame")
    if not np.isfinite(maps).all():
        raise UserError(str(path), "holds NaN or infinite numbers", "finite sensitivities")
    return torch.from_numpy(maps.astype(np.complex64))
