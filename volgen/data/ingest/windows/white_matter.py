"""The same value for everybody's white matter, whatever the scanner called it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat
from scipy import ndimage

from volgen.core.config import Config as BaseConfig
from volgen.images.blocks import padded_block_means, voxels_in
from volgen.images.intensity import IntensityMap
from volgen.images.volume import Volume

EDGE = 4.0
"""Edge in mm of the blocks on which depth is measured."""
RIM = 0.25
"""Share of the foreground's mean brightness from which a block is the head's."""
GAP = 8.0
"""Half of what may be between tissue and tissue of one head, in mm: fluid and bone are dark."""
BINS = 512
SMOOTH = 0.02
"""Standard deviation of the kernel, as a share of the histogram's range."""
TAIL = 99.5
"""Percentile that the histogram reaches to, and a quarter beyond."""
MAIN = 0.35
"""Height of a main mode, as a share of the highest."""
BRIGHTER, MOST_BRIGHTER = 1.3, 0.15
"""Factor over the mode by which nearly nothing of T1w brains is brighter, of whole heads fat and marrow; and how much may be."""
AT, DARKER = (0.92, 1.08), (0.4, 0.85)
"""What is as bright as white matter, and what is darker tissue, over the mode."""
DEEPER = 1.05
"""How many times as deep white matter is as darker tissue, on average and at least: 1.5 of T1w brains; below 1 where grey is brighter."""
FEWEST = 100
"""Voxels that make a histogram."""


class Config(BaseConfig):
    """Air is 0 and white matter ``at``: from the 0.1st percentile of all voxels, so that the brightest main mode of T1w tissue is there.

    The mode is that of a smoothed histogram, as in WhiteStripe (Shinohara et al. 2014, NeuroImage: Clinical 6:9) and Reinhold et al. 2019
    (SPIE 10949), but of voxels far inside the head, as the scan came: there most is white matter, and no fat of the scalp.
    """

    kind: Literal["white_matter"] = "white_matter"
    at: float = Field(default=0.75, ge=0.2, le=0.95)
    """Value of white matter, in [0, 1]: what is brighter than it by more than 1 / ``at`` is cut off. Of T1w brains the default cuts one
    voxel of 100,000; whole heads have fat that is twice as bright."""
    depth: PositiveFloat = 15.0
    """How far inside of the head voxels are looked at, in mm."""

    def of(self, scan: Volume, stored: Volume) -> IntensityMap:
        """The window of a scan as it is stored.

        Args:
            scan: on its own grid, in the same units.
            stored: on the store's.

        Raises:
            ValueError: there is no mode that can be white matter: another contrast than T1w, or no head.
        """
        low = float(np.percentile(stored.voxels, 0.1))
        mode = self.mode(scan)
        if mode <= low:
            raise ValueError(_none("the brightest tissue is as dark as air"))
        return IntensityMap(low, low + (mode - low) / self.at)

    def mode(self, scan: Volume) -> float:
        """Brightness of white matter, in the scan's units.

        Raises:
            ValueError: there is no mode that can be it.
        """
        air = float(np.percentile(scan.voxels, 0.1))
        above = scan.voxels.astype(np.float32) - np.float32(air)
        depths = _depths(above, scan.voxel_size)
        values = above[depths > self.depth]
        if values.size < FEWEST:
            raise ValueError(_none(f"only {values.size} voxels are {self.depth:g} mm inside of a head"))
        mode = _brightest_main_mode(values)
        brighter = float(np.mean(values > BRIGHTER * mode))
        if brighter > MOST_BRIGHTER:
            raise ValueError(_none(f"{brighter:.0%} of what is inside is brighter than the brightest main mode by {BRIGHTER - 1:.0%}"))
        white, grey = (depths[(above > low * mode) & (above < high * mode) & (depths > 0)] for low, high in (AT, DARKER))
        if grey.size and white.mean() <= DEEPER * grey.mean():
            raise ValueError(_none("what is brightest is not deeper inside than what is darker"))
        return air + mode


def _depths(above: NDArray[np.float32], voxel_size: tuple[float, float, float]) -> NDArray[np.float32]:
    """Distance of each voxel from the surface of the head, in mm, 0 outside; whole blocks alike."""
    edges = [voxels_in(size, EDGE) for size in voxel_size]
    block = [size * edge for size, edge in zip(voxel_size, edges, strict=True)]
    means = padded_block_means(above, edges)
    bright = means[means > means.mean()]
    if not bright.size:
        return np.zeros_like(above)
    reach = [round(GAP / edge) for edge in block]
    padded = np.pad(means > RIM * bright.mean(), [(1 + 2 * size, 1 + 2 * size) for size in reach])
    closed = ndimage.binary_closing(padded, structure=np.ones([2 * size + 1 for size in reach], dtype=np.bool_))
    found = ndimage.distance_transform_edt(ndimage.binary_fill_holes(closed), sampling=block)
    depths: NDArray[np.float32] = found.astype(np.float32)[tuple(slice(1 + 2 * size, -1 - 2 * size) for size in reach)]
    for axis, edge in enumerate(edges):
        depths = depths.repeat(edge, axis=axis)
    x, y, z = above.shape
    return depths[:x, :y, :z]


def _brightest_main_mode(values: NDArray[np.float32]) -> float:
    top = 1.25 * float(np.percentile(values, TAIL))
    if top <= 0:
        raise ValueError(_none("nothing inside is brighter than air"))
    counts, ends = np.histogram(values, BINS, (0.0, top))
    smooth = np.pad(ndimage.gaussian_filter1d(counts.astype(np.float64), SMOOTH * BINS, mode="constant"), 1)
    middle = smooth[1:-1]
    modes = np.flatnonzero((middle > smooth[:-2]) & (middle >= smooth[2:]) & (middle > MAIN * middle.max()))
    before, here, after = smooth[modes[-1] : modes[-1] + 3]
    shift = 0.5 * (before - after) / (before - 2 * here + after)  # the top of the parabola through three bins
    return float(ends[0] + (modes[-1] + 0.5 + shift) * (ends[1] - ends[0]))


def _none(why: str) -> str:
    return f"no mode of its brightness can be the white matter of a T1w head: {why}; use --window robust for other contrasts"
