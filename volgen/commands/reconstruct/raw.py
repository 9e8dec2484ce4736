"""Raw data of a scanner as a measurement: on the run's voxels, along the axes of the body, with sensitivities that the data show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volgen.acquisition.coils import estimated_maps
from volgen.acquisition.kspace import from_kspace
from volgen.commands.reconstruct.source import Centre, placed_field
from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.protocols import AXES
from volgen.data.raw import read_raw
from volgen.data.upright import calibration, on_voxels_of, upright
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap
from volgen.operators.cartesian import Cartesian
from volgen.runs.observed import observe
from volgen.runs.simulated import MeasuredHead


class RawData:
    """Raw data of one head.

    Args:
        path: the file.
        noise: standard deviation of the noise in units of the model range; what the data say if None.
        centre: how the image is placed.
    """

    known: bool = False
    labels: tuple[str, ...] = ("0001",)
    text = "raw data of a scanner"

    def __init__(self, path: Path, noise: float | None, centre: Centre | None) -> None:
        self._path, self._noise, self._centre = path, noise, centre
        self.settings: dict[str, Any] = {"noise": noise, "centre": centre}
        try:
            self.inputs = {"data": sha256(path, follow=True)}
        except OSError as error:
            raise UserError(str(path), error.strerror or str(error), "raw data of a scanner") from None

    def read(self, label: str, geometry: Geometry, device: torch.device) -> MeasuredHead:
        """The scan; voxels of the run are those of the centre of k-space that has them."""
        where = str(self._path)
        scan = upright(read_raw(self._path), where)
        scan = on_voxels_of(scan, geometry, where)
        kspace = torch.from_numpy(scan.kspace_cXYZ)
        coarse = calibration(scan, where)
        rough = np.linalg.norm(coarse, axis=0)
        maps = estimated_maps(torch.from_numpy(coarse), scan.shape)
        try:
            window = IntensityMap(0.0, IntensityMap.robust(rough).high)
        except ValueError:
            raise UserError(where, "shows nothing in the centre of k-space", "a head") from None
        field = placed_field(_nearest(rough, scan.shape), scan.affine, (1, 1, 1), geometry, self._centre, where)
        mask = torch.from_numpy(scan.mask)
        hybrid = from_kspace(kspace, [1 + scan.readout]).movedim(1 + scan.readout, 1)
        operator = Cartesian(mask.to(device), maps.to(device), AXES[scan.readout])
        data = hybrid[:, :, mask][None].to(device)
        noise = scan.noise if self._noise is None else self._noise * window.high / 2
        return MeasuredHead(observe(operator, data, noise, window, field, geometry))


def _nearest(rough: NDArray[np.float32], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """A coarse image on a finer grid of the same field: enough to see where the head is."""
    places = []
    for n, edge in zip(rough.shape, shape, strict=True):
        nearest = np.rint(n // 2 + (np.arange(edge) - edge // 2) * n / edge)
        places.append(np.clip(nearest, 0, n - 1).astype(int))
    found: NDArray[np.float32] = rough[np.ix_(*places)]
    return found
