"""The frame of a cohort: each scan's own, or that of a template into which all are brought."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.core.protocols import Shape3
from volgen.data.ingest.grid import bounded, conform, kept, splits
from volgen.data.ingest.itk import interpolated, to_itk
from volgen.data.ingest.preprocess import IngestConfig
from volgen.images import nifti
from volgen.images.blocks import block_means
from volgen.images.volume import Volume

TEMPLATE = "template.nii.gz"
"""File of a store whose scans were brought into a frame: what they were registered to."""


@dataclass(frozen=True)
class Conformed:
    """A scan on the cohort's grid.

    Attributes:
        volume: its voxels, and where they are in the cohort's frame.
        source: 4 x 4, voxels -> mm of the scan's own frame; None where the affine says that.
        kept: share of the foreground that the grid holds.
    """

    volume: Volume
    source: NDArray[np.float64] | None
    kept: float


class Frame(Protocol):
    """Where scans are brought."""

    def take(self, scan: Volume) -> Conformed:
        """A scan on the grid of the cohort, resampled once."""


@dataclass(frozen=True)
class OwnFrames:
    """Each scan stays in its own frame; its grid is cut out along its own axes."""

    config: IngestConfig

    def take(self, scan: Volume) -> Conformed:
        """A scan on a grid along its own axes."""
        volume = conform(scan, self.config)
        return Conformed(volume, None, kept(scan, volume))


class SharedFrame:
    """All scans are registered to a template, and have one grid: along the axes of its frame, about its middle.

    Args:
        template: what is registered to.
        config: the grid, and how it is done.

    Attributes:
        shape: voxels of the grid.
        affine: its voxels -> mm of the template's frame.
    """

    def __init__(self, template: Volume, config: IngestConfig) -> None:
        assert config.shape is not None and config.voxel_size is not None, "IngestConfig refuses a registration without a grid"
        self._template, self._config = template, config
        self.shape: Shape3 = config.shape
        middle = _box_middle(template) if config.centre == "foreground" else (np.asarray(template.shape) - 1) / 2
        self.affine = np.diag([config.voxel_size] * 3 + [1.0])
        # A thousandth of a mm: the middle of a symmetric template is 0, not what sums of floats leave of it.
        centre = np.round(template.affine[:3, :3] @ middle + template.affine[:3, 3], 3)
        self.affine[:3, 3] = centre - config.voxel_size * (np.asarray(config.shape) - 1) / 2

    def take(self, scan: Volume) -> Conformed:
        """A scan in the template's frame."""
        matrix = self._config.registration.matrix(scan, self._template)
        source = matrix @ self.affine
        volume = Volume(on_grid(scan, source, self.shape, linear=self._config.resampling == "linear"), self.affine)
        foreground = np.argwhere(scan.voxels > scan.voxels.mean())
        to_grid = np.linalg.solve(source, scan.affine)
        places = foreground @ to_grid[:3, :3].T + to_grid[:3, 3]
        inside = (places >= -0.5) & (places <= np.asarray(self.shape) - 0.5)
        return Conformed(volume, source, float(inside.all(axis=1).mean()))


def on_grid(scan: Volume, source: NDArray[np.float64], shape: Shape3, *, linear: bool = False) -> NDArray[np.float32]:
    """A scan's values on any grid, through one interpolation: means over new voxels, in as many parts as old ones are smaller.

    Args:
        scan: the scan.
        source: 4 x 4, voxels of the new grid -> mm of the scan's frame.
        shape: voxels of the new grid.
        linear: whether trilinear interpolation does it, instead of cubic splines.

    Returns:
        [X, Y, Z]; the scan's minimum outside of it.
    """
    low, high = float(scan.voxels.min()), float(scan.voxels.max())
    parts = np.array([splits(float(r)) for r in np.linalg.norm(np.linalg.solve(scan.affine, source)[:3, :3], axis=0)])
    finer = np.diag([*(1 / parts), 1.0])
    finer[:3, 3] = -(parts - 1) / (2 * parts)
    # ITK wants axes at right angles of its grid, and any matrix of its transform: so the grid is that of voxels.
    unit, many = np.eye(4), [int(n * p) for n, p in zip(shape, parts, strict=True)]
    edges = [int(p) for p in parts]

    def values(voxels: NDArray[Any], fill: float, interpolator: int) -> NDArray[np.float32]:
        image = to_itk(Volume(voxels, scan.affine))
        return block_means(interpolated(image, source @ finer, many, unit, interpolator, fill), edges)

    inside = values(scan.voxels > low, 0.0, sitk.sitkLinear)
    return bounded(values(scan.voxels, low, sitk.sitkLinear if linear else sitk.sitkBSpline), inside, low, high)


def open_frame(store: Path, config: IngestConfig) -> Frame:
    """The frame of a store's scans.

    Raises:
        UserError: its template cannot be read.
    """
    return OwnFrames(config) if config.registration.template is None else SharedFrame(read_template(store / TEMPLATE), config)


def read_template(path: Path) -> Volume:
    """An image to register to, RAS+.

    Raises:
        UserError: it cannot be read, or holds nothing.
    """
    template = nifti.read(path)
    if float(template.voxels.min()) == float(template.voxels.max()):
        raise UserError(str(path), "is one value everywhere", "an image to register to")
    return template


def _box_middle(volume: Volume) -> NDArray[np.float64]:
    """Middle of the box around the foreground, in voxels."""
    foreground = volume.voxels > volume.voxels.mean()
    middle = []
    for axis in range(3):
        there = np.flatnonzero(foreground.any(axis=tuple(a for a in range(3) if a != axis)))
        middle.append((there[0] + there[-1]) / 2)
    return np.array(middle)
