"""The probability flow of the structured Gaussian in closed form.

One noise z gives one path: x(s) = m + N(s) z with N(s) = U a U^T + b (1 - U U^T), a = sqrt(l + s^2) and b = sqrt(v + s^2) for the
coefficients of the pyramid (:meth:`GaussianPreconditioner.noised`). So the flow from s to s' is N(s') N(s)^-1:

    f(x, s -> s') = m + U a'/a c + b'/b (d - U c),      d = x - m,      c = (U^T b^-1 U)^-1 U^T b^-1 d

where c are loadings by weighted least squares: U^T d where b is the same everywhere. Segments compose, f(., s' -> s'') after f(., s -> s')
is f(., s -> s''), also where U U^T and diag(v) do not commute; where they do, it is the solution of dx/ds = (x - D(x, s))/s with
the skip path as D.

Legend: B batch, C channel, r low-rank components, X Y Z coefficients of a volume, x y z the low-pass corner of the components.
"""

from __future__ import annotations

import torch
from torch import Tensor

from volgen.models.haar import low_pass, pyramid, unpyramid
from volgen.models.preconditioners._gaussian_fit import Layout, Statistics

TINY = 1e-30
"""Added to variances: a coefficient that is the same in everybody has none, and stays where it is without noise."""


def flowed(layout: Layout, s: Statistics, x_BCXYZ: Tensor, sigma_B: Tensor, to_B: Tensor) -> Tensor:
    """The volumes at ``to_B`` on the paths that lead through ``x_BCXYZ`` at ``sigma_B``.

    It is x plus a change, so that volumes which go nowhere are what they were, bit for bit.

    Args:
        layout: levels of the pyramid, and of the corner in which the components live.
        s: the fit, or one for each volume.
        x_BCXYZ: noisy volumes.
        sigma_B: their noise levels.
        to_B: noise levels to come to; 0 or more, lower or higher.
    """
    place = low_pass(s.residual.shape, layout.rank_level)
    d_BCXYZ = pyramid(x_BCXYZ, layout.levels) - s.mean[:, None]
    components = s.components.expand(len(d_BCXYZ), *s.components.shape[1:])
    loadings_BCr = _loadings(components, d_BCXYZ[place], s.residual[place], sigma_B)
    inside_Br = growth(s.variances, sigma_B[:, None], to_B[:, None])
    outside = growth(s.residual, _over(sigma_B), _over(to_B))
    change = outside * d_BCXYZ
    change[place] += _combined(loadings_BCr * inside_Br[:, None], components) - outside[place] * _combined(loadings_BCr, components)
    return x_BCXYZ + unpyramid(change, layout.levels)


def unnoised(layout: Layout, s: Statistics, x_BCXYZ: Tensor, sigma: float) -> Tensor:
    """The noise of which noisy volumes were made, N(s)^-1 (x - m): the inverse of :meth:`GaussianPreconditioner.noised`.

    Args:
        layout: see :func:`flowed`.
        s: the fit, or one for each volume.
        x_BCXYZ: volumes under noise of ``sigma``.
        sigma: its level, positive.
    """
    place = low_pass(s.residual.shape, layout.rank_level)
    d_BCXYZ = pyramid(x_BCXYZ, layout.levels) - s.mean[:, None]
    components = s.components.expand(len(d_BCXYZ), *s.components.shape[1:])
    loadings_BCr = _loadings(components, d_BCXYZ[place], s.residual[place], x_BCXYZ.new_full((len(x_BCXYZ),), sigma))
    inside_Br = torch.atleast_2d((s.variances + sigma**2).rsqrt())
    outside = (s.residual + sigma**2).rsqrt()
    noise = outside * d_BCXYZ
    noise[place] += _combined(loadings_BCr * inside_Br[:, None], components) - outside[place] * _combined(loadings_BCr, components)
    return unpyramid(noise, layout.levels)


def _loadings(components_Brxyz: Tensor, d_BCxyz: Tensor, residual_xyz: Tensor, sigma_B: Tensor) -> Tensor:
    """(U^T b^-1 U)^-1 U^T b^-1 d, [B, C, r]."""
    weight = (residual_xyz + _over(sigma_B) ** 2 + TINY).rsqrt()[:, 0]
    gram = torch.einsum("brxyz,bxyz,bqxyz->brq", components_Brxyz, weight, components_Brxyz)
    seen = torch.einsum("brxyz,bxyz,bcxyz->brc", components_Brxyz, weight, d_BCxyz)
    loadings_BCr: Tensor = torch.linalg.solve(gram, seen).transpose(1, 2)
    return loadings_BCr


def growth(variance: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
    """Growth of a deviation, as a share of it: sqrt((v + s'^2) / (v + s^2)) - 1."""
    return ((variance + to**2 + TINY) / (variance + sigma**2 + TINY)).sqrt() - 1.0


def _combined(loadings_BCr: Tensor, components_Brxyz: Tensor) -> Tensor:
    return torch.einsum("brxyz,bcr->bcxyz", components_Brxyz, loadings_BCr)


def _over(value_B: Tensor) -> Tensor:
    return value_B[:, None, None, None, None]
