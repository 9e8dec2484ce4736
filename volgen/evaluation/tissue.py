"""What a brain is made of, apart from how it was scanned: its brightness freed of smooth shading, on voxels of a few millimetres.

Legend: core, the inside of the head but for its rim, which depends on how a brain was stripped; deep, what is further inside than cortex.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volgen.images.blocks import padded_block_means, voxels_in

SHADING_MM = 24.0
"""Standard deviation of the window whose mean brightness counts as shading."""
NEIGHBOURHOOD_MM = 8.0
"""Standard deviation of the window in which tissues are compared: it holds grey and white matter nearly everywhere."""
RIM_MM, DEEP_MM = 4.0, 10.0
REACH = 3.0
"""Windows end at this many standard deviations."""
SMALLEST = 1e-6
FEWEST = 64
Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Triple = tuple[float, float, float]


class Tissue:
    """The inside of a head.

    Attributes:
        factors: voxels of the volume in a block along each axis.
        edges: edges of a block in mm.
        mask: [X, Y, Z] the head, in blocks, cropped to its box.
        brightness: brightness over its mean in a window of 24 mm, 1 on average; what is outside the head has the mean of what is near.
        depth: mm to the outside of the head.
        core: the head without 4 mm, and at least one block, of its rim.
        deep: the core more than 10 mm from the outside.
    """

    def __init__(self, unit: Image, mask: Mask, voxel_size: Triple, pixel: float) -> None:
        """Averages over blocks, and takes the shading off.

        Args:
            unit: [X, Y, Z] in [0, 1], the head's box.
            mask: the head.
            voxel_size: mm.
            pixel: longest edge of a block in mm.
        """
        r, a, s = (voxels_in(size, pixel) for size in voxel_size)
        self.factors = (r, a, s)
        self.edges: Triple = (r * voxel_size[0], a * voxel_size[1], s * voxel_size[2])
        blocks = padded_block_means(unit, self.factors)
        self.mask: Mask = padded_block_means(mask.astype(np.float32), self.factors) > 0.5
        self._weight = self.mask.astype(np.float32)
        shading = self.near(blocks, SHADING_MM)
        level = SMALLEST + 0.01 * float(np.vdot(blocks, self._weight)) / max(float(self._weight.sum()), 1.0)
        inside: Image = np.divide(blocks, np.maximum(shading, level), dtype=np.float32)
        self.brightness: Image = np.where(self.mask, inside, self.near(inside, RIM_MM))
        depth = ndimage.distance_transform_edt(np.pad(self.mask, 1), sampling=self.edges)[1:-1, 1:-1, 1:-1]
        self.depth: Image = depth.astype(np.float32)
        self.core = _enough(depth > max(RIM_MM, 1.01 * max(self.edges)), self.mask)
        self.deep = _enough(depth > DEEP_MM, self.core)
        self._shapes: dict[float, NDArray[np.float64]] = {}

    def near(self, values: Image, millimetres: float, weight: Image | None = None) -> Image:
        """The mean of values in a Gaussian window around each block, of what is inside the head alone.

        Args:
            values: [X, Y, Z].
            millimetres: standard deviation of the window.
            weight: [X, Y, Z] what counts, in place of the head.
        """
        weight = self._weight if weight is None else weight
        sizes = [millimetres / edge for edge in self.edges]
        counted = ndimage.gaussian_filter(weight, sizes, truncate=REACH)
        mean: Image = ndimage.gaussian_filter(values * weight, sizes, truncate=REACH) / np.maximum(counted, 1e-3)
        return mean

    @cached_property
    def contrast(self) -> tuple[Image, Image]:
        """Brightness in standard deviations from the mean of what is within some 8 mm, and that standard deviation.

        Below 0 is grey matter, above it white matter.
        """
        mean = self.near(self.brightness, NEIGHBOURHOOD_MM)
        spread: Image = np.sqrt(np.maximum(self.near((self.brightness - mean) ** 2, NEIGHBOURHOOD_MM), SMALLEST))
        return (self.brightness - mean) / spread, spread

    @cached_property
    def slopes(self) -> Image:
        """Change of the brightness per mm along each axis, [3, X, Y, Z]."""
        found = np.zeros((3, *self.mask.shape), np.float32)
        for axis, edge in enumerate(self.edges):
            if self.mask.shape[axis] > 1:
                found[axis] = np.gradient(self.brightness, edge, axis=axis)
        return found

    def shapes(self, window: float) -> NDArray[np.float64]:
        """How much each place of the core is a sheet, and how much a fold: [2, places], by the structure tensor.

        Of its eigenvalues l1 >= l2 >= l3 these are l1 - l2 and l2 - l3 over their sum (:mod:`volgen.evaluation.volumes.folds`).

        Args:
            window: standard deviation of the window in blocks.
        """
        if window not in self._shapes:
            size = window * float(np.mean(self.edges))
            tensor = np.empty((int(np.count_nonzero(self.core)), 3, 3), np.float32)
            for a in range(3):
                for b in range(a, 3):
                    tensor[:, a, b] = tensor[:, b, a] = self.near(self.slopes[a] * self.slopes[b], size, self.inner)[self.core]
            third, second, first = np.linalg.eigvalsh(tensor).astype(np.float64).T
            self._shapes[window] = np.stack([first - second, second - third]) / np.maximum(first + second + third, SMALLEST**2)
        return self._shapes[window]

    @cached_property
    def inner(self) -> Image:
        """1 in the head without the blocks beside its rim, whose slopes are those of the outline; 0 elsewhere."""
        return _enough(ndimage.binary_erosion(self.mask), self.mask).astype(np.float32)


def _enough(part: Mask, whole: Mask) -> Mask:
    """A part; the whole where the part has next to nothing."""
    return part if np.count_nonzero(part) >= max(FEWEST, 0.02 * np.count_nonzero(whole)) else whole
