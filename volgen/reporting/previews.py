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
from volgen.images.blocks import edge_for, padded_block_means

FOLDER, MASKS = "previews", "masks"
MOST = 20
LARGEST_EDGE = 112


def place_in_preview(shape: Sequence[int], slices: Sequence[int | None]) -> list[float]:
    """Where slices of the whole volume lie in its preview, as shares of the edges; the middle for None."""
    step = edge_for(shape, LARGEST_EDGE)
    return [0.5 if z is None else (z + 0.5) / (-(-n // step) * step) for n, z in zip(shape, slices, strict=True)]


def write_preview(path: Path, unit: NDArray[np.float32], voxel_size: Sequence[float]) -> None:
    """NIfTI with 8 bits per voxel, means over blocks so that no edge is longer than 112 voxels; equal volumes give equal bytes.

    Args:
        path: ends in ``.nii.gz``.
        unit: [X, Y, Z] in [0, 1], RAS+.
        voxel_size: mm.
    """
    step = edge_for(unit.shape, LARGEST_EDGE)
    _write(path, np.rint(255 * np.clip(padded_block_means(unit, [step] * 3), 0, 1)), step, voxel_size)


def write_mask(path: Path, mask: NDArray[np.bool_], voxel_size: Sequence[float]) -> None:
    """The rim of the head on the grid of :func:`write_preview`, one voxel thick: 1 on it, 0 elsewhere.

    Args:
        path: ends in ``.nii.gz``.
        mask: [X, Y, Z], RAS+.
        voxel_size: mm.
    """
    step = edge_for(mask.shape, LARGEST_EDGE)
    inside = padded_block_means(mask.astype(np.float32), [step] * 3) > 0.5
    _write(path, inside & ~ndimage.binary_erosion(inside), step, voxel_size)


def _write(path: Path, levels: NDArray[Any], step: int, voxel_size: Sequence[float]) -> None:
    image = nib.Nifti1Image(levels.astype(np.uint8), np.diag([*(step * edge for edge in voxel_size), 1.0]))
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
