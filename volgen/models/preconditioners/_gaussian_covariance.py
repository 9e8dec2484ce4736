"""Products with the covariance of the structured Gaussian, and samples of it.

With P = U U^T, l along U and v for the coefficients of the pyramid, what is known of clean volumes under noise of s spreads with

    C = U k U^T + (1 - P) e (1 - P),      k = l s^2 / (l + s^2),  e = v s^2 / (v + s^2)

which is the derivative of the skip path, times s^2, but for P and diag(v) not commuting: that derivative is not quite symmetric, as no
covariance can be, and this is.

Legend: B batch, C channel, r low-rank components, X Y Z coefficients of a volume, x y z the low-pass corner of the components.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from volgen.models.haar import low_pass, pyramid, unpyramid
from volgen.models.preconditioners._gaussian_fit import Layout, Statistics


class GaussianCovariance:
    """A :class:`~volgen.core.protocols.Covariance` by the equation of this file.

    Args:
        layout: levels of the pyramid, and of the corner in which the components live.
        statistics: the fit.
    """

    def __init__(self, layout: Layout, statistics: Statistics) -> None:
        self._levels, self._statistics = layout.levels, statistics
        self._components = statistics.components[0]
        self._corner = low_pass(statistics.residual.shape, layout.rank_level)

    def times(self, x_BCXYZ: Tensor, sigma: float) -> Tensor:
        """The product C x."""
        along_BCr, rest = self._split(pyramid(x_BCXYZ, self._levels))
        return self._joined(along_BCr * _known(self._statistics.variances, sigma), rest * _known(self._statistics.residual, sigma))

    def drawn(self, first_BCXYZ: Tensor, second_BCXYZ: Tensor, sigma: float) -> Tensor:
        """A sample of N(0, C): the first noise makes what lies along the components, the second all the rest."""
        along_BCr, _ = self._split(pyramid(first_BCXYZ, self._levels))
        rest = pyramid(second_BCXYZ, self._levels) * _known(self._statistics.residual, sigma).sqrt()
        return self._joined(along_BCr * _known(self._statistics.variances, sigma).sqrt(), rest)

    @property
    def directions(self) -> Tensor:
        """U as volumes."""
        coefficients = self._components.new_zeros(len(self._components), 1, *self._statistics.residual.shape)
        coefficients[self._corner] = self._components[:, None]
        return unpyramid(coefficients, self._levels)

    def strengths(self, sigma: float) -> tuple[Tensor, float]:
        """k, and the mean of e."""
        return _known(self._statistics.variances, sigma), float(_known(self._statistics.residual, sigma).mean())

    def _split(self, c_BCXYZ: Tensor) -> tuple[Tensor, Tensor]:
        """U^T c, and (1 - P) c."""
        along_BCr = torch.einsum("rxyz,bcxyz->bcr", self._components, c_BCXYZ[self._corner])
        rest = c_BCXYZ.clone()
        rest[self._corner] -= torch.einsum("rxyz,bcr->bcxyz", self._components, along_BCr)
        return along_BCr, rest

    def _joined(self, along_BCr: Tensor, c_BCXYZ: Tensor) -> Tensor:
        """The volume of U a + (1 - P) c."""
        along = along_BCr - torch.einsum("rxyz,bcxyz->bcr", self._components, c_BCXYZ[self._corner])
        c_BCXYZ[self._corner] += torch.einsum("rxyz,bcr->bcxyz", self._components, along)
        return unpyramid(c_BCXYZ, self._levels)


def _known(variance: Tensor, sigma: float) -> Tensor:
    """The variance v of which noise of s leaves v s^2 / (v + s^2); v itself if s is infinite."""
    return variance if math.isinf(sigma) else variance / (1.0 + variance / sigma**2)
