"""Slices of a volume as pictures, one file for each, so that a page can turn one over and write letters beside it.

All are upright, with the person's left on the left, and sagittal ones with the front on the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray
from scipy import ndimage

from volgen.core.files import atomic_path

FOLDER, OUTLINES, WORST, BESIDE = "figures", "outlines", "worst", "beside"
PLANES = ("sagittal", "coronal", "axial")
"""Names of the planes, in the order of the array axes that they lie across."""
OUTLINE = (255, 176, 0, 255)
EDGES = ((2, 1), (2, 0), (1, 0))
"""Array axes along the rows and the columns of a sagittal, a coronal and an axial plane."""
T = TypeVar("T", bound=np.generic)


def file_of(folder: Path, name: str, axis: int, place: int | None = None) -> Path:
    """Where the picture of a plane across an axis is; ``place`` tells several of one volume apart."""
    return folder / f"{name}.{PLANES[axis]}{'' if place is None else f'.{place}'}.png"


def write_plane(path: Path, plane: NDArray[np.float32], voxel_size: Sequence[float], axis: int) -> None:
    """A plane as PNG with square pixels.

    Args:
        path: the file.
        plane: [rows, columns] in [0, 1], upright.
        voxel_size: mm along R, A, S.
        axis: 0 for a sagittal plane, 1 for a coronal, 2 for an axial one.
    """
    _save(path, _square(plane, voxel_size, axis, 1))


def write_outline(path: Path, mask: NDArray[np.bool_], voxel_size: Sequence[float], axis: int) -> None:
    """The outline of the head to lay over the picture of :func:`write_plane`: the rest is transparent."""
    inside = _square(mask.astype(np.uint8), voxel_size, axis, 0) > 0
    picture = np.zeros((*inside.shape, 4), dtype=np.uint8)
    picture[inside & ~ndimage.binary_erosion(inside)] = OUTLINE
    _save(path, picture)


def _square(plane: NDArray[T], voxel_size: Sequence[float], axis: int, order: int) -> NDArray[T]:
    """The plane with square pixels, as large as the shortest edge of a voxel."""
    pixel = min(voxel_size)
    if max(voxel_size) <= 1.001 * pixel:
        return plane
    row, column = EDGES[axis]
    square: NDArray[T] = ndimage.zoom(plane, (voxel_size[row] / pixel, voxel_size[column] / pixel), order=order)
    return square


def _save(path: Path, picture: NDArray[Any]) -> None:
    grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
    picture = np.clip(picture, 0, 1) if grey else picture
    with atomic_path(path) as temporary:
        # Fixed metadata: the same volume gives the same bytes with every version of the library.
        imsave(temporary, picture, format="png", metadata={"Software": ""}, **grey)
