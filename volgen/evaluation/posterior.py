"""Whether samples of a posterior say the truth about what is not known, where the truth is known.

Legend: N samples, M voxels. Everything is in [0, 1], where 1 is the whole intensity window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from skimage.metrics import structural_similarity

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Probabilities of the intervals whose coverage is counted."""
BINS = 10
"""Bins of a histogram of PIT values, and of voxels by their standard deviation."""
WINDOW = 7
"""Edge in voxels of what SSIM looks at."""
CHI_SQUARE = (0.8, 1.25)
"""Chi-square per measured number that samples of a posterior have: they disagree with the data by the noise of the data."""


def psnr(image: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio in dB, of a range of 1; infinite for equal images."""
    error = float(np.mean((image.astype(np.float64) - truth) ** 2))
    return float("inf") if error == 0.0 else -10.0 * float(np.log10(error))


def ssim_in(image_XYZ: NDArray[np.float32], truth_XYZ: NDArray[np.float32], mask_XYZ: NDArray[np.bool_]) -> float | None:
    """Mean structural similarity over the voxels of a mask, windows in 3D, a range of 1; None in a volume smaller than a window."""
    if min(image_XYZ.shape) < WINDOW:
        return None
    _, local = structural_similarity(image_XYZ, truth_XYZ, win_size=WINDOW, data_range=1.0, full=True)
    return float(local[mask_XYZ].mean())


def likeness(unit_XYZ: NDArray[np.float32], truth_XYZ: NDArray[np.float32], mask_XYZ: NDArray[np.bool_]) -> dict[str, float | None]:
    """How like a volume is to the truth: ``psnr`` in dB, the same in the head, ``ssim_head``; None where a number does not exist.

    Args:
        unit_XYZ: the volume.
        truth_XYZ: the truth.
        mask_XYZ: the head.
    """
    inside = psnr(unit_XYZ[mask_XYZ], truth_XYZ[mask_XYZ]) if mask_XYZ.any() else math.inf
    found = {"psnr": psnr(unit_XYZ, truth_XYZ), "psnr_head": inside}
    finite = {key: None if math.isinf(value) else value for key, value in found.items()}
    return {**finite, "ssim_head": ssim_in(unit_XYZ, truth_XYZ, mask_XYZ) if mask_XYZ.any() else None}


@dataclass(frozen=True)
class Counted:
    """Counts over voxels, which add up over people.

    Attributes:
        voxels: how many.
        inside: how many lay in the interval of each of :data:`LEVELS`.
        pit: how many in each bin of PIT values.
        by_spread: for voxels from those of the lowest standard deviation to those of the highest, in bins: their number, the sum of their
            squared errors and that of their predicted variances, [BINS, 3].
    """

    voxels: int
    inside: NDArray[np.int64]
    pit: NDArray[np.int64]
    by_spread: NDArray[np.float64]

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            self.voxels + other.voxels, self.inside + other.inside, self.pit + other.pit, self.by_spread + other.by_spread
        )  # fmt: skip

    def told(self) -> dict[str, Any]:
        """What ``calibration.json`` says of it; ``spread_over_error`` is 1 where the standard deviation is as large as the error."""
        number, squares, variances = self.by_spread.T
        every = np.maximum(number, 1.0)
        return {
            "voxels": self.voxels,
            "coverage": {f"{level:g}": float(count / self.voxels) for level, count in zip(LEVELS, self.inside, strict=True)},
            "pit": [float(count / self.voxels) for count in self.pit],
            "error": float(np.sqrt(squares.sum() / self.voxels)),
            "spread": float(np.sqrt(variances.sum() / self.voxels)),
            "spread_over_error": float(np.sqrt(variances.sum() / squares.sum())) if squares.sum() > 0.0 else None,
            "by_spread": [
                {"spread": float(spread), "error": float(error)}
                for spread, error, count in zip(np.sqrt(variances / every), np.sqrt(squares / every), number, strict=True)
                if count
            ],
        }


def tallied(samples_NM: NDArray[np.float32], truth_M: NDArray[np.float32], seed: int) -> Counted:
    """How the truth lies among samples, voxel by voxel.

    An interval of probability p is that in which the next sample would be, were samples Gaussian: mean +- t sqrt(1 + 1/N) sd, with
    Student's t of N - 1 degrees of freedom. PIT is the rank of the truth among the samples, ties and what is between two ranks drawn
    evenly: uniform where the truth is like a sample, whatever the distribution. Voxels that do not differ between samples and truth
    (air around a stripped head) are to be left out by the mask.

    Args:
        samples_NM: at least two samples.
        truth_M: the truth.
        seed: seed of what is drawn for PIT.
    """
    count = len(samples_NM)
    assert count >= 2, "one sample has no spread"
    mean, spread = samples_NM.mean(axis=0, dtype=np.float64), samples_NM.std(axis=0, ddof=1, dtype=np.float64) * np.sqrt(1.0 + 1.0 / count)
    error = np.abs(mean - truth_M)
    inside = np.array([(error <= stats.t.ppf(0.5 + level / 2, count - 1) * spread).sum() for level in LEVELS], dtype=np.int64)
    below, ties = (samples_NM < truth_M).sum(axis=0), (samples_NM == truth_M).sum(axis=0)
    pit = (below + np.random.default_rng(seed).random(truth_M.shape) * (ties + 1)) / (count + 1)
    order = np.argsort(spread, kind="stable")
    by_spread = np.array([
        [len(part), float((error[part] ** 2).sum()), float((spread[part] ** 2).sum())] for part in np.array_split(order, BINS)
    ])  # fmt: skip
    histogram = np.histogram(pit, BINS, (0.0, 1.0))[0].astype(np.int64)
    return Counted(len(truth_M), inside, histogram, by_spread)


def likeness_of_maps(spread_M: NDArray[np.float32], error_M: NDArray[np.float32]) -> float | None:
    """Spearman's correlation between a map of standard deviations and one of absolute errors; None where one of them is constant."""
    if np.ptp(spread_M) == 0.0 or np.ptp(error_M) == 0.0:
        return None
    return float(stats.spearmanr(spread_M, np.abs(error_M)).statistic)


def disagreement(chi_squares: Sequence[float]) -> str:
    """What the chi-square per measured number of samples says of data and model, in words; empty where they agree."""
    low, high = CHI_SQUARE
    middle = float(np.median(chi_squares))
    missed = f"miss what was measured by {np.sqrt(middle):.3g} times the noise (chi-square {middle:.3g} per number"
    if middle > high:
        return (
            f"Data and model disagree: the volumes {missed}, up to {high:g} is usual). The noise may be larger than stated, the "
            "scan may lie elsewhere or show what the run has never seen, or the instrument may be another than the operator says. "
            "Do not rely on these volumes."
        )
    if middle < low:
        return (
            f"The volumes follow the noise of the data: they {missed}, from {low:g} on is usual). Their spread is too small where it was "
            "measured."
        )
    return ""
