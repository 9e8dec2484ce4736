"""The fitted Gaussian as a preconditioner of pieces of volumes, in which every voxel is denoised as it is in any other piece.

A component of the low-rank covariance reaches over the whole volume, and how much of it is there cannot be told from a piece. So here the
coefficients of the pyramid are independent, each with all of its variance, w = v + sum_j l_j U_j^2:

    D(y, s) = m + w/(w + s^2) (c - m) + q(s) F(inputs, s)

which is the exact posterior mean where there are no components, and what remains of it at noise that is far below them. The probability
flow of these coefficients, for networks that jump, is m + sqrt((w + s'^2)/(w + s^2)) (c - m), exact in every piece too. Means and
variances are cut from those of the volume; pieces are of whole cubes of the pyramid. q is that of the volume, from one cube around.

Legend: B pieces, K fits (that to everybody, or one without each fold), r components, X Y Z coefficients or voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from volgen.core.noise import c_noise
from volgen.core.protocols import FlowMap
from volgen.models.denoiser import Network
from volgen.models.haar import low_pass, pyramid, pyramid_pieces, unpyramid, voxel_variance
from volgen.models.place import beginnings
from volgen.models.preconditioners._gaussian_fit import Folds, Layout, Statistics
from volgen.models.preconditioners._gaussian_flow import growth

BINS = 2048
"""Bins of variances, evenly spaced on a logarithmic axis: neighbours are 1.7 % apart, and each is represented by its own mean."""
SMALLEST, LARGEST = 1e-12, 1e3
"""Variances at the ends of that axis, of intensities in [-1, 1]."""


class Variances:
    """w of the fit to everybody, in the whole volume; summed up when it is first asked for.

    Args:
        layout: levels of the pyramid and of the components.
        statistics: the fit.
    """

    def __init__(self, layout: Layout, statistics: Statistics) -> None:
        self._layout, self._statistics = layout, statistics

    @cached_property
    def whole(self) -> Tensor:
        """[X, Y, Z]."""
        result = self._statistics.residual.clone()
        corner = low_pass(result.shape, self._layout.rank_level)
        for component, variance in zip(self._statistics.components[0], self._statistics.variances, strict=True):
            result[corner] += variance * component**2
        return result

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """How many coefficients lie in each bin of variances, and their mean in it (0 in empty ones): both [bins], float32."""
        flat = self.whole.flatten()
        place = (flat.clamp(SMALLEST, LARGEST).log() - math.log(SMALLEST)) / math.log(LARGEST / SMALLEST) * BINS
        bins, empty = place.long().clamp(0, BINS - 1), torch.zeros(BINS, dtype=torch.float64, device=flat.device)
        counts, sums = (empty.index_add(0, bins, values.double()) for values in (torch.ones_like(flat), flat))
        return counts.float(), (sums / counts.clamp(min=1)).float()


@dataclass(frozen=True)
class GaussianPieces:
    """The :class:`~volgen.models.denoiser.Pieces` of a fitted Gaussian.

    Attributes:
        layout: levels of the pyramid and of the components.
        statistics: the fit to everybody.
        variances: w of it.
        folds: fits without each fold, if pieces are seen through these.
        fold_B: which of them the pieces of each example are seen through.
    """

    layout: Layout
    statistics: Statistics
    variances: Variances
    folds: Folds | None = None
    fold_B: Tensor | None = None

    def without(self, folds: Folds, fold_B: Tensor) -> GaussianPieces:
        """Those of fits without the fold of each example."""
        return replace(self, folds=folds, fold_B=fold_B)

    @property
    def multiple(self) -> int:
        """Edge of a cube of the pyramid."""
        return int(2**self.layout.levels)

    def at(self, places_BCXYZ: Tensor) -> GaussianPiece:
        """Means and variances of some pieces; all pieces of one example come one after another."""
        shape, size, edge = self.statistics.residual.shape, places_BCXYZ.shape[2:], self.multiple
        start_B3 = beginnings(places_BCXYZ, shape, (edge,) * 3)
        first, around = torch.zeros(len(start_B3), dtype=torch.int64, device=start_B3.device), [edges + 2 * edge for edges in size]
        if self.folds is None or self.fold_B is None:
            mean = pyramid_pieces(self.statistics.mean, first, start_B3, size, self.layout.levels)
            variance = pyramid_pieces(self.variances.whole[None], first, start_B3 - edge, around, self.layout.levels)
        else:
            fold_B = self.fold_B.repeat_interleave(len(start_B3) // len(self.fold_B))
            mean = pyramid_pieces(self.folds.means, fold_B, start_B3, size, self.layout.levels)
            variance = pyramid_pieces(self.statistics.residual[None], first, start_B3 - edge, around, self.layout.levels)
            self._explain(variance, self.folds, fold_B, start_B3 - edge)
        own = torch.arange(len(start_B3), device=start_B3.device)
        within = pyramid_pieces(variance, own, torch.full_like(start_B3, edge), size, self.layout.levels)
        inside = []
        for axis, edges in enumerate(size):
            places = start_B3[:, axis, None] + torch.arange(-1, edges + 1, device=start_B3.device)
            inside.append(((places >= 0) & (places < shape[axis])).to(variance.dtype))
        unit = self.statistics.residual.mean()
        return GaussianPiece(self.layout.levels, mean[:, None], within[:, None], variance[:, None], inside, unit)

    def _explain(self, variance_BXYZ: Tensor, folds: Folds, fold_B: Tensor, start_B3: Tensor) -> None:
        """Adds what the components of folds explain of pieces that begin at ``start_B3``."""
        level, rank, count = self.layout.rank_level, self.statistics.variances.shape[-1], len(fold_B)
        if not rank:
            return
        size = [edges >> level for edges in variance_BXYZ.shape[1:]]
        rows = fold_B[:, None] * rank + torch.arange(rank, device=fold_B.device)
        starts = (start_B3 // 2**level).repeat_interleave(rank, dim=0)
        parts = pyramid_pieces(folds.components.flatten(0, 1), rows.flatten(), starts, size, self.layout.levels - level)
        spread, squares = self.statistics.variances, parts.unflatten(0, (count, rank)) ** 2
        apart = spread.dim() == 2  # variances of each fit, or of all
        explained = torch.einsum("brxyz,br->bxyz" if apart else "brxyz,r->bxyz", squares, spread[fold_B] if apart else spread)
        variance_BXYZ[low_pass(variance_BXYZ.shape[1:], level)] += explained

    def weight(self, sigma_B: Tensor) -> Tensor:
        """1 / mean posterior variance of a coefficient of the volume: patches of air do not count as much as those of brain."""
        counts, variances = self.variances.spectrum
        noise = sigma_B[:, None] ** 2
        return counts.sum() / (counts * noise * variances / (variances + noise)).sum(dim=1)


@dataclass(frozen=True)
class GaussianPiece:
    """What surrounds the network for some pieces.

    Attributes:
        levels: levels of the pyramid.
        mean: m in the pieces, [B, 1, X, Y, Z].
        variance: w in them.
        around: w in them and in one cube around.
        inside: for each axis, 1 where voxels of the pieces and one more at each end are in the volume, 0 where not: [B, X + 2] and so on.
        unit: v on average over the volume.
    """

    levels: int
    mean: Tensor
    variance: Tensor
    around: Tensor
    inside: Sequence[Tensor]
    unit: Tensor

    def expected(self, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """The skip path alone."""
        return self._estimate(pyramid(y_BCXYZ, self.levels) - self.mean, sigma_B)

    @property
    def flow_map(self) -> FlowMap | None:
        """That of independent coefficients: each deviation grows by sqrt((w + s'^2) / (w + s^2))."""
        return self._flowed

    def _flowed(self, x_BCXYZ: Tensor, sigma_B: Tensor, to_B: Tensor) -> Tensor:
        change = growth(self.variance, *(level_B[:, None, None, None, None] for level_B in (sigma_B, to_B)))
        return x_BCXYZ + unpyramid(change * (pyramid(x_BCXYZ, self.levels) - self.mean), self.levels)

    def _estimate(self, offset: Tensor, sigma_B: Tensor) -> Tensor:
        noise = sigma_B[:, None, None, None, None] ** 2
        return unpyramid(self.mean + self.variance / (self.variance + noise) * offset, self.levels)

    def denoise(self, network: Network, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """Clean pieces by the equation of this file; the network sees what :class:`GaussianPreconditioner` shows it."""
        noise = sigma_B[:, None, None, None, None] ** 2
        offset = pyramid(y_BCXYZ, self.levels) - self.mean
        estimate = self._estimate(offset, sigma_B)
        centred = unpyramid(offset, self.levels) * (self.unit + noise).rsqrt()
        output = network(torch.cat([centred, estimate], dim=1), c_noise(sigma_B))
        return estimate + self._scale(noise) * output.float()

    def _scale(self, noise: Tensor) -> Tensor:
        """q(s): the root of the mean posterior variance of a voxel and its neighbours in the volume."""
        edge = 2**self.levels
        variance = voxel_variance(noise * self.around / (self.around + noise), self.levels)
        near = slice(edge - 1, 1 - edge or None)
        variance = variance[:, :, near, near, near]
        for axis, line_BN in enumerate(self.inside):
            line = line_BN.view(len(line_BN), *(-1 if a == axis + 1 else 1 for a in range(4)))
            variance = _three(variance * line, axis + 2) / _three(line, axis + 2)
        return variance.sqrt()


def _three(x: Tensor, axis: int) -> Tensor:
    """Sums of three neighbours along an axis, which gets two shorter."""
    count = x.shape[axis] - 2
    return x.narrow(axis, 0, count) + x.narrow(axis, 1, count) + x.narrow(axis, 2, count)
