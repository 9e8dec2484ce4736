"""Conjugate gradients against dense linear algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from volgen.core.conjugate import Limits, Linear, Woodbury, conjugate_gradients, corrected, explained, inner, moved
from volgen.core.protocols import Operator
from volgen.operators.cartesian import Config as Cartesian

SHAPE = (4, 6, 5)
N = math.prod(SHAPE)
EXACT = Limits(1e-6, 400)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def real(data: Tensor) -> Tensor:
    return torch.view_as_real(data).flatten(1) if data.is_complex() else data.flatten(1)


def operator(**settings: object) -> Operator:
    return Cartesian(coils=3, phase=0.6, mask={"kind": "random", "acceleration": 2.0}, **settings).build(SHAPE, torch.device("cpu"))


def dense(instrument: Operator) -> Tensor:
    """A as a real matrix in double precision, a complex number as two rows."""
    return real(instrument.apply(torch.eye(N).view(N, 1, *SHAPE))).T.double()


def prior() -> Tensor:
    root = drawn(N, 3, seed=5).double()
    return root @ root.T + 0.1 * torch.eye(N, dtype=torch.float64)


@pytest.mark.parametrize("complex_", [False, True])
def test_it_solves_what_dense_algebra_solves(complex_: bool) -> None:
    dtype = torch.complex128 if complex_ else torch.float64
    root = drawn(9, 9, dtype=dtype)
    matrix, right = root @ root.mH + torch.eye(9, dtype=dtype), drawn(3, 9, seed=1, dtype=dtype)
    found = conjugate_gradients(lambda x: x @ matrix.T, right, limits=Limits(1e-10, 100))
    torch.testing.assert_close(found.x, torch.linalg.solve(matrix, right.T).T, rtol=1e-7, atol=1e-8)
    assert (found.left_B < 1e-10).all() and found.iterations <= 25


def test_the_neighbours_in_a_batch_change_nothing() -> None:
    root = drawn(20, 20)
    matrix = root @ root.T + torch.eye(20)
    easy = torch.linalg.eigh(matrix).eigenvectors[:, -1]
    right = torch.stack([easy, drawn(20, seed=3), torch.zeros(20)])

    def solve(rows: Tensor) -> Tensor:
        return conjugate_gradients(lambda x: (x[:, None] * matrix).sum(2), rows, limits=Limits(1e-3)).x

    together = solve(right)
    assert torch.equal(together, torch.cat([solve(row[None]) for row in right]))
    assert together[2].abs().max() == 0


def test_limits_are_kept_and_a_start_is_used() -> None:
    matrix = torch.diag(torch.logspace(0, 4, 50))
    right = drawn(1, 50)
    short = conjugate_gradients(lambda x: x @ matrix, right, limits=Limits(1e-8, 5))
    assert short.iterations == 5 and short.left_B > 1e-8
    whole = conjugate_gradients(lambda x: x @ matrix, right, limits=Limits(1e-4, 500))
    assert conjugate_gradients(lambda x: x @ matrix, right, limits=Limits(2e-4, 500), start=whole.x).iterations == 0
    better = conjugate_gradients(lambda x: x @ matrix, right, limits=Limits(1e-4, 500), precondition=lambda r: r / matrix.diagonal())
    assert better.iterations <= 2 < whole.iterations


@pytest.mark.parametrize("gamma", [0.2, 30.0])
def test_the_volume_nearest_to_prior_and_data(gamma: float) -> None:
    instrument, z, x = operator(), drawn(2, 1, *SHAPE), drawn(2, 1, *SHAPE, seed=1)
    data = instrument.apply(x) + 0.1
    matrix = dense(instrument)
    right = z.flatten(1).double().T + gamma * matrix.T @ real(data).double().T
    expected = torch.linalg.solve(torch.eye(N, dtype=torch.float64) + gamma * matrix.T @ matrix, right).T
    found = explained(instrument, z, data, gamma, limits=EXACT)
    torch.testing.assert_close(found.x.flatten(1), expected.float(), rtol=1e-4, atol=1e-4)
    again = explained(instrument, z, data, gamma, limits=Limits(1e-4), start=found.x)
    assert again.iterations == 0


def test_with_infinite_weight_it_is_the_pseudo_inverse() -> None:
    instrument, z = operator(seed=2), drawn(1, 1, *SHAPE)
    data = instrument.apply(drawn(1, 1, *SHAPE, seed=1))
    matrix = dense(instrument)
    expected = z.flatten(1).double() + (torch.linalg.pinv(matrix, rtol=1e-4) @ (real(data).double().T - matrix @ z.flatten(1).double().T)).T
    found = explained(instrument, z, data, math.inf, limits=Limits(1e-6, 2000))
    assert (found.x.flatten(1) - expected).norm() < 0.02 * (expected - z.flatten(1)).norm()


@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_what_data_change_in_a_gaussian(noise: float) -> None:
    instrument, covariance = operator(), prior()
    residual = instrument.apply(drawn(2, 1, *SHAPE))
    matrix = dense(instrument)
    system = matrix @ covariance @ matrix.T + noise**2 * torch.eye(len(matrix), dtype=torch.float64)
    expected = (covariance @ matrix.T @ torch.linalg.solve(system, real(residual).double().T)).T

    def spread(x: Tensor) -> Tensor:
        return (x.flatten(1).double() @ covariance).float().view_as(x)

    found = corrected(instrument, spread, residual, noise, limits=Limits(1e-5, 600))
    torch.testing.assert_close(found.x_BCXYZ.flatten(1), expected.float(), rtol=5e-3, atol=5e-3)
    assert corrected(instrument, spread, residual, noise, limits=Limits(1e-4), start=found.data).iterations <= 1

    directions = instrument.apply(drawn(N, 3, seed=5).T.reshape(3, 1, *SHAPE))
    inverse = Woodbury(directions).inverse(torch.ones(3), 0.05 + noise**2)
    helped = corrected(instrument, spread, residual, noise, limits=Limits(1e-5, 600), precondition=inverse)
    torch.testing.assert_close(helped.x_BCXYZ.flatten(1), expected.float(), rtol=5e-3, atol=5e-3)
    assert helped.iterations < found.iterations


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_data_move_a_mean_alike_in_few_iterations_where_some_variances_are_large(strength: float) -> None:
    instrument, noise = operator(), 0.02
    axes, variances = torch.linalg.qr(drawn(N, N, seed=8).double())[0], torch.logspace(3, -4, N, dtype=torch.float64)
    covariance, matrix = axes * variances @ axes.T, dense(instrument).double()
    residual = instrument.apply(drawn(2, 1, *SHAPE))
    expected = covariance @ matrix.T @ torch.linalg.solve(
        matrix @ covariance @ matrix.T + noise**2 * torch.eye(len(matrix), dtype=torch.float64), real(residual).double().T
    )  # fmt: skip
    near = axes * (1 / (1 / variances + strength / noise**2)) @ axes.T

    def times(by: Tensor) -> Linear:
        return lambda x_BCXYZ: (x_BCXYZ.flatten(1).double() @ by).float().view_as(x_BCXYZ)

    found = moved(instrument, times(near), strength, residual, noise, limits=Limits(1e-4, 400))
    assert (found.x.flatten(1) - expected.T).norm() < 5e-3 * expected.norm()
    other = corrected(instrument, times(covariance), residual, noise, limits=Limits(1e-4, 400))
    assert found.iterations < other.iterations / 2
    nothing = moved(instrument, times(near), strength, torch.zeros_like(residual), noise)
    assert not nothing.x.any() and nothing.iterations == 0


def test_woodbury_is_the_inverse() -> None:
    instrument = operator()
    directions = instrument.apply(drawn(4, 1, *SHAPE))
    weights = torch.tensor([3.0, 0.0, 0.5, 20.0])
    rows = real(directions).double()
    system = 0.3 * torch.eye(rows.shape[1], dtype=torch.float64) + rows.T @ torch.diag(weights.double()) @ rows
    data = instrument.apply(drawn(2, 1, *SHAPE, seed=7))
    found = Woodbury(directions).inverse(weights, 0.3)(data)
    assert found.dtype == data.dtype and found.shape == data.shape
    torch.testing.assert_close(real(found), torch.linalg.solve(system, real(data).double().T).T.float(), rtol=1e-4, atol=1e-4)


def test_inner_products_are_real() -> None:
    a, b = drawn(2, 3, dtype=torch.complex64), drawn(2, 3, seed=1, dtype=torch.complex64)
    torch.testing.assert_close(inner(a, b), (a.conj() * b).sum(1).real)
