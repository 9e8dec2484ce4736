"""Every file in volgen/operators is a linear map with the adjoint, and the closed form, that it says it has."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.core.protocols import Operator
from volgen.core.registry import config_class, kinds, module

PACKAGE = "volgen.operators"
KINDS = kinds(PACKAGE)
SHAPE = (8, 12, 10)


def build(kind: str) -> Operator:
    config: Any = config_class(PACKAGE, kind)()
    return config.build(SHAPE, torch.device("cpu"))  # type: ignore[no-any-return]


def volumes(seed: int, count: int = 2) -> Tensor:
    return torch.randn(count, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))


def data_of(operator: Operator, seed: int, count: int = 2) -> Tensor:
    """Any data of the operator's shape and type."""
    like = operator.apply(volumes(seed, count))
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=like.dtype)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Re<a, b> of each element of a batch, in double precision."""
    wide = torch.complex128 if a.is_complex() else torch.float64
    return (a.to(wide).conj() * b.to(wide)).flatten(1).sum(dim=1).real


def test_the_promised_operators_exist() -> None:
    assert set(KINDS) >= {"inpaint"}


@pytest.mark.parametrize("kind", KINDS)
def test_file_declares_itself(kind: str) -> None:
    assert config_class(PACKAGE, kind)().kind == kind  # type: ignore[attr-defined]
    assert (module(PACKAGE, kind).__doc__ or "").strip()


@pytest.mark.parametrize("kind", KINDS)
def test_the_adjoint_is_the_adjoint(kind: str) -> None:
    operator = build(kind)
    for seed in range(5):
        x, d = volumes(seed), data_of(operator, seed + 100)
        back = operator.adjoint(d)
        assert back.shape == x.shape and back.dtype == x.dtype
        size = dot(x, x).sqrt() * dot(d, d).sqrt()
        assert ((dot(operator.apply(x), d) - dot(x, back)).abs() / size).max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_linear_and_takes_each_volume_by_itself(kind: str) -> None:
    operator, x, other = build(kind), volumes(0), volumes(1)
    together = operator.apply(2.0 * x - 0.5 * other)
    torch.testing.assert_close(together, 2.0 * operator.apply(x) - 0.5 * operator.apply(other), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(operator.apply(x)[1:], operator.apply(x[1:]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.3, 20.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_form_is_the_minimum(kind: str, gamma: float) -> None:
    operator = build(kind)
    solve = operator.closed(gamma)
    if solve is None:
        return
    z, d = volumes(3), data_of(operator, 4)
    x = solve(z, d)
    # Half the gradient of |x - z|^2 + gamma |d - A x|^2.
    slope = (x - z) - gamma * operator.adjoint(d - operator.apply(x))
    assert slope.norm() < 1e-4 * (1 + gamma) * z.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_with_infinite_weight_data_are_explained_by_the_nearest_volume(kind: str) -> None:
    operator = build(kind)
    solve = operator.closed(math.inf)
    if solve is None:
        return
    z, d = volumes(5), operator.apply(volumes(6))
    x = solve(z, d)
    assert (operator.apply(x) - d).norm() < 1e-5 * d.norm()
    torch.testing.assert_close(solve(x, d), x, rtol=1e-5, atol=1e-5)
    moved = x - z
    for seed in range(3):  # what it moves by is orthogonal to what the instrument does not see
        unseen = volumes(seed + 10)
        unseen = solve(unseen, torch.zeros_like(d))
        assert (dot(moved, unseen).abs() / (dot(moved, moved) * dot(unseen, unseen)).sqrt()).max() < 1e-4
