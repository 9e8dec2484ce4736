"""A volume: voxels and the affine that says where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray


def edges(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Edge lengths of a voxel in mm, in the order of its axes, by the affine that maps voxels to mm."""
    x, y, z = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z


def shear(affine: NDArray[np.float64]) -> float:
    """Largest cosine between two axes of a voxel -> mm affine [4, 4] without axes of length 0: 0 where all are at right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


@dataclass(frozen=True)
class Volume:
    """A 3D image in scanner units.

    Attributes:
        voxels: array [X, Y, Z]; any real dtype.
        affine: 4 x 4 float64, voxel indices -> millimetres in RAS+ world space (the NIfTI convention).
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        x, y, z = self.voxels.shape
        return x, y, z

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel in mm, in axis order."""
        return edges(self.affine)

    @property
    def orientation(self) -> str:
        """Closest anatomical axis codes, such as ``RAS`` or ``LIA``."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    def reoriented(self, codes: str) -> Volume:
        """The same image with axes flipped and permuted to ``codes``; no voxel is interpolated, the affine follows exactly."""
        here = nib.orientations.io_orientation(self.affine)
        there = nib.orientations.axcodes2ornt(codes)
        change = nib.orientations.ornt_transform(here, there)
        voxels = nib.orientations.apply_orientation(self.voxels, change)
        affine = self.affine @ nib.orientations.inv_ornt_aff(change, self.voxels.shape)
        return Volume(np.ascontiguousarray(voxels), affine)
