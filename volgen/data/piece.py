"""The part of a volume that is not background. Nine tenths of a stripped head are, and work on them can be left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volgen.core.protocols import Shape3
from volgen.data.convert import codes_to_model
from volgen.data.record import SubjectRecord


@dataclass(frozen=True)
class Piece:
    """A box of a volume outside of which every voxel holds the volume's minimum.

    The outermost voxels of the box hold it too, unless the box ends where the volume does; so interpolating in the box is
    interpolating in the volume.

    Attributes:
        voxels_XYZ: the box.
        start: index of its first voxel in the volume.
        shape: voxels of the volume along X, Y, Z.
        fill: the minimum.
    """

    voxels_XYZ: Tensor
    start: Shape3
    shape: Shape3
    fill: float

    @classmethod
    def of(cls, volume_XYZ: Tensor) -> Self:
        """All of a volume."""
        x, y, z = volume_XYZ.shape
        return cls(volume_XYZ, (0, 0, 0), (x, y, z), float(volume_XYZ.min()))

    def whole(self) -> Tensor:
        """The volume [X, Y, Z], in memory of its own."""
        volume_XYZ = np.full(self.shape, self.fill, np.float32)  # numpy asks for huge pages, torch does not: half the time of a new volume
        box = tuple(slice(first, first + size) for first, size in zip(self.start, self.voxels_XYZ.shape, strict=True))
        volume_XYZ[box] = self.voxels_XYZ.numpy()
        return torch.from_numpy(volume_XYZ)


def foreground(codes_XYZ: NDArray[Any], record: SubjectRecord) -> Piece:
    """The box of a scan's codes, or of codes of a part of it, around all that is not their minimum; in the model's range [-1, 1]."""
    codes_ZYX = codes_XYZ.T
    lowest = codes_ZYX.min()
    other_ZYX = codes_ZYX != lowest
    other_YX = other_ZYX.any(axis=0)
    lines = (other_YX.any(axis=0), other_YX.any(axis=1), other_ZYX.reshape(len(other_ZYX), -1).any(axis=1))
    box = tuple(_span(line) for line in lines)
    fill = float(codes_to_model(np.array([lowest]), record)[0])
    starts = (box[0].start, box[1].start, box[2].start)
    x, y, z = codes_XYZ.shape
    return Piece(torch.from_numpy(codes_to_model(codes_XYZ[box], record)), starts, (x, y, z), fill)


def _span(line: NDArray[np.bool_]) -> slice:
    """Where a line is set, and one more on each side if there is one; the first voxel if it is set nowhere."""
    found = np.flatnonzero(line)
    return slice(max(int(found[0]) - 1, 0), int(found[-1]) + 2) if found.size else slice(0, 1)
