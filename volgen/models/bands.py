"""How much people differ in each band of an orthonormal Haar pyramid: what decides at which noise a band shows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volgen.core.protocols import Scan
from volgen.models.haar import analyse, corner_scale


def variances(scans: Iterable[Scan], levels: int, faint: float) -> list[NDArray[np.float32]]:
    """Variance over scans of every coefficient in the heads, of the bands that each of the first ``levels`` levels splits off.

    The coefficients are those of volumes at full resolution, where white noise of sigma is white noise of sigma in each.

    Args:
        scans: those of different people, at least two; read once.
        levels: levels of the pyramid, at least 1.
        faint: mean over scans, in the model range, up to which a place is air; coefficients there are left out.

    Returns:
        One array of one axis for each level, the finest bands first.
    """
    moments = [_Moments() for _ in range(levels)]
    for scan in scans:
        for level, seen in enumerate(moments):
            x_XYZ = scan.coarse(2**level) if level else scan.whole()
            seen.add(analyse(x_XYZ[None, None])[0] * corner_scale(level))
    return [seen.inside(faint * corner_scale(level + 1)) for level, seen in enumerate(moments)]


class _Moments:
    """Running mean and sum of squares (Welford 1962) of the eight bands of a level."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros(())

    def add(self, bands_8XYZ: Tensor) -> None:
        self._count += 1
        before = bands_8XYZ - self._mean
        self._mean = self._mean + before / self._count
        self._squares = self._squares + before * (bands_8XYZ - self._mean)

    def inside(self, faint: float) -> NDArray[np.float32]:
        """Variances of the seven finer bands where the mean of the first is above ``faint``."""
        assert self._count > 1, "one scan does not differ from itself"
        variance = self._squares[1:, self._mean[0] > faint] / (self._count - 1)
        return variance.flatten().numpy()
