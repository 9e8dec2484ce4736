"""Random transforms of a training volume: the numbers are drawn here, TorchIO says what they mean, one resampling applies them all.

TorchIO's own random transforms, and ``Transform.__call__``, draw from torch's global generator, which threads share. Drawing from a
keyed generator and asking TorchIO for the matrix alone leaves that generator alone, and makes a volume a function of its key.

The result is that of ``torchio.Affine`` followed by ``torchio.Flip``, up to rounding, in a tenth of the time: only the box that is not
background is read and written, and it stays in the axis order of the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import SimpleITK as sitk
import torch
import torchio as tio
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from volgen.core.config import Config
from volgen.core.protocols import Scan, Shape3
from volgen.core.rng import generator
from volgen.data.ingest.itk import matrix_of
from volgen.data.piece import Piece
from volgen.data.scan import MirroredScan, StoredScan, VolumeScan
from volgen.images.box import BoxConfig

MIRRORED = 9
"""Place of the number that decides whether a volume is mirrored."""
EDGE = 8
"""Voxels along a block in which the foreground is followed."""


class AugmentConfig(Config):
    """Random transforms of a training volume (TorchIO). All zero: none."""

    rotation_degrees: NonNegativeFloat = 0.0
    """Largest rotation about each axis."""
    translation_mm: NonNegativeFloat = 0.0
    """Largest shift along each axis."""
    scale: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Largest relative change of size along each axis."""
    flip_left_right: bool = False
    """Whether half of the volumes are mirrored. Brains are not symmetric: this trades the true asymmetry for more data."""

    def build(self) -> Augmentation:
        """The transform, or the one that does nothing."""
        if self.rotation_degrees or self.translation_mm or self.scale:
            return RandomPose(self)
        return Mirroring() if self.flip_left_right else Unchanged()


class Augmentation(Protocol):
    """A random transform that is a function of its key."""

    def reach(self, place: BoxConfig, shape: Shape3) -> BoxConfig:
        """What of a volume of ``shape`` is needed for what may come to a place."""
        ...

    def __call__(self, scan: StoredScan, seed: int, *key: int | str) -> Scan:
        """What is at the scan's place once it has moved: of the same shape and, up to interpolation, the same range."""
        ...


class Unchanged:
    """Leaves volumes as they are: the null object of augmentation."""

    def reach(self, place: BoxConfig, shape: Shape3) -> BoxConfig:
        """The place itself."""
        return place

    def __call__(self, scan: StoredScan, seed: int, *key: int | str) -> Scan:
        """The scan as it is."""
        return scan


class Mirroring:
    """Half of the volumes are mirrored about the middle of their first axis, which runs from left to right in every store."""

    def reach(self, place: BoxConfig, shape: Shape3) -> BoxConfig:
        """The place, and the same on the other side."""
        return BoxConfig.around([place, place.mirrored(shape)])

    def __call__(self, scan: StoredScan, seed: int, *key: int | str) -> Scan:
        """The scan as it is, or what is on its other side, mirrored."""
        return MirroredScan(scan.at(scan.place.mirrored(scan.record.shape))) if _draws(seed, *key)[MIRRORED] > 0 else scan


class RandomPose:
    """Rotation, translation, scaling about the image centre, and mirroring; uncovered corners hold the volume's minimum."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    def reach(self, place: BoxConfig, shape: Shape3) -> BoxConfig:
        """All of it."""
        return BoxConfig.whole(shape)

    def __call__(self, scan: StoredScan, seed: int, *key: int | str) -> Scan:
        """The moved scan. Interpolation is linear and the fill is the minimum, so it stays in [-1, 1]."""
        record = scan.record
        return VolumeScan(scan.shape, lambda: self.moved(scan.head(), scan.place, record.affine, seed, *key), scan.about)

    def moved(self, piece: Piece, place: BoxConfig, affine: NDArray[np.float64], seed: int, *key: int | str) -> Tensor:
        """A new volume, or a box of it; equal keys give equal volumes on every rank."""
        config, draws = self.config, _draws(seed, *key)
        pose = tio.Affine(
            scales=_three([1.0 + config.scale * draw for draw in draws[0:3]]),
            degrees=_three([config.rotation_degrees * draw for draw in draws[3:6]]),
            translation=_three([config.translation_mm * draw for draw in draws[6:9]]),
        )
        matrix = index_matrix(pose, piece.shape, affine)
        if config.flip_left_right and draws[MIRRORED] > 0:
            # Mirrored by index, about the image's middle; axis 0 runs from left to right in every store.
            mirror = np.eye(4)
            mirror[0, 0], mirror[0, 3] = -1.0, piece.shape[0] - 1.0
            matrix = matrix @ mirror
        return resample(piece, matrix, place)


class _Frame:
    """What ``torchio.Affine.get_affine_transform`` asks of an image."""

    def __init__(self, shape: Shape3, affine: NDArray[np.float64]) -> None:
        self._centre = (affine @ [*((size - 1) / 2 for size in shape), 1.0])[:3]
        self._flat = shape[2] == 1

    def is_2d(self) -> bool:
        return self._flat

    def get_center(self, lps: bool = False) -> tuple[float, float, float]:
        x, y, z = self._centre.tolist()
        return (-x, -y, z) if lps else (x, y, z)


def index_matrix(pose: tio.Affine, shape: Shape3, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a TorchIO transform takes the value of a voxel from: indices of the result -> indices of the source, [4, 4]."""
    transform = pose.get_affine_transform(_Frame(shape, affine))
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return np.asarray(np.linalg.inv(to_lps) @ matrix_of(transform) @ to_lps)


def resample(piece: Piece, matrix: NDArray[np.float64], place: BoxConfig) -> Tensor:
    """A box of the volume whose voxel i is the source's value at index ``matrix @ i``: trilinear, and the fill outside of the source.

    Args:
        piece: the source.
        matrix: [4, 4].
        place: the box; float32 [X, Y, Z] of it is returned.
    """
    volume_XYZ = np.full(place.size, piece.fill, np.float32)
    # ITK's axes are named in the order of memory, so its x is our Z.
    backwards, shift = matrix[:3, :3][::-1, ::-1], (matrix[:3, 3] - piece.start)[::-1]
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(backwards.ravel().tolist())
    transform.SetTranslation(shift.tolist())
    work = sitk.ResampleImageFilter()
    work.SetNumberOfThreads(1)  # the stream's workers are the threads
    work.SetInterpolator(sitk.sitkLinear)
    work.SetTransform(transform)
    work.SetDefaultPixelValue(piece.fill)
    source = sitk.GetImageFromArray(piece.voxels_XYZ.numpy())
    for box in _reached(piece, matrix, place):
        work.SetOutputOrigin([float(part.start) for part in box[::-1]])
        work.SetSize([part.stop - part.start for part in box[::-1]])
        result = work.Execute(source)
        here = tuple(slice(part.start - first, part.stop - first) for part, first in zip(box, place.start, strict=True))
        volume_XYZ[here] = sitk.GetArrayViewFromImage(result)
    return torch.from_numpy(volume_XYZ)


def _reached(piece: Piece, matrix: NDArray[np.float64], place: BoxConfig) -> Iterator[tuple[slice, slice, slice]]:
    """Boxes of the result, one for each 8 of the sagittal slices of a place, outside of which nothing of the piece can be seen there.

    A head fills half of its box, and a turned box fills half of its own: this follows the head in blocks of 8^3.
    """
    inverse = np.linalg.inv(matrix)
    centres = np.array(piece.start)[:, None] + (_blocks(piece).T + 0.5) * EDGE - 0.5
    middle = inverse[:3, :3] @ centres + inverse[:3, 3:]
    reach = np.abs(inverse[:3, :3]) @ np.full((3, 1), EDGE / 2 + 1.0)  # a voxel is seen one voxel further
    starts, stops = np.array(place.start)[:, None], np.array(place.stop)[:, None]
    low = np.clip(np.floor(middle - reach), starts, stops).astype(int)
    high = np.clip(np.ceil(middle + reach) + 1, starts, stops).astype(int)
    for first in range(place.start[0], place.stop[0], EDGE):
        last = min(first + EDGE, place.stop[0])
        here = (low[0] < last) & (high[0] > first) & (low < high).all(axis=0)
        if here.any():
            y, z = (slice(int(low[axis, here].min()), int(high[axis, here].max())) for axis in (1, 2))
            yield slice(first, last), y, z


def _blocks(piece: Piece) -> NDArray[np.int64]:
    """Indices [n, 3] of the blocks of 8^3 of the piece that hold anything but the fill."""
    other = piece.voxels_XYZ.numpy() != np.float32(piece.fill)
    padded = np.pad(other, [(0, -size % EDGE) for size in other.shape])
    x, y, z = (size // EDGE for size in padded.shape)
    lines = padded.reshape(x, EDGE, y * EDGE, z * EDGE).any(axis=1)  # the axis of the longest rows first: that one is quick
    return np.argwhere(lines.reshape(x, y, EDGE, z * EDGE).any(axis=2).reshape(x, y, z, EDGE).any(axis=3))


def _draws(seed: int, *key: int | str) -> list[float]:
    """Numbers from -1 to 1: three scales, rotations and translations, and :data:`MIRRORED`."""
    source = generator(seed, "augment", *key)
    return (torch.rand(10, generator=source, dtype=torch.float64) * 2 - 1).tolist()


def _three(values: list[float]) -> tuple[float, float, float]:
    x, y, z = values
    return x, y, z
