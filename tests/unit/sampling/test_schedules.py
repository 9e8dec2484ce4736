"""Each schedule against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from volgen.sampling.schedules import karras, log_snr, vp_linear


def test_karras_is_equation_5_of_the_paper() -> None:
    grid = karras.Config(sigma_min=0.002, sigma_max=80.0, points=18, rho=7.0).grid()
    expected = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    np.testing.assert_allclose(grid, expected, rtol=1e-12)


def test_log_snr_has_a_constant_ratio() -> None:
    grid = np.array(log_snr.Config(sigma_min=0.01, sigma_max=50.0, points=9).grid())
    np.testing.assert_allclose(grid[1:] / grid[:-1], (0.01 / 50) ** (1 / 8), rtol=1e-12)


def test_vp_linear_is_the_ddpm_schedule() -> None:
    grid = vp_linear.Config(points=1000).grid()
    alpha_bar = 1.0
    for beta in np.linspace(1e-4, 0.02, 1000):
        alpha_bar *= 1 - beta
    # Known value: sqrt(alpha_bar) of the last of 1000 steps is 0.00635.
    assert math.sqrt(alpha_bar) == pytest.approx(0.00635, abs=1e-5)
    assert grid[0] == pytest.approx(math.sqrt((1 - alpha_bar) / alpha_bar), rel=1e-9)
    assert grid[-1] == pytest.approx(math.sqrt(1e-4 / (1 - 1e-4)), rel=1e-9)


def test_vp_linear_of_1000_points_is_the_table_of_the_paper() -> None:
    alpha_bar = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(vp_linear.Config(points=1000).grid()[::-1], np.sqrt((1 - alpha_bar) / alpha_bar), rtol=1e-11)


def test_vp_linear_has_the_same_ends_with_any_number_of_points() -> None:
    full = vp_linear.Config(points=1000).grid()
    for points in range(4, 1001):
        grid = vp_linear.Config(points=points).grid()
        assert (grid[0], grid[-1]) == (full[0], full[-1]), points


def test_vp_linear_lies_on_the_table_wherever_times_are_whole() -> None:
    full = vp_linear.Config(points=1000).grid()
    np.testing.assert_allclose(vp_linear.Config(points=112).grid(), full[::9], rtol=1e-11)
