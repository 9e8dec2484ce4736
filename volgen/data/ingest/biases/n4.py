"""N4: the smooth field by which a scan is brighter here than there is found and divided out."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from volgen.core.config import Config as BaseConfig
from volgen.data.ingest.itk import one_thread, to_itk
from volgen.data.ingest.lines import along, linear
from volgen.images.blocks import block_affine, padded_block_means, voxels_in
from volgen.images.volume import Volume

ORDER = 3
"""Degree of the splines."""


class Config(BaseConfig):
    """N4 of Tustison et al. 2010 (IEEE TMI 29:1310): cubic splines of ever finer meshes, whose removal makes the histogram sharpest.

    The field is found on means over blocks of the foreground (voxels above the mean), and divided out of every voxel, counted from the
    lowest. Its geometric mean over the foreground is 1, so a scan keeps its units.
    """

    kind: Literal["n4"] = "n4"
    voxel_size: PositiveFloat = 4.0
    """Edge in mm of the blocks on which the field is found, as near as whole voxels come to it from below."""
    spline_distance: PositiveFloat = 200.0
    """Distance in mm of the splines' knots at first; it is halved with every level."""
    iterations: tuple[PositiveInt, ...] = Field(default=(50, 50, 50, 50), min_length=1, max_length=8)
    """Most steps at each level."""
    convergence: float = Field(default=1e-3, ge=0.0, le=0.1)
    """Change of the field (coefficient of variation of its ratio) below which a level ends."""

    def corrected(self, volume: Volume) -> Volume:
        """The scan without its field, float32."""
        low = float(volume.voxels.min())
        above = volume.voxels.astype(np.float32) - np.float32(low)
        foreground = above > above.mean()
        edges = [voxels_in(size, self.voxel_size) for size in volume.voxel_size]
        field = self._field(Volume(above, volume.affine), edges)
        for axis, edge in enumerate(edges):
            field = along(field, axis, linear((np.arange(volume.shape[axis]) + 0.5) / edge - 0.5, field.shape[axis]))
        field -= field[foreground].mean(dtype=np.float64)
        np.divide(above, np.exp(field), out=above)
        return Volume(above + np.float32(low), volume.affine)

    def _field(self, above: Volume, edges: list[int]) -> NDArray[np.float32]:
        """Logarithm of the field at the centres of blocks."""
        means = padded_block_means(above.voxels, edges)
        image = to_itk(Volume(means, block_affine(above.affine, edges)))
        mask = sitk.GetImageFromArray((means > means.mean()).T.astype(np.uint8))
        mask.CopyInformation(image)
        work: Any = sitk.N4BiasFieldCorrectionImageFilter()
        work.SetNumberOfThreads(1)
        work.SetMaximumNumberOfIterations(list(self.iterations))
        work.SetConvergenceThreshold(self.convergence)
        work.SetSplineOrder(ORDER)
        extent = np.asarray(means.shape) * np.asarray(image.GetSpacing())
        work.SetNumberOfControlPoints([math.ceil(length / self.spline_distance) + ORDER for length in extent])
        with one_thread():
            work.Execute(image, mask)
            found: NDArray[np.float32] = sitk.GetArrayFromImage(work.GetLogBiasFieldAsImage(image)).T
        return found
