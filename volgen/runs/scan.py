"""A scan as a run computes on it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.data.ingest.grid import GridConfig, check, conform
from volgen.images import nifti
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap, to_model


def prepared(scan: Path, geometry: Geometry) -> Tensor:
    """x_XYZ in [-1, 1], what a run computes on of its frame, with a window of its own: a function of this scan alone, float64.

    Raises:
        UserError: it cannot be read, or cannot be brought to the run's voxels.
    """
    volume = nifti.read(scan)
    check(volume, str(scan))
    sizes = geometry.voxel_size
    if max(sizes) - min(sizes) > 1e-3 * max(sizes):
        raise UserError(str(scan), f"cannot be brought to the run's voxels of {list(sizes)} mm", "a run of isotropic voxels")
    conformed = conform(volume, GridConfig(shape=geometry.shape, voxel_size=sizes[0]))
    check(conformed, str(scan))
    try:
        window = IntensityMap.robust(conformed.voxels)
    except ValueError as error:
        raise UserError(str(scan), f"has no usable intensity window ({error})") from None
    return to_model(torch.from_numpy(geometry.place.crop(window.to_unit(conformed.voxels))).double())
