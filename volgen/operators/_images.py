"""Images that say something of each voxel."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.protocols import Shape3
from volgen.images import nifti


def image_of_shape(path: Path, shape: Shape3) -> Tensor:
    """Voxels of a NIfTI image, reoriented to RAS+, float32 [X, Y, Z].

    Raises:
        UserError: it cannot be read, has another shape, or holds NaN.
    """
    volume = nifti.read(path).reoriented("RAS")
    if volume.shape != shape:
        raise UserError(str(path), f"has {list(volume.shape)} voxels", f"the run's {list(shape)}", "give an image in the run's frame")
    voxels = torch.from_numpy(volume.voxels)
    if not voxels.isfinite().all():
        raise UserError(str(path), "holds NaN or infinite voxels", "finite voxels")
    return voxels
