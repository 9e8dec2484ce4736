"""Share of high spatial frequencies along one axis."""

from __future__ import annotations

import numpy as np
from scipy import fft

from volgen.evaluation.scan import HeadScan


def high_frequency_energy(scan: HeadScan, axis: int, cutoff: float = 0.25) -> float:
    """Share ``sum_{|k| > cutoff} |F|^2 / sum |F|^2`` of the 1D Fourier transforms along ``axis``.

    The volume is first multiplied by its mask and a Hann window runs along the axis, so that neither the background nor a jump at the
    border of the field of view counts as detail.

    Args:
        scan: volume and head.
        axis: array axis.
        cutoff: cycles per voxel; 0.5 is the finest grating that the grid can hold.

    Returns:
        A number in [0, 1]; 0 for an empty mask.
    """
    stack = scan.stack(axis)
    size = stack.count
    window = np.hanning(size + 2)[1:-1].astype(np.float32)[stack.first : stack.first + len(stack.images)]
    high = np.fft.rfftfreq(size) > cutoff
    # Only half of a real signal's spectrum is computed: every line but the zero and (for even sizes) the last one stands for two.
    twice = np.full(int(high.sum()), 2.0)
    if size % 2 == 0:
        twice[-1] = 1.0
    energy, total = np.zeros(twice.size), 0.0
    for row in range(stack.images.shape[1]):  # slab by slab: the spectrum of a whole 256^3 volume would take 270 MB
        lines = np.ascontiguousarray((stack.images[:, row] * stack.inside[:, row]).T) * window
        total += float(np.vdot(lines, lines))
        # What is cropped is zero, and a shift of the lines only turns phases; the transform pads them to the whole axis.
        spectrum = fft.rfft(lines, n=size, axis=-1)[:, high]
        energy += np.einsum("lk,lk->k", spectrum.real, spectrum.real) + np.einsum("lk,lk->k", spectrum.imag, spectrum.imag)
    return float((energy * twice).sum()) / (total * size) if total > 0 else 0.0  # Parseval: all energy is size times that of the lines
