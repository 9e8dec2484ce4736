"""Raw data of a scanner as a measurement: on the run's voxels, along the axes of the body, with sensitivities that the data show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volgen.acquisition.coils import estimated_maps
from volgen.acquisition.kspace import from_kspace
from volgen.commands.reconstruct.source import Centre, placed_field
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.protocols import AXES, Operator
from volgen.data.raw import read_raw
from volgen.data.upright import UprightScan, calibration, on_voxels_of, upright
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap
from volgen.operators.cartesian import Cartesian
from volgen.operators.composed import InTurn
from volgen.operators.slices import Config as ThickSlices
from volgen.runs.observed import observe
from volgen.runs.simulated import MeasuredHead


class RawData:
    """Raw data of one head.

    Args:
        path: the file.
        noise: standard deviation of the noise in units of the model range; what the data say if None.
        centre: how the image is placed.
        orientation: where readout, phase encode and slices lead, of slices whose file does not say it.
        spacing: how many mm it is from one of such slices to the next.
    """

    known: bool = False
    labels: tuple[str, ...] = ("0001",)
    text = "raw data of a scanner"

    def __init__(
        self, path: Path, noise: float | None, centre: Centre | None, orientation: str | None = None, spacing: float | None = None
    ) -> None:  # fmt: skip
        self._path, self._noise, self._centre = path, noise, centre
        self._orientation, self._spacing = orientation, spacing
        self.settings: dict[str, Any] = {"noise": noise, "centre": centre, "orientation": orientation, "spacing": spacing}
        try:
            self.inputs = {"data": sha256(path, follow=True)}
        except OSError as error:
            raise UserError(str(path), error.strerror or str(error), "raw data of a scanner") from None

    def read(self, label: str, geometry: Geometry, device: torch.device) -> MeasuredHead:
        """The scan; voxels of the run are those of the centre of k-space that has them."""
        where = str(self._path)
        scan = upright(read_raw(self._path, self._orientation, self._spacing), where)
        scan = on_voxels_of(scan, geometry, where)
        kspace = torch.from_numpy(scan.kspace_cXYZ)
        coarse = calibration(scan, where)
        rough = np.linalg.norm(coarse, axis=0)
        maps = estimated_maps(torch.from_numpy(coarse), scan.shape)
        try:
            window = IntensityMap(0.0, IntensityMap.robust(rough).high)
        except ValueError:
            raise UserError(where, "shows nothing in the centre of k-space", "a head") from None
        sliced = None if scan.stack is None else _sliced(scan, geometry, where)
        places, affine = (_places(scan), scan.affine) if sliced is None else (sliced.places, sliced.affine)
        field = placed_field(_nearest(rough, scan.shape, places), affine, (1, 1, 1), geometry, self._centre, where)
        mask = torch.from_numpy(scan.mask)
        hybrid = from_kspace(kspace, [1 + scan.readout]).movedim(1 + scan.readout, 1)
        operator: Operator = Cartesian(mask.to(device), maps.to(device), AXES[scan.readout])
        if sliced is not None:
            operator = InTurn([sliced.profile.build(field.shape, device), operator])
        data = hybrid[:, :, mask][None].to(device)
        noise = scan.noise if self._noise is None else self._noise * window.high / 2
        return MeasuredHead(observe(operator, data, noise, window, field, geometry))


@dataclass(frozen=True)
class _Sliced:
    """Slices on a grid of a run's voxels that holds all of them.

    Attributes:
        profile: the operator that makes slices of this grid.
        affine: 4 x 4, its voxels -> mm of RAS+.
        places: the slices' voxel, along each axis, that each voxel of the grid is nearest to.
    """

    profile: ThickSlices
    affine: NDArray[np.float64]
    places: list[NDArray[np.int64]]


def _sliced(scan: UprightScan, geometry: Geometry, where: str) -> _Sliced:
    """Slices lie in the middle of a grid that is as long as it takes."""
    stack, axis = scan.stack, scan.slices
    assert stack is not None and axis is not None, "there are slices"
    size, count = geometry.voxel_size[axis], scan.shape[axis]
    thickness, spacing = stack.thickness / size, stack.spacing / size
    if thickness + spacing <= 1.0:
        found = f"has slices {stack.thickness:g} mm thick and {stack.spacing:g} mm apart"
        raise UserError(where, found, f"slices as thick as the run's voxels of {size:g} mm, or nearly so", "take a run of finer voxels")
    length = (count - 1) * spacing + thickness
    edge = math.ceil(max(count * spacing, length) - 1e-6)
    first = (edge - length) / 2
    content = {"kind": "slices", "axis": AXES[axis], "thickness": thickness, "gap": spacing - thickness, "first": first}
    affine = scan.affine.copy()
    affine[:3, axis] /= spacing
    affine[:3, 3] -= affine[:3, axis] * (first + thickness / 2 - 0.5)
    places = _places(scan)
    places[axis] = np.clip(np.rint((np.arange(edge) + 0.5 - first - thickness / 2) / spacing), 0, count - 1).astype(np.int64)
    return _Sliced(validate(ThickSlices, content, where), affine, places)


def _places(scan: UprightScan) -> list[NDArray[np.int64]]:
    """Each voxel is its own."""
    return [np.arange(edge) for edge in scan.shape]


def _nearest(rough: NDArray[np.float32], shape: tuple[int, int, int], places: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    """A coarse image on a finer grid of the same field, at some places of it along each axis: enough to see where the head is."""
    nearest = []
    for n, edge, along in zip(rough.shape, shape, places, strict=True):
        nearest.append(np.clip(np.rint(n // 2 + (along - edge // 2) * n / edge), 0, n - 1).astype(int))
    found: NDArray[np.float32] = rough[np.ix_(*nearest)]
    return found
