"""Slices of a volume as pictures: three planes side by side, the outline of the head over them, a slice and its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray
from scipy import ndimage

from volgen.core.files import atomic_path

FOLDER, OUTLINES, WORST = "figures", "outlines", "worst"
GAP = 0.03
OUTLINE = (255, 176, 0, 255)
EDGES = ((2, 1), (2, 0), (1, 0))
"""Array axes along the rows and the columns of a sagittal, a coronal and an axial plane."""
T = TypeVar("T", bound=np.generic)


def write_slices(path: Path, planes: Sequence[NDArray[np.float32]], voxel_size: Sequence[float]) -> None:
    """Axial, coronal and sagittal slice side by side on black, in one scale of millimetres, as PNG.

    Args:
        path: the file.
        planes: [rows, columns] in [0, 1], across R (sagittal), A (coronal) and S (axial), upright.
        voxel_size: mm along R, A, S.
    """
    _save(path, _side_by_side([_square(planes[axis], voxel_size, axis, 1) for axis in (2, 1, 0)]))


def write_outline(path: Path, masks: Sequence[NDArray[np.bool_]], voxel_size: Sequence[float]) -> None:
    """The outline of the head to lay over the picture of :func:`write_slices`: the rest is transparent."""
    inside = [_square(masks[axis].astype(np.uint8), voxel_size, axis, 0) > 0 for axis in (2, 1, 0)]
    rims = _side_by_side([mask & ~ndimage.binary_erosion(mask) for mask in inside])
    picture = np.zeros((*rims.shape, 4), dtype=np.uint8)
    picture[rims] = OUTLINE
    _save(path, picture)


def write_row(path: Path, planes: Sequence[NDArray[np.float32]], voxel_size: Sequence[float], axis: int) -> None:
    """Slices across one axis side by side on black, as PNG.

    Args:
        path: the file.
        planes: [rows, columns] in [0, 1], upright.
        voxel_size: mm along R, A, S.
        axis: 0 for sagittal slices, 1 for coronal, 2 for axial ones.
    """
    _save(path, _side_by_side([_square(plane, voxel_size, axis, 1) for plane in planes]))


def _square(plane: NDArray[T], voxel_size: Sequence[float], axis: int, order: int) -> NDArray[T]:
    """The plane with square pixels, as large as the shortest edge of a voxel."""
    pixel = min(voxel_size)
    if max(voxel_size) <= 1.001 * pixel:
        return plane
    row, column = EDGES[axis]
    square: NDArray[T] = ndimage.zoom(plane, (voxel_size[row] / pixel, voxel_size[column] / pixel), order=order)
    return square


def _side_by_side(planes: Sequence[NDArray[T]]) -> NDArray[T]:
    height = max(plane.shape[0] for plane in planes)
    gap = max(round(GAP * height), 1)
    parts = []
    for plane in planes:
        above = (height - plane.shape[0]) // 2
        parts.append(np.pad(plane, ((above, height - plane.shape[0] - above), (0, gap))))
    return np.concatenate(parts, axis=1)[:, :-gap]


def _save(path: Path, picture: NDArray[Any]) -> None:
    grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
    picture = np.clip(picture, 0, 1) if grey else picture
    with atomic_path(path) as temporary:
        # Fixed metadata: the same volume gives the same bytes with every version of the library.
        imsave(temporary, picture, format="png", metadata={"Software": ""}, **grey)
