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
    weight = (s.residual[place] + _over(sigma_B) ** 2 + TINY).rsqrt()[:, 0]
    gram = torch.einsum("brxyz,bxyz,bqxyz->brq", components, weight, components)
    seen = torch.einsum("brxyz,bxyz,bcxyz->brc", components, weight, d_BCXYZ[place])
    loadings_BCr = torch.linalg.solve(gram, seen).transpose(1, 2)
    inside_Br = _growth(s.variances, sigma_B[:, None], to_B[:, None])
    outside = _growth(s.residual, _over(sigma_B), _over(to_B))
    change = outside * d_BCXYZ
    change[place] += _combined(loadings_BCr * inside_Br[:, None], components) - outside[place] * _combined(loadings_BCr, components)
    return x_BCXYZ + unpyramid(change, layout.levels)


def _growth(variance: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
    """Growth of a deviation, as a share of it: sqrt((v + s'^2) / (v + s^2)) - 1."""
    return ((variance + to**2 + TINY) / (variance + sigma**2 + TINY)).sqrt() - 1.0


def _combined(loadings_BCr: Tensor, components_Brxyz: Tensor) -> Tensor:
    return torch.einsum("brxyz,bcr->bcxyz", components_Brxyz, loadings_BCr)


def _over(value_B: Tensor) -> Tensor:
    return value_B[:, None, None, None, None]
