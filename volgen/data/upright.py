"""Raw data along the axes of the body and on the voxels of a run: turned, mirrored and cropped in k-space, so nothing is interpolated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.data.fastmri import SliceStack
from volgen.data.raw import RawScan
from volgen.images.geometry import Geometry
from volgen.images.orientation import axes_of

LEAST_CENTRE = 4
"""Phase encodes that the fully measured centre of k-space has along each axis, at least."""
LARGEST_CENTRE = 32
"""Samples of it along an axis from which sensitivities are estimated, at most: they are smooth."""


@dataclass(frozen=True)
class UprightScan:
    """A scan whose image has the axes of the body.

    Attributes:
        kspace_cXYZ: k-space along R, A and S (nearest axes), with its centre at edge // 2.
        mask: bool, which phase encodes were measured, along the two axes that are not the readout.
        readout: array axis of the readout, from 0.
        affine: 4 x 4, voxels of the image -> mm of RAS+.
        noise: standard deviation of a part of the noise.
        stack: slices that were each acquired by themselves; None of a volume.
        slices: array axis across which they lie, from 0; None of a volume.
    """

    kspace_cXYZ: NDArray[np.complex64]
    mask: NDArray[np.bool_]
    readout: int
    affine: NDArray[np.float64]
    noise: float
    stack: SliceStack | None = None
    slices: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the image."""
        _, x, y, z = self.kspace_cXYZ.shape
        return x, y, z


def upright(scan: RawScan, where: str) -> UprightScan:
    """Turns and mirrors a scan; mirrored along an axis, what is at place k of k-space is at -k."""
    order, mirrored = axes_of(scan.affine)
    kspace = scan.kspace_cNPQ.transpose(0, *(1 + axis for axis in order))
    measured = np.broadcast_to(scan.mask_PQ, scan.shape).transpose(order)
    affine = scan.affine.copy()
    affine[:3, :3] = scan.affine[:3, order]
    for axis, turn in enumerate(mirrored):
        if turn:
            edge = kspace.shape[1 + axis]
            kspace, measured = _mirrored(kspace, 1 + axis), _mirrored(measured, axis)
            affine[:3, 3] += 2 * (edge // 2) * affine[:3, axis]
            affine[:3, axis] *= -1
    readout, slices = order.index(0), order.index(2) if scan.stack else None
    mask = np.take(measured, 0, axis=readout)
    return UprightScan(np.ascontiguousarray(kspace), mask, readout, affine, scan.noise, scan.stack, slices)


def on_voxels_of(scan: UprightScan, geometry: Geometry, where: str) -> UprightScan:
    """The centre of k-space that has voxels of the run's size; phase encodes beyond what was acquired count as not measured.

    Slices stay as they are: what they show is their means.

    Raises:
        UserError: the readout is too coarse for the run.
    """
    kspace, mask, affine = scan.kspace_cXYZ, scan.mask, scan.affine.copy()
    phase = [axis for axis in range(3) if axis != scan.readout]
    for axis, (edge, size) in enumerate(zip(scan.shape, geometry.voxel_size, strict=True)):
        if axis == scan.slices:
            continue
        voxel = float(np.linalg.norm(scan.affine[:3, axis]))
        wanted = max(1, round(edge * voxel / size))
        if axis == scan.readout and wanted > edge:
            found = f"has voxels of {voxel:.4g} mm along the readout"
            raise UserError(where, found, f"the run's {size:.4g} mm, or finer", "take a run of coarser voxels")
        kspace = _resized(kspace, 1 + axis, wanted)
        if axis in phase:
            mask = _resized(mask, phase.index(axis), wanted)
        # The middle of the image, voxel edge // 2, stays where it is.
        centre = affine[:3, 3] + affine[:3, axis] * (edge // 2)
        affine[:3, axis] *= edge / wanted
        affine[:3, 3] = centre - affine[:3, axis] * (wanted // 2)
    return replace(scan, kspace_cXYZ=np.ascontiguousarray(kspace), mask=mask, affine=affine)


def calibration(scan: UprightScan, where: str) -> NDArray[np.complex64]:
    """Images [c, X, Y, Z] of the fully measured centre of k-space, as coarse as that is, with the intensities of the whole image.

    Raises:
        UserError: there is none of some size.
    """
    half = [min(LEAST_CENTRE // 2, edge // 2) for edge in scan.mask.shape]
    if not _middle(scan.mask, half).all():
        found = "has no fully measured centre of k-space, from which sensitivities are estimated"
        raise UserError(where, found, f"at least {LEAST_CENTRE} x {LEAST_CENTRE} phase encodes")
    growing = True
    while growing:
        growing = False
        for axis in range(2):
            more = [width + (place == axis) for place, width in enumerate(half)]
            if more[axis] <= scan.mask.shape[axis] // 2 and _middle(scan.mask, more).all():
                half, growing = more, True
    kspace = scan.kspace_cXYZ
    widths = iter(2 * width for width in half)
    wanted = [min(scan.shape[axis], LARGEST_CENTRE) if axis == scan.readout else min(next(widths), LARGEST_CENTRE) for axis in range(3)]
    for axis, width in enumerate(wanted):
        kspace = _resized(kspace, 1 + axis, width)
    scale = float(np.sqrt(np.prod(wanted) / np.prod(scan.shape)))
    moved = np.fft.ifftn(np.fft.ifftshift(kspace, axes=(1, 2, 3)), axes=(1, 2, 3), norm="ortho")
    return (np.fft.fftshift(moved, axes=(1, 2, 3)) * scale).astype(np.complex64)


def _middle(mask: NDArray[np.bool_], half: list[int]) -> NDArray[np.bool_]:
    first, second = (slice(edge // 2 - width, edge // 2 + width) for edge, width in zip(mask.shape, half, strict=True))
    return mask[first, second]


def _mirrored(grid: NDArray[Any], axis: int) -> NDArray[Any]:
    """What was at place k, counted from edge // 2, is at -k."""
    turned: NDArray[Any] = np.roll(np.flip(grid, axis), 1 - grid.shape[axis] % 2, axis)
    return turned


def _resized(grid: NDArray[Any], axis: int, wanted: int) -> NDArray[Any]:
    """The middle of a grid along an axis, or the grid with zeros around it; edge // 2 stays the middle."""
    edge = grid.shape[axis]
    if wanted <= edge:
        first = edge // 2 - wanted // 2
        return grid[(slice(None),) * axis + (slice(first, first + wanted),)]
    before = wanted // 2 - edge // 2
    widths = [(before, wanted - edge - before) if place == axis else (0, 0) for place in range(grid.ndim)]
    return np.pad(grid, widths)
