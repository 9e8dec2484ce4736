"""What rigid and affine registration share: a search from the centres of mass, coarse before fine, that is the same on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from volgen.core.config import Config
from volgen.data.ingest.itk import matrix_of, one_thread, to_itk
from volgen.images.blocks import block_affine, padded_block_means, voxels_in
from volgen.images.volume import Volume

COARSE = 2
"""Times the voxels' edge at which the search begins."""
BINS = 32
"""Bins of the joint histogram, along each axis."""
SHORTEST = 1e-3
"""Step in mm at which a search ends."""


class LinearConfig(Config):
    """Settings of a registration by Mattes' mutual information (Mattes et al. 2003, IEEE TMI 22:120)."""

    template: str = Field(default="cohort", min_length=1)
    """Image whose frame it is; ``pretrained:NAME`` for that of a model of the package; or ``cohort``: a symmetric mean of the training
    people, made first; private training refuses that."""
    people: PositiveInt = 32
    """Most training people of whom a template of the cohort is made."""
    rounds: PositiveInt = 3
    """How often a template of the cohort is registered to and made anew."""
    voxel_size: PositiveFloat = 4.0
    """Edge in mm of the voxels that are compared, as near as whole voxels come to it from below."""
    iterations: PositiveInt = 200
    """Most steps at each of two resolutions."""


def search(scan: Volume, template: Volume, config: LinearConfig, transforms: list[Any]) -> NDArray[np.float64]:
    """Where the template's points are in a scan.

    Args:
        scan: RAS+.
        template: RAS+.
        config: how long, and on which voxels.
        transforms: kinds of motion, each of which begins where the one before has ended.

    Returns:
        4 x 4, mm of the template -> mm of the scan.
    """
    fixed, moving = (to_itk(_coarser(volume, config.voxel_size)) for volume in (template, scan))
    with one_thread():
        first = sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS)
        found = sitk.Euler3DTransform(first)
        centre = found.GetCenter()
        for kind in transforms:
            transform = kind(found, centre)
            work = sitk.ImageRegistrationMethod()
            work.SetNumberOfThreads(1)
            work.SetMetricAsMattesMutualInformation(BINS)
            work.SetMetricSamplingStrategy(work.NONE)
            work.SetInterpolator(sitk.sitkLinear)
            work.SetOptimizerAsRegularStepGradientDescent(2.0, SHORTEST, config.iterations, 0.5, 1e-8)
            work.SetOptimizerScalesFromPhysicalShift()
            work.SetShrinkFactorsPerLevel([COARSE, 1])
            work.SetSmoothingSigmasPerLevel([COARSE * config.voxel_size / 2, 0.0])
            work.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
            work.SetInitialTransform(transform, inPlace=True)
            work.Execute(fixed, moving)
            found = transform
    return matrix_of(found)


def rigid(found: Any, centre: Any) -> Any:
    """Turns and shifts."""
    return sitk.Euler3DTransform(found)


def affine(found: Any, centre: Any) -> Any:
    """Turns, shifts, scales and shears."""
    transform = sitk.AffineTransform(3)
    transform.SetCenter(centre)
    transform.SetMatrix(found.GetMatrix())
    transform.SetTranslation(found.GetTranslation())
    return transform


def _coarser(volume: Volume, size: float) -> Volume:
    edges = [voxels_in(edge, size) for edge in volume.voxel_size]
    return Volume(padded_block_means(volume.voxels.astype(np.float32), edges), block_affine(volume.affine, edges))
