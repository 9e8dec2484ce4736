"""Small copies of volumes for the viewer in the page."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from volgen.core.files import atomic_path

FOLDER = "previews"
MOST = 20
LARGEST_EDGE = 112


def factor(shape: Sequence[int]) -> int:
    """How many voxels along each edge become one."""
    return max(1, -(-max(shape) // LARGEST_EDGE))


def place(shape: Sequence[int], slices: Sequence[int | None]) -> list[float]:
    """Where slices of the whole volume lie in its preview, as shares of the edges; the middle for None."""
    step = factor(shape)
    return [0.5 if z is None else (z + 0.5) / (-(-n // step) * step) for n, z in zip(shape, slices, strict=True)]


def write_preview(path: Path, unit: NDArray[np.float32], voxel_size: Sequence[float]) -> None:
    """NIfTI with 8 bits per voxel, means over blocks so that no edge is longer than 112 voxels; equal volumes give equal bytes.

    Args:
        path: ends in ``.nii.gz``.
        unit: [X, Y, Z] in [0, 1], RAS+.
        voxel_size: mm.
    """
    step = factor(unit.shape)
    padded = np.pad(unit, [(0, -n % step) for n in unit.shape], mode="edge")
    x, y, z = (n // step for n in padded.shape)
    small = padded.reshape(x, step, y, step, z, step).mean(axis=(1, 3, 5))
    image = nib.Nifti1Image(np.rint(255 * np.clip(small, 0, 1)).astype(np.uint8), np.diag([*(step * edge for edge in voxel_size), 1.0]))
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
