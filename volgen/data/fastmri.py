"""fastMRI (Zbontar et al. 2018, Knoll et al. 2020): slices that were each acquired by themselves, put into one k-space.

A file has ``kspace``, complex [slices, coils, readout, phase] or, of one coil, [slices, readout, phase]; ``ismrmrd_header``, whose encoded
space is that of one slice; and, in files of the challenge, ``mask`` [phase]. It does not say where slices lie, in which directions they
were acquired, or how far one is from the next. Along the slices k-space is complete by construction: a unitary transform of slices that
are all there, in which white noise stays white.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.core.limits import grid_fits
from volgen.data.hdf5 import RawFile
from volgen.data.ismrmrd import header_of

ORIENTATION = "PLS"
"""Where readout, phase encode and slices lead if nobody says so: images as viewers show axial slices, from the lowest up."""
LETTERS = {"R": (0, 1.0), "L": (0, -1.0), "A": (1, 1.0), "P": (1, -1.0), "S": (2, 1.0), "I": (2, -1.0)}
LEAST_SLICES = 4


@dataclass(frozen=True)
class SliceStack:
    """Slices that were each acquired by themselves.

    Attributes:
        thickness: how thick a slice is, in mm.
        spacing: how far it is from the middle of a slice to that of the next, in mm.
    """

    thickness: float
    spacing: float


@dataclass(frozen=True)
class AcquiredSlices:
    """A file of slices.

    Attributes:
        kspace_cNPQ: complex64, with the centre of k-space at edge // 2 of N, P and Q, and zeros where nothing was measured.
        mask_PQ: bool, which phase encodes were measured.
        affine: 4 x 4, voxels of the images [N, P, slice] -> mm of RAS+, with the middle of the stack in the origin.
        readout: voxels of the image along the readout.
        stack: how slices lie.
    """

    kspace_cNPQ: NDArray[np.complex64]
    mask_PQ: NDArray[np.bool_]
    affine: NDArray[np.float64]
    readout: int
    stack: SliceStack


def is_fastmri(file: RawFile) -> bool:
    """Whether a file has this form."""
    return file.has("kspace") and file.has("ismrmrd_header")


def read_fastmri(file: RawFile, orientation: str | None = None, spacing: float | None = None) -> AcquiredSlices:
    """Reads the slices.

    Args:
        file: HDF5 that is open.
        orientation: where readout, phase encode and slices lead, such as PLS; :data:`ORIENTATION` if None.
        spacing: mm from a slice to the next; their thickness if None.

    Raises:
        UserError: an array or the header has another form, or the orientation is none.
    """
    where = str(file.path)
    what = "fastMRI: 'kspace', complex [slices, coils, readout, phase], and an ISMRMRD header of one slice"
    shape = file.shape("kspace")
    sizes = (*shape[:1], 1, *shape[1:]) if len(shape) == 3 else shape
    if len(sizes) != 4 or 0 in sizes:
        raise UserError(where, f"has a k-space of {list(shape)}", what)
    count, coils, n, p = sizes
    if count < LEAST_SLICES or not grid_fits((n, p, count)) or coils > 1024:
        raise UserError(where, f"has {count} slices of {n} x {p} samples and {coils} coils", f"{LEAST_SLICES} slices or more")
    header = header_of(file.read("ismrmrd_header"), where, slices=True)
    kspace = file.read("kspace")
    if not np.iscomplexobj(kspace):
        raise UserError(where, f"has a k-space of {kspace.dtype}", what)
    kspace = kspace.reshape(sizes).astype(np.complex64)
    measured = (kspace != 0).any(axis=(0, 1, 2))
    if file.has("mask"):
        said = file.read("mask").reshape(-1)
        if said.shape != (p,):
            raise UserError(where, f"has a mask of {list(said.shape)}", f"one number for each of {p} phase encodes")
        measured &= said.astype(bool)
    kspace = np.where(measured, kspace, 0)
    thickness = header.field_mm[2]
    stack = SliceStack(thickness, thickness if spacing is None else spacing)
    if not 0.0 < stack.spacing < 100.0:
        raise UserError("--spacing", f"{stack.spacing:g} mm", "a positive number of mm")
    directions = _directions(ORIENTATION if orientation is None else orientation)
    if directions[:, 2].sum() < 0.0:  # a stack has two ends, and no k-space in which to turn it
        kspace, directions = kspace[::-1], directions * [1.0, 1.0, -1.0]
    c_NPQ = np.moveaxis(kspace, 0, -1)
    c_NPQ = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(c_NPQ, axes=-1), axis=-1, norm="ortho"), axes=-1)
    steps = np.array([header.field_mm[0] / n, header.field_mm[1] / p, stack.spacing])
    affine = np.eye(4)
    affine[:3, :3] = directions * steps
    affine[:3, 3] = -affine[:3, :3] @ [n // 2, p // 2, (count - 1) / 2]
    mask = np.repeat(measured[:, None], count, axis=1)
    readout = min(n, max(1, round(header.readout * n / header.matrix[0])))
    return AcquiredSlices(np.ascontiguousarray(c_NPQ, dtype=np.complex64), mask, affine, readout, stack)


def _directions(orientation: str) -> NDArray[np.float64]:
    """Columns: where each of three letters leads, in RAS+."""
    axes = [LETTERS[letter][0] for letter in orientation.upper() if letter in LETTERS]
    if len(orientation) != 3 or sorted(axes) != [0, 1, 2]:
        raise UserError("--orientation", f"'{orientation}'", "three letters, one each of R or L, A or P, S or I, such as PLS")
    found = np.zeros((3, 3))
    for column, letter in enumerate(orientation.upper()):
        axis, sign = LETTERS[letter]
        found[axis, column] = sign
    return found
