"""Volumes as SimpleITK has them. Coordinates are millimetres of RAS+ here as everywhere: ITK never learns that its own are called LPS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from volgen.images.volume import Volume, edges


@contextmanager
def one_thread() -> Iterator[None]:
    """A block in which filters that ITK makes for itself have one thread: sums of several are rounded as the machine's cores fall."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def to_itk(volume: Volume) -> Any:
    """A float32 image of a volume, whose voxels are copied."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels.T, dtype=np.float32))
    sizes = edges(volume.affine)
    image.SetSpacing(sizes)
    image.SetOrigin(volume.affine[:3, 3].tolist())
    image.SetDirection((volume.affine[:3, :3] / sizes).ravel().tolist())
    return image


def affine_transform(matrix: NDArray[np.float64]) -> Any:
    """A 4 x 4 matrix, mm -> mm, as a transform."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def matrix_of(transform: Any) -> NDArray[np.float64]:
    """A linear transform as a 4 x 4 matrix, mm -> mm."""
    matrix = np.eye(4)
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix[:3, :3] = np.array([transform.TransformPoint(tuple(unit)) for unit in np.eye(3).tolist()]).T - origin[:, None]
    matrix[:3, 3] = origin
    return matrix


def interpolated(
    image: Any, matrix: NDArray[np.float64], shape: Sequence[int], affine: NDArray[np.float64], interpolator: int, fill: float
) -> NDArray[np.float32]:
    """Values of an image on another grid, [X, Y, Z].

    Args:
        image: what :func:`to_itk` made.
        matrix: 4 x 4, mm of the new grid -> mm of the image.
        shape: voxels of the new grid.
        affine: its voxels -> mm.
        interpolator: one of SimpleITK's.
        fill: value outside of the image.
    """
    work = sitk.ResampleImageFilter()
    work.SetNumberOfThreads(1)
    sizes = edges(affine)
    work.SetSize([int(n) for n in shape])
    work.SetOutputSpacing(sizes)
    work.SetOutputOrigin(affine[:3, 3].tolist())
    work.SetOutputDirection((affine[:3, :3] / sizes).ravel().tolist())
    work.SetTransform(affine_transform(matrix))
    work.SetInterpolator(interpolator)
    work.SetDefaultPixelValue(fill)
    found: NDArray[np.float32] = sitk.GetArrayFromImage(work.Execute(image)).T
    return found
