"""Haar wavelets: an orthonormal change of basis, with the variances that follow from it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from volgen.models.haar import analyse, low_pass, pyramid, synthesise, unpyramid, voxel_variance

SHAPE = (8, 4, 12)
LEVELS = (0, 1, 2)


def volumes(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def basis(levels: int) -> Tensor:
    """Every basis function of a pyramid as a row of voxels, [coefficients, voxels]."""
    count = math.prod(SHAPE)
    return unpyramid(torch.eye(count, dtype=torch.float64).view(count, 1, *SHAPE), levels).flatten(1)


def test_one_level_is_sums_and_differences_of_2x2x2_cubes() -> None:
    x = volumes(0, 2, 3, 4, 6, 2)
    c = analyse(x)
    assert c.shape == (2, 24, 2, 3, 1)
    for band in range(8):
        expected = torch.zeros(2, 3, 2, 3, 1, dtype=torch.float64)
        for i in range(2):
            for j in range(2):
                for k in range(2):
                    sign = (-1) ** (i * (band >> 2 & 1) + j * (band >> 1 & 1) + k * (band & 1))
                    expected += sign * x[:, :, i::2, j::2, k::2]
        torch.testing.assert_close(c[:, 3 * band : 3 * band + 3], expected / math.sqrt(8))


def test_synthesis_is_inverse_and_adjoint_of_analysis() -> None:
    x, c = volumes(0, 2, 3, 4, 6, 2), volumes(1, 2, 24, 2, 3, 1)
    torch.testing.assert_close(synthesise(analyse(x)), x)
    torch.testing.assert_close(analyse(synthesise(c)), c)
    torch.testing.assert_close((analyse(x) * c).sum(), (x * synthesise(c)).sum())


@pytest.mark.parametrize("levels", LEVELS)
def test_a_pyramid_is_orthonormal(levels: int) -> None:
    functions = basis(levels)
    torch.testing.assert_close(functions @ functions.T, torch.eye(len(functions), dtype=torch.float64))
    x = volumes(0, 2, 1, *SHAPE)
    torch.testing.assert_close(pyramid(x, levels).flatten(2), x.flatten(2) @ functions.T)
    torch.testing.assert_close(unpyramid(pyramid(x, levels), levels), x)


def test_a_pyramid_leaves_its_input_alone_and_treats_channels_alike() -> None:
    x = volumes(0, 2, 3, *SHAPE)
    kept = x.clone()
    together = pyramid(x, 2)
    unpyramid(together.clone(), 2)
    assert torch.equal(x, kept)
    for channel in range(3):
        torch.testing.assert_close(together[:, channel : channel + 1], pyramid(x[:, channel : channel + 1], 2))


@pytest.mark.parametrize("levels", LEVELS)
def test_the_low_pass_corner_holds_scaled_means_of_cubes(levels: int) -> None:
    x = volumes(0, 2, 1, *SHAPE)
    edge = 2**levels
    means = torch.nn.functional.avg_pool3d(x, edge) if levels else x
    corner = pyramid(x, levels)[low_pass(SHAPE, levels)]
    assert corner.shape[2:] == tuple(size // edge for size in SHAPE)
    torch.testing.assert_close(corner, means * edge**1.5)


@pytest.mark.parametrize("levels", LEVELS)
def test_voxel_variance_is_that_of_the_sum_over_basis_functions(levels: int) -> None:
    variance = volumes(3, 2, 1, *SHAPE).square()
    expected = variance.flatten(2) @ basis(levels).square()
    torch.testing.assert_close(voxel_variance(variance, levels).flatten(2), expected)
