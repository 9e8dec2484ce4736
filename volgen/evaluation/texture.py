"""Numbers of the texture of a brain, for a classifier: what its tissue is like at several scales, whatever its contrast and shading."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.scan import HeadScan
from volgen.evaluation.tissue import Image, Mask, Tissue, Triple
from volgen.images.blocks import voxels_in

BLOCKS_MM = (2.0, 4.0)
WINDOWS = (1.0, 2.0, 4.0)
"""Standard deviations, in blocks, that the bands end at."""
DEPTHS_MM = (6.0, 10.0, 16.0, 24.0)
SMALLEST = 1e-9
Vector = NDArray[np.float64]


def texture(unit: Image, mask: Mask, voxel_size: Triple) -> Vector:
    """Numbers of a volume on blocks of 2 and of 4 mm, or on voxels that are larger.

    For each: mean and spread of how much a place is a sheet and how much a fold; the mean size of the local contrast; of three bands of
    the brightness (differences of Gaussians) the logarithms of energy and kurtosis, and skewness; of two neighbouring ones the
    correlations of magnitudes, and of the values of the finer with the magnitudes of the coarser (Portilla and Simoncelli 2000); and how
    brightness changes from each of four depths to the next.

    Args:
        unit: [X, Y, Z] in [0, 1].
        mask: the head; there has to be one.
        voxel_size: mm.
    """
    scan = HeadScan(unit, mask, voxel_size)
    blocks = {tuple(voxels_in(edge, pixel) for edge in voxel_size): pixel for pixel in BLOCKS_MM}  # of larger voxels both are the same
    return np.array([number for pixel in blocks.values() for number in _numbers(scan.tissue(pixel))])


def _numbers(tissue: Tissue) -> Iterator[float]:
    for part in tissue.shapes(1.0):
        yield from (float(part.mean()), float(part.std()))
    z = tissue.contrast[0][tissue.core]
    yield float(np.abs(z - z.mean()).mean() / max(float(z.std()), SMALLEST))
    edge = float(np.mean(tissue.edges))
    smooth = [tissue.brightness, *(tissue.near(tissue.brightness, window * edge) for window in WINDOWS)]
    bands = [(fine - coarse)[tissue.core].astype(np.float64) for fine, coarse in pairwise(smooth)]
    for band in bands:
        energy = max(float(np.mean(band**2)), SMALLEST**2)
        centred = (band - band.mean()) / np.sqrt(energy)
        yield from (0.5 * np.log(energy), float(np.mean(centred**3)), float(np.log(max(float(np.mean(centred**4)), SMALLEST))))
    for fine, coarse in pairwise(bands):
        yield from (_correlation(np.abs(fine), np.abs(coarse)), _correlation(fine, np.abs(coarse)))
    shells = [tissue.mask & (tissue.depth > outer) & (tissue.depth <= inner) for outer, inner in pairwise((*DEPTHS_MM, np.inf))]
    levels = [float(tissue.brightness[shell].mean()) if shell.any() else 1.0 for shell in shells]
    yield from (deep - near for near, deep in pairwise(levels))


def _correlation(a: Vector, b: Vector) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b) / max(float(np.sqrt((a @ a) * (b @ b))), SMALLEST)
