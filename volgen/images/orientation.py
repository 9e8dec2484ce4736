"""Where a NIfTI file says that its voxels lie: the sform if it has one, else the qform, and whether the two agree."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from volgen.core.errors import UserError

_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_LONGEST_QUATERNION = 1.01
"""Length of (b, c, d) beyond which it is not rounding that made it longer than 1: no rotation has such a quaternion."""
_APART = 0.5
"""Voxels by which the sform's corners may lie away from the qform's before a note is made."""


def of_nifti(path: Path, head: Any) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Voxel -> mm [4, 4] of a NIfTI header, and what is odd about it.

    The sform counts where its code is above 0, as in nibabel, FSL and AFNI; else the qform.

    Raises:
        UserError: neither is there, the quaternion is no rotation, or the two contradict each other about left and right.
    """
    scale = _MILLIMETRES.get(int(head["xyzt_units"]) & 7, 1.0)
    sform, qform = int(head["sform_code"]), int(head["qform_code"])
    if sform <= 0 and qform <= 0:
        found = "states no orientation (sform_code and qform_code are 0), so left and right cannot be told apart"
        raise UserError(str(path), found, "an sform or a qform", "set one, for example with fslorient or nibabel")
    if sform <= 0:
        affine = _qform(path, head)
        affine[:3] *= scale
        return affine, ()
    affine = np.eye(4)
    affine[:3] = [head["srow_x"], head["srow_y"], head["srow_z"]]
    notes = _disagreement(path, head, affine) if qform > 0 else ()
    affine[:3] *= scale
    return affine, notes


def axes_of(affine: NDArray[np.float64]) -> tuple[list[int], list[bool]]:
    """Which array axis is the nearest to R, to A and to S, and whether it runs the other way, by a voxel -> mm affine [4, 4]."""
    found = nib.orientations.io_orientation(affine)
    order = [int(np.flatnonzero(found[:, 0] == axis)[0]) for axis in range(3)]
    return order, [bool(found[axis, 1] < 0) for axis in order]


def _qform(path: Path, head: Any) -> NDArray[np.float64]:
    """The qform; a quaternion a little too long for a rotation (headers hold float32) is one of 180 degrees, as nifti_clib has it."""
    quaternion = np.array([float(head[f"quatern_{name}"]) for name in "bcd"])
    length = float(np.linalg.norm(quaternion))
    if not length <= _LONGEST_QUATERNION:  # NaN too
        raise UserError(str(path), f"has a qform that is no rotation (its quaternion has length {length:.4g})", "a quaternion of at most 1")
    real = math.sqrt(max(0.0, 1.0 - length**2))
    affine = np.eye(4)
    # A negative voxel size is a slip: only pixdim[0] mirrors, the others are lengths.
    sizes = np.abs(np.array(head["pixdim"][1:4], dtype=np.float64))
    if head["pixdim"][0] < 0:
        sizes[2] = -sizes[2]
    affine[:3, :3] = nib.quaternions.quat2mat([real, *quaternion]) * sizes
    affine[:3, 3] = [float(head[f"qoffset_{name}"]) for name in "xyz"]
    return affine


def _disagreement(path: Path, head: Any, affine: NDArray[np.float64]) -> tuple[str, ...]:
    """What the qform says against the sform that is used.

    A registration turns and shifts, and may do so by much; it never mirrors. So where one is the mirror image of the other, or the same
    space (equal codes) has other axes, one of them is wrong, and nobody can tell which.
    """
    try:
        other = _qform(path, head)
    except UserError as error:
        return (f"its qform is not usable ({error.found}); the sform is taken",)
    if not (np.isfinite(affine).all() and np.isfinite(other).all()):
        return ()
    sizes, others = np.linalg.norm(affine[:3, :3], axis=0), np.linalg.norm(other[:3, :3], axis=0)
    if min(sizes.min(), others.min()) < 1e-6:  # an sform like that is refused anyway; a qform like that says nothing
        return ()
    same = int(head["sform_code"]) == int(head["qform_code"])
    axes, others_axes = ("".join(nib.orientations.aff2axcodes(a)) for a in (affine, other))
    if np.linalg.det(affine[:3, :3]) * np.linalg.det(other[:3, :3]) < 0 or (same and axes != others_axes):
        found = f"contradicts itself: its axes are {axes} by the sform, {others_axes} by the qform, so left and right cannot be told apart"
        raise UserError(str(path), found, "an sform and a qform that agree", "set the one that is right, for example with fslorient")
    if axes != others_axes:
        return (f"its axes are {axes} by the sform, {others_axes} by the qform; the sform is taken",)
    dims = np.array(head.get_data_shape()[:3], dtype=np.float64)
    corners = np.array([[x, y, z, 1.0] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)]) * [*(dims - 1), 1.0]
    away = float(np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1).max())
    if same and away > _APART * float(sizes.min()):
        return (f"its sform and qform have the same code and lie up to {away:.3g} apart; the sform is taken",)
    return ()
