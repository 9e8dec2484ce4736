"""The numbers of the slice report as one would write them down with scipy and scikit-image: slice after slice, nothing shared or kept.

What volgen's checks are timed against and tested against.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.metrics import structural_similarity

from volgen.evaluation.scan import Triple

Unit = NDArray[np.float32]
Mask = NDArray[np.bool_]
Curve = NDArray[np.float64]
SHARE = 0.35  # slices with less of the head than this share of the largest one are left out
WINDOW = 7
RIM = 0.25


def head(unit: Unit) -> Mask:
    """Threshold a quarter of the way from background to head, largest component, holes filled."""
    bright = unit > threshold_otsu(unit)
    background, tissue = float(unit[~bright].mean(dtype=np.float64)), float(unit[bright].mean(dtype=np.float64))
    labels, _ = ndimage.label(unit > background + RIM * (tissue - background))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    filled: Mask = ndimage.binary_fill_holes(labels == sizes.argmax())
    return filled


def curves(unit: Unit, mask: Mask, voxel_size: Triple, axis: int) -> dict[str, Curve]:
    """Every curve along one axis that is measured and not derived from another: one entry per slice, or one per pair of slices."""
    slices, inside = np.moveaxis(unit, axis, 0), np.moveaxis(mask, axis, 0)
    pixel = [size for other, size in enumerate(voxel_size) if other != axis]
    count = len(slices)
    of_pairs = {
        name: np.full(count - 1, np.nan) for name in ("adjacent_l1", "adjacent_ssim", "slice_bias", "outline_loss", "outline_drift", "step")
    }
    of_slices = {name: np.full(count, np.nan) for name in ("order", "misfit", "gain", "shift")}
    area = inside.sum(axis=(1, 2))
    both = (inside[:-1] & inside[1:]).sum(axis=(1, 2))
    enough = area >= max(SHARE * area.max(), 1)
    for z in range(count - 1):
        shared = inside[z] & inside[z + 1]
        if both[z] >= max(SHARE * both.max(), 1):
            a, b = slices[z][shared].astype(np.float64), slices[z + 1][shared].astype(np.float64)
            of_pairs["adjacent_l1"][z] = np.abs(b - a).mean()
            of_pairs["slice_bias"][z] = abs(b.mean() - a.mean())
            _, local = structural_similarity(slices[z], slices[z + 1], win_size=WINDOW, data_range=1.0, full=True)
            of_pairs["adjacent_ssim"][z] = local[shared].mean(dtype=np.float64)
        if enough[z] and enough[z + 1]:
            of_pairs["outline_loss"][z] = 1 - 2 * both[z] / (area[z] + area[z + 1])
            move = np.subtract(ndimage.center_of_mass(inside[z + 1]), ndimage.center_of_mass(inside[z]))
            of_pairs["outline_drift"][z] = np.hypot(*(move * pixel))
    for z in range(1, count - 1):
        three = inside[z - 1] & inside[z] & inside[z + 1]
        if not (enough[z - 1] and enough[z] and enough[z + 1] and three.any()):
            continue
        a, b, c = (slices[k].astype(np.float64) for k in (z - 1, z, z + 1))
        before, after, over = (np.abs(d)[three].mean() for d in (b - a, c - b, c - a))
        of_pairs["step"][z - 1], of_pairs["step"][z] = before, after
        of_slices["order"][z] = 2 * over / (before + after)
        middle = (a + c) / 2
        of_slices["misfit"][z] = np.abs(b - middle)[three].mean()
        core = ndimage.binary_erosion(np.ones_like(three)) & three  # without the border of the slice
        core[[0, -1]], core[:, [0, -1]] = False, False
        columns = np.stack([middle[core], *(gradient[core] for gradient in np.gradient(middle))], axis=1)
        if len(columns) >= 12:
            square = columns.T @ columns + 1e-6 * len(columns) * np.eye(3)
            g, u, v = np.linalg.solve(square, columns.T @ (b - middle)[core])
            of_slices["gain"][z], of_slices["shift"][z] = abs(g), np.hypot(u, v)
    return {**of_pairs, **of_slices}


def numbers(unit: Unit, mask: Mask, axis: int) -> dict[str, float]:
    """Numbers along one axis that are not read off a curve."""
    slices, inside = np.moveaxis(unit, axis, 0), np.moveaxis(mask, axis, 0)
    pair = inside[:-1] & inside[1:]
    found = {"tv_ratio": float(np.abs(np.diff(slices, axis=0))[pair].mean(dtype=np.float64))}
    window = np.hanning(len(slices) + 2)[1:-1].reshape(-1, 1, 1)
    energy = (np.abs(np.fft.fft(slices * inside * window, axis=0)) ** 2).sum(axis=(1, 2))
    found["high_frequency_ratio"] = float(energy[np.abs(np.fft.fftfreq(len(slices))) > 0.25].sum() / energy.sum())
    area = inside.sum(axis=(1, 2))
    enough = area >= max(SHARE * area.max(), 1)
    one, two = 0.0, 0.0
    for z in range(2, len(slices) - 2):
        five = inside[z - 2 : z + 3].all(axis=0)
        if enough[z - 1 : z + 2].all():
            m, a, b, c, n = (slices[k][five].astype(np.float64) for k in range(z - 2, z + 3))
            one, two = one + float(np.abs(a + c - 2 * b).sum()), two + float(np.abs(m + n - 2 * b).sum())
    found["roughness"] = one / two
    grown = ndimage.binary_dilation(mask, iterations=2)
    shadows = [np.broadcast_to(grown.any(axis=other, keepdims=True), mask.shape) for other in range(3)]
    alone = shadows[axis] & ~shadows[(axis + 1) % 3] & ~shadows[(axis + 2) % 3] & ~grown
    found["ghost_level"] = max(float(unit[alone].mean(dtype=np.float64)) if alone.any() else 0.0, 0.004)
    return found


def everything(unit: Unit, voxel_size: Triple) -> dict[str, Any]:
    """Head, curves and numbers along all three axes."""
    mask = head(unit)
    return {
        "mask": mask,
        "curves": [curves(unit, mask, voxel_size, axis) for axis in range(3)],
        "numbers": [numbers(unit, mask, axis) for axis in range(3)],
    }
