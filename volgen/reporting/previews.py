"""Small copies of volumes for the viewer in the page."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volgen.core.files import atomic_path

FOLDER, MASKS = "previews", "masks"
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
    _write(path, np.rint(255 * np.clip(_small(unit), 0, 1)), factor(unit.shape), voxel_size)


def write_mask(path: Path, mask: NDArray[np.bool_], voxel_size: Sequence[float]) -> None:
    """The rim of the head on the grid of :func:`write_preview`, one voxel thick: 1 on it, 0 elsewhere.

    Args:
        path: ends in ``.nii.gz``.
        mask: [X, Y, Z], RAS+.
        voxel_size: mm.
    """
    inside = _small(mask.astype(np.float32)) > 0.5
    _write(path, inside & ~ndimage.binary_erosion(inside), factor(mask.shape), voxel_size)


def _small(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over blocks; what is missing at the far ends is repeated."""
    step = factor(values.shape)
    padded = np.pad(values, [(0, -n % step) for n in values.shape], mode="edge")
    x, y, z = (n // step for n in padded.shape)
    small: NDArray[np.float32] = padded.reshape(x, step, y, step, z, step).mean(axis=(1, 3, 5))
    return small


def _write(path: Path, levels: NDArray[Any], step: int, voxel_size: Sequence[float]) -> None:
    image = nib.Nifti1Image(levels.astype(np.uint8), np.diag([*(step * edge for edge in voxel_size), 1.0]))
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
