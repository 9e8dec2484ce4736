"""Middle slices of a volume as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray
from scipy import ndimage

from volgen.core.files import atomic_path

FOLDER = "figures"
GAP = 0.03


def write_slices(path: Path, planes: Sequence[NDArray[np.float32]], voxel_size: tuple[float, float, float]) -> None:
    """Axial, coronal and sagittal slice side by side on black, in one scale of millimetres, as PNG.

    Args:
        path: the file.
        planes: [rows, columns] in [0, 1], across R (sagittal), A (coronal) and S (axial), upright.
        voxel_size: mm along R, A, S.
    """
    pixel = min(voxel_size)
    edges = ((2, 1), (2, 0), (1, 0))  # array axes along rows and columns of each plane
    square = [
        ndimage.zoom(plane, (voxel_size[row] / pixel, voxel_size[column] / pixel), order=1) if max(voxel_size) > 1.001 * pixel else plane
        for plane, (row, column) in zip(planes, edges, strict=True)
    ]
    height = max(plane.shape[0] for plane in square)
    gap = max(round(GAP * height), 1)
    parts = []
    for plane in (square[2], square[1], square[0]):
        above = (height - plane.shape[0]) // 2
        parts.append(np.pad(plane, ((above, height - plane.shape[0] - above), (0, gap))))
    picture = np.concatenate(parts, axis=1)[:, :-gap]
    with atomic_path(path) as temporary:
        # Fixed metadata: the same volume gives the same bytes with every version of the library.
        imsave(temporary, np.clip(picture, 0, 1), cmap="gray", vmin=0, vmax=1, format="png", metadata={"Software": ""})
