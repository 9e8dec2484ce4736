"""Privacy losses of steps in which one patient may be replaced by another, composed on a mesh by Fourier transforms.

A step that draws each patient with probability q and adds noise of standard deviation s, in units of the largest contribution, tells at
most P = (1 - q) N(0, s^2) + q N(1, s^2) from Q = (1 - q) N(0, s^2) + q N(-1, s^2): the two patients pull in opposite directions. Its loss
L(x) = log P(x) / Q(x) rises with x, and Q is P turned round, so that one direction is enough. The mass of each cell of the mesh goes
to the cell's two ends so that P and Q both keep theirs, which never understates a loss and errs in second order ("connect the dots",
Doroshenko et al. 2022). What lies beyond the mesh counts as an infinite loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]
CELLS = 2**19
"""Cells of the mesh for the sum."""
FINE = 2**15
"""Most cells of the mesh for one step."""
TRIES = 100
"""Tries to find a mesh that the sum fits on; the first nearly always does."""
BEYOND = 1e-3
"""Share of delta that may be spent on what lies beyond the meshes."""
FLOAT = 1e-15
"""Rounding of a probability in one transform, about."""


@dataclass(frozen=True)
class Pair:
    """The two distributions of one step.

    Attributes:
        sampling_rate: q in (0, 1].
        noise_multiplier: s, positive.
    """

    sampling_rate: float
    noise_multiplier: float

    def place(self, loss: Array) -> Array:
        """Where the loss has a value: P / Q is a ratio of sums of exponentials, so this is the root of a quadratic equation."""
        size, variance = np.abs(loss), self.noise_multiplier**2
        with np.errstate(divide="ignore"):
            rest = np.log1p(-self.sampling_rate) + np.log(np.expm1(np.minimum(size, 700.0))) + np.maximum(size - 700.0, 0.0)
        t = rest - math.log(2.0 * self.sampling_rate) + 0.5 / variance - 0.5 * size
        found: Array = np.sign(loss) * variance * (0.5 * size + np.logaddexp(t, 0.5 * np.logaddexp(2.0 * t, 0.0)))  # asinh(exp(t))
        return found

    def loss(self, x: float) -> float:
        """The loss, log P(x) / Q(x), at a place."""
        one, variance = self.sampling_rate, self.noise_multiplier**2
        none = math.log1p(-one) if one < 1.0 else -math.inf
        plus, minus = ((sign * x - 0.5) / variance + math.log(one) for sign in (1.0, -1.0))
        return float(np.logaddexp(none, plus) - np.logaddexp(none, minus))

    def mass(self, places: Array, sign: float = 1.0) -> Array:
        """P (or, with sign -1, Q) between places that rise; accurate in both tails."""
        q, s = self.sampling_rate, self.noise_multiplier
        total = np.zeros(len(places) - 1)
        for weight, mean in ((1.0 - q, 0.0), (q, sign)):
            z = (places - mean) / s
            low, high = ndtr(z), ndtr(-z)
            total += weight * np.where(z[:-1] > 0.0, high[:-1] - high[1:], low[1:] - low[:-1])
        return total


def composed_epsilon(steps: Sequence[tuple[Pair, int]], delta: float) -> float:
    """The least epsilon at ``delta``, up to the mesh, of all steps together; an upper bound, infinite where no mesh can tell.

    Args:
        steps: pairs, and how often each.
        delta: in (0, 1).
    """
    count = sum(number for _, number in steps)
    tail = BEYOND * delta / (4.0 * count)
    reach = [(pair, number, pair.loss(1.0 - pair.noise_multiplier * float(ndtri(tail)))) for pair, number in steps]
    most = max(loss for _, _, loss in reach)

    def masses(width: float) -> list[tuple[Array, int]]:
        return [(_split(pair, loss, width), number) for pair, number, loss in reach]

    def half(laid: Sequence[tuple[Array, int]], width: float) -> float:
        return max(_tail(laid, width, BEYOND * delta / 4.0, sign) for sign in (1.0, -1.0))

    coarse = 2.0 * most / FINE  # only tells how far the sum reaches
    width = max(2.0 * half(masses(coarse), coarse), 8.0 * most) / CELLS
    laid_out = masses(width)
    for _ in range(TRIES):
        if half(laid_out, width) <= width * CELLS / 2.0:
            break
        width *= 1.01
        laid_out = masses(width)
    else:
        return math.inf
    spectrum = np.ones(CELLS // 2 + 1, dtype=np.complex128)
    for mass, number in laid_out:
        laid = np.zeros(CELLS)
        laid[np.arange(len(mass)) - len(mass) // 2] = mass
        spectrum *= np.fft.rfft(laid) ** number
    composed = np.fft.fftshift(np.clip(np.fft.irfft(spectrum, CELLS), 0.0, None))
    losses: Array = np.arange(CELLS, dtype=np.float64) * width - CELLS // 2 * width
    left = delta * (1.0 - BEYOND) - FLOAT * count
    return _least(losses, composed, left) if left > 0.0 else math.inf


def _split(pair: Pair, reach: float, width: float) -> Array:
    """P of one step on the mesh, of odd length with loss 0 in the middle; the mass of a cell is shared by its two ends."""
    most = math.ceil(reach / width) + 1
    edges: Array = np.arange(-most, most + 1, dtype=np.float64) * width
    places = pair.place(edges)
    p, q = pair.mass(places), pair.mass(places, -1.0)
    # a + b = p at the ends, and a e^-low + b e^-high = q.
    with np.errstate(over="ignore", invalid="ignore"):
        low = np.where(p > 0.0, (q * np.exp(edges[1:]) - p) / math.expm1(width), 0.0)
    low = np.clip(np.nan_to_num(low, nan=0.0, posinf=0.0), 0.0, p)
    mass = np.zeros(len(edges))
    mass[:-1] += low
    mass[1:] += p - low
    # What lies below the mesh has a loss that is lower still: it may count as the lowest. What lies above is in BEYOND.
    mass[0] += max(1.0 - float(p.sum()), 0.0)
    return mass


def _tail(masses: Sequence[tuple[Array, int]], width: float, chance: float, sign: float) -> float:
    """A value that the sum of losses (or its negative) exceeds with at most this chance (Chernoff)."""
    best = math.inf
    for tilt in np.geomspace(1e-3, 1e4, 43):
        total = 0.0
        for mass, number in masses:
            exponent = sign * tilt * (np.arange(len(mass)) - len(mass) // 2) * width
            top = float(exponent[mass > 0.0].max())
            total += number * (top + math.log(float((mass * np.exp(np.minimum(exponent - top, 0.0))).sum())))
        best = min(best, (total - math.log(chance)) / tilt)
    return max(best, width)


def _least(losses: Array, mass: Array, delta: float) -> float:
    """The least epsilon >= 0 with sum of mass (1 - e^(epsilon - loss)) over larger losses at most delta."""
    above = np.cumsum(mass[::-1])[::-1]  # of this loss and more
    scaled = np.cumsum((mass * np.exp(-np.clip(losses, 0.0, None)))[::-1])[::-1]
    first = int(np.searchsorted(losses, 0.0))
    for at in np.flatnonzero(above[first:] - np.exp(np.minimum(losses[first:], 700.0)) * scaled[first:] <= delta) + first:
        if at == first:
            return 0.0
        # Between two points of the mesh delta is linear in e^epsilon.
        bound = math.log(max((float(above[at]) - delta) / float(scaled[at]), 1.0)) if scaled[at] > 0.0 else float(losses[at])
        return float(min(max(bound, losses[at - 1]), losses[at]))
    return math.inf
