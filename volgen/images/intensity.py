"""Intensity: scanner units <-> unit interval <-> model range."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def to_model(unit: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1], what networks see; a new tensor of the same type."""
    return unit.mul(2.0).sub_(1.0)


def from_model(volume: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1]; what a denoiser draws beyond the range is clipped."""
    return (volume.clamp(-1.0, 1.0) + 1.0) / 2.0


@dataclass(frozen=True)
class IntensityMap:
    """An affine window from scanner units to [0, 1]; invertible inside the window.

    Attributes:
        low: scanner value that becomes 0.
        high: scanner value that becomes 1; larger than ``low``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.high > self.low):
            raise ValueError(f"intensity window [{self.low}, {self.high}] is empty or not finite")

    @classmethod
    def robust(cls, voxels: NDArray[Any], upper_percentile: float = 99.8) -> IntensityMap:
        """A window that a few bright voxels (vessels, spikes) cannot move.

        ``low`` is the 0.1st percentile of all voxels; ``high`` is a percentile of the foreground, the voxels above the mean:
        a percentile of all voxels would depend on how much air the field of view holds.

        Raises:
            ValueError: the image is constant, so no window exists.
        """
        values = np.asarray(voxels, dtype=np.float32).ravel()
        low = float(np.percentile(values, 0.1))
        foreground = values[values > values.mean()]
        high = float(np.percentile(foreground, upper_percentile)) if foreground.size else low
        return cls(low, high)

    def to_unit(self, voxels: NDArray[Any]) -> NDArray[np.float32]:
        """Scanner units -> [0, 1], clipped to the window."""
        scaled = (np.asarray(voxels, dtype=np.float32) - np.float32(self.low)) / np.float32(self.high - self.low)
        unit: NDArray[np.float32] = np.clip(scaled, 0.0, 1.0).astype(np.float32, copy=False)
        return unit

    def from_unit(self, unit: NDArray[Any]) -> NDArray[np.float32]:
        """[0, 1] -> scanner units."""
        return (np.asarray(unit, dtype=np.float32) * np.float32(self.high - self.low) + np.float32(self.low)).astype(np.float32, copy=False)

    def to_dict(self) -> dict[str, float]:
        """Plain mapping for JSON."""
        return asdict(self)
