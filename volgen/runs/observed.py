"""What an instrument gave of a field of view, as a measurement of what a run draws.

A field of view is a grid of the run's voxel size along the axes of the data, which are those of the patient up to a rotation, so it meets
the grid of the run voxel by voxel: no voxel is interpolated, and what is drawn lies where the data say. Around what a run draws there is
air, and what lies beyond the field is not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.protocols import Measurement, Operator, Proximal, Shape3
from volgen.core.rng import normal
from volgen.images.geometry import BACKGROUND, Geometry
from volgen.images.intensity import IntensityMap

SAME_SIZE = 0.03
"""Share by which voxels of data may be larger or smaller than those of a run: heads differ by more."""
ON_GRID = 0.01
"""Share of a voxel by which a field may be off the run's grid and yet be on it."""


@dataclass(frozen=True)
class Field:
    """Where a field of view lies in the grid of a run.

    Attributes:
        shape: its voxels, along R, A, S.
        start: the voxel of the run's grid that its first one is; negative where the field begins before the grid.
        affine: 4 x 4, voxels of the run's grid -> RAS+ mm of the data.
        placed: how it got there: ``run`` (it is the run's grid), ``header`` (what the data say of themselves fits it), ``foreground`` or
            ``grid`` (their middles are one).
    """

    shape: Shape3
    start: Shape3
    affine: NDArray[np.float64]
    placed: str

    @classmethod
    def of_run(cls, geometry: Geometry) -> Field:
        """The run's own grid."""
        return cls(geometry.shape, (0, 0, 0), geometry.affine, "run")

    @classmethod
    def of_data(cls, shape: Shape3, affine: NDArray[np.float64], geometry: Geometry, middle: NDArray[np.float64], where: str) -> Field:
        """The grid of data, so placed that it meets the run's.

        Args:
            shape: voxels along R, A, S (nearest axes), of the run's size.
            affine: 4 x 4, its voxels -> RAS+ mm.
            geometry: the run's.
            middle: the voxel, or place between voxels, that comes to the middle of the run's grid; NaN if the header is to decide, and
                has to fit.
            where: names the data, for messages.

        Raises:
            UserError: voxels are of another size, the header does not fit, or nothing of the field is inside the run's grid.
        """
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        if (np.abs(sizes / np.asarray(geometry.voxel_size) - 1.0) > SAME_SIZE).any():
            found = f"has voxels of {_text(sizes)} mm"
            do = "bring the image to that size first, or take a run of this size"
            raise UserError(where, found, f"those of the run, {_text(geometry.voxel_size)} mm, up to {SAME_SIZE:.0%}", do)
        if by_header := not np.isfinite(middle).all():
            start = header_start(affine, geometry)
            if start is None:
                found = "does not lie on the run's grid by its header"
                raise UserError(where, found, "the run's orientation, and whole voxels between both", "give --centre foreground or grid")
        else:
            start = np.rint((np.asarray(geometry.shape) - 1) / 2 - middle).astype(int)
        x, y, z = (int(first) for first in start)
        if any(first >= edge or first + size <= 0 for first, size, edge in zip((x, y, z), shape, geometry.shape, strict=True)):
            raise UserError(where, "lies outside of what the run draws", "data of a head in the middle of the field of view")
        moved = affine.copy()
        moved[:3, 3] -= affine[:3, :3] @ start
        return cls(shape, (x, y, z), moved, "header" if by_header else "middle")

    def seen(self, x: Tensor, geometry: Geometry, fill: float) -> Tensor:
        """What the field holds [..., X, Y, Z] of what a run draws [..., box]; ``fill`` where it draws nothing."""
        seen = torch.full((*x.shape[:-3], *self.shape), fill, dtype=x.dtype, device=x.device)
        here, there = self._overlap(geometry)
        seen[here] = x[there]
        return seen

    def unseen(self, field: Tensor, geometry: Geometry) -> Tensor:
        """The transpose of :meth:`seen` with a fill of 0."""
        box = torch.zeros((*field.shape[:-3], *geometry.grid), dtype=field.dtype, device=field.device)
        here, there = self._overlap(geometry)
        box[there] = field[here]
        return box

    def _overlap(self, geometry: Geometry) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Where the voxels that both have are in the field, and in what is drawn."""
        here: list[Any] = [...]
        there: list[Any] = [...]
        for size, start, first, edge in zip(self.shape, self.start, geometry.place.start, geometry.place.size, strict=True):
            low, high = max(start, first), min(start + size, first + edge)
            high = max(high, low)
            here.append(slice(low - start, high - start))
            there.append(slice(low - first, high - first))
        return tuple(here), tuple(there)


def header_start(affine: NDArray[np.float64], geometry: Geometry) -> NDArray[np.int64] | None:
    """The voxel of a run's grid that the first one of a field is, by their affines; None where they are turned, or are off the grid."""
    between = np.linalg.solve(geometry.affine, affine)
    start = np.rint(between[:3, 3])
    same = np.abs(between[:3, :3] - np.eye(3)).max() * max(geometry.shape) <= 10 * ON_GRID
    return start.astype(np.int64) if same and np.abs(between[:3, 3] - start).max() <= ON_GRID else None


class Seen(Operator):
    """An operator of a field of view, asked about what a run draws; the linear part: outside of that are zeros.

    Args:
        operator: that of the field.
        field: where the field is.
        geometry: the run's.
    """

    def __init__(self, operator: Operator, field: Field, geometry: Geometry) -> None:
        self._operator, self._field, self._geometry = operator, field, geometry
        self.apart = operator.apart

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        """A P x, where P takes what is drawn to the field."""
        return self._operator.apply(self._field.seen(x_BCXYZ, self._geometry, 0.0))

    def adjoint(self, data: Tensor) -> Tensor:
        """P* A* d."""
        return self._field.unseen(self._operator.adjoint(data), self._geometry)

    def seen(self, data: Tensor) -> Tensor:
        """What the operator says."""
        return self._operator.seen(data)

    def closed(self, gamma: float) -> Proximal | None:
        """What the field has of the operator's own, and z elsewhere; there is none where voxels meet in the operator."""
        whole = self._field.shape == self._geometry.grid and self._field.start == self._geometry.place.start
        nearest = self._operator.closed(gamma) if self.apart or whole else None
        if nearest is None:
            return None

        def proximal(z_BCXYZ: Tensor, data: Tensor) -> Tensor:
            here = self._field.seen(torch.ones_like(z_BCXYZ), self._geometry, 0.0)
            found = nearest(self._field.seen(z_BCXYZ, self._geometry, 0.0), data)
            inside = self._field.unseen(here, self._geometry)
            return torch.where(inside > 0, self._field.unseen(found, self._geometry), z_BCXYZ)

        return proximal


@dataclass(frozen=True)
class Observation:
    """What an instrument gave of one head, and what the model knows of that.

    Attributes:
        measurement: for whoever draws; in the units of the model range.
        field: where the field of view is.
        window: intensities of the data that are 0 and 1.
        rows: which numbers of the data say anything of the volume, shaped like the data.
    """

    measurement: Measurement
    field: Field
    window: IntensityMap
    rows: Tensor

    @property
    def numbers(self) -> int:
        """How many real numbers were measured."""
        return int(self.rows.sum()) * (2 if self.measurement.data.is_complex() else 1)

    def chi_square(self, x_BCXYZ: Tensor) -> float | None:
        """The squared distance of a volume from the data, per real number and in units of the noise; None without noise."""
        if self.measurement.noise == 0.0 or not self.numbers:
            return None
        return (self._distance(x_BCXYZ) / (self.numbers * self.measurement.noise**2)).item()

    def distance(self, x_BCXYZ: Tensor) -> float:
        """The root mean square of what a volume misses the data by, in units of the model range."""
        return (self._distance(x_BCXYZ) / max(self.numbers, 1)).sqrt().item()

    def residual(self, x_BCXYZ: Tensor) -> Tensor:
        """What of the data a volume does not explain, taken back to voxels by the adjoint."""
        measured = self.measurement
        return measured.operator.adjoint(torch.where(self.rows, measured.data - measured.operator.apply(x_BCXYZ), 0))

    def _distance(self, x_BCXYZ: Tensor) -> Tensor:
        missed = torch.where(self.rows, self.measurement.operator.apply(x_BCXYZ) - self.measurement.data, 0)
        return missed.abs().double().square().sum()


def measured(operator: Operator, volume_BCXYZ: Tensor, geometry: Geometry) -> Measurement:
    """What an operator gives of a volume of the run, as a measurement, without noise, of what is drawn of one.

    Args:
        operator: what the instrument does to a whole volume.
        volume_BCXYZ: in the model range, B = 1.
        geometry: the run's.
    """
    data = operator.apply(volume_BCXYZ)
    if geometry.box is None:
        return Measurement(operator, data)
    # A volume is its box and the background around that, which no sample changes; A is linear.
    around = geometry.whole(torch.zeros(1, 1, *geometry.grid, device=data.device))
    return Measurement(Seen(operator, Field.of_run(geometry), geometry), data - operator.apply(around))


def observe(operator: Operator, data: Tensor, noise: float, window: IntensityMap, field: Field, geometry: Geometry) -> Observation:
    """Brings data into the units of the model range, in which air is -1.

    With intensities v = low + w u of the window and u = (x + 1) / 2, data A v are low A 1 + w / 2 (A x + A 1), where 1 is the whole field
    and x is -1 wherever nothing is drawn.

    Args:
        operator: what the instrument does to the field of view.
        data: what it gave, in intensities; NaN and infinity only where the operator measures nothing.
        noise: standard deviation of the noise of the data, in intensities (of each part of a complex number).
        window: intensities that are 0 and 1.
        field: where the field of view is.
        geometry: the run's.

    Raises:
        UserError: data and operator do not fit, nothing was measured, or data are not finite.
    """
    width = window.high - window.low
    ones = torch.ones(1, 1, *field.shape, device=data.device)
    whole = operator.apply(ones)
    if whole.shape != data.shape:
        raise UserError(
            "--operator", f"gives data of shape {list(whole.shape)[1:]} of {_text(field.shape)} voxels", f"{list(data.shape)[1:]}"
        )
    rows = operator.apply(normal(ones.shape, 0, "rows").to(data.device)) != 0
    if not rows.any():
        raise UserError("--operator", "measures nothing", "an operator that does")
    data = torch.where(rows, data, 0)
    if not torch.isfinite(torch.view_as_real(data) if data.is_complex() else data).all():
        raise UserError("--data", "holds NaN or infinite numbers where it was measured", "finite numbers")
    # Around what is drawn there is air, which no sample changes.
    air = operator.apply(field.seen(torch.zeros(1, 1, *geometry.grid, device=data.device), geometry, BACKGROUND))
    model = torch.where(rows, (2.0 / width) * (data - window.low * whole) - whole - air, 0)
    return Observation(Measurement(Seen(operator, field, geometry), model, 2.0 * noise / width), field, window, rows)


def _text(numbers: object) -> str:
    return " x ".join(f"{number:.4g}" for number in np.asarray(numbers).tolist())
