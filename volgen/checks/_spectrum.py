"""Share of high spatial frequencies along one axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def high_frequency_energy(unit: NDArray[np.float32], mask: NDArray[np.bool_], axis: int, cutoff: float = 0.25) -> float:
    """sum_{|k| > cutoff} |F|^2 / sum |F|^2 of the 1D Fourier transforms along ``axis``.

    The volume is first multiplied by its mask and a Hann window runs along the axis, so that neither the background nor a jump at the
    border of the field of view counts as detail.

    Args:
        unit: [X, Y, Z] in [0, 1].
        mask: [X, Y, Z].
        axis: array axis.
        cutoff: in cycles per voxel; 0.5 is the finest grating that the grid can hold.

    Returns:
        A number in [0, 1]; 0 for an empty mask.
    """
    size = unit.shape[axis]
    window = np.hanning(size + 2)[1:-1].astype(np.float32)
    lines = np.moveaxis(unit * mask, axis, -1) * window
    high = np.fft.rfftfreq(size) > cutoff
    # Only half of a real signal's spectrum is computed: every line but the zero and (for even sizes) the last one stands for two.
    twice = np.full(high.size, 2.0)
    twice[0] = 1.0
    if size % 2 == 0:
        twice[-1] = 1.0
    energy = np.zeros(high.size)
    for part in lines:  # slab by slab: the spectrum of a whole 256^3 volume would take 270 MB
        energy += (np.abs(np.fft.rfft(part, axis=-1)) ** 2).sum(axis=0)
    total = float((energy * twice).sum())
    return float((energy * twice)[high].sum()) / total if total > 0 else 0.0
