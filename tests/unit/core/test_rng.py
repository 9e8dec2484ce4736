"""Randomness is a value: equal keys give equal numbers, different keys independent ones."""

from __future__ import annotations

import numpy as np
import torch

from volgen.core.rng import normal, permutation, uniform


def test_equal_keys_give_equal_numbers_whatever_the_global_state() -> None:
    torch.manual_seed(1)
    first = normal((5,), 3, "start", 7)
    torch.manual_seed(2)
    torch.rand(9)
    torch.testing.assert_close(first, normal((5,), 3, "start", 7), rtol=0, atol=0)


def test_a_draw_leaves_the_global_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    normal((5,), 0, "x")
    uniform(0, "x")
    permutation(9, 0, "x")
    assert torch.equal(torch.rand(3), expected)


def test_neighbouring_keys_are_uncorrelated() -> None:
    keys = [(0, "a", 0), (0, "a", 1), (1, "a", 0), (0, "b", 0), (0, "a", 10), (0, 1, "a0"), (0, "a")]
    draws = torch.stack([normal((20_000,), *key) for key in keys])
    correlation = torch.corrcoef(draws) - torch.eye(len(keys))
    assert correlation.abs().max() < 5 / 20_000**0.5
    assert draws.mean().abs() < 0.02
    assert abs(float(draws.std()) - 1) < 0.02


def test_parts_of_a_key_do_not_run_together() -> None:
    assert not torch.equal(normal((4,), 1, 23), normal((4,), 12, 3))
    assert not torch.equal(normal((4,), 0, "a", "b"), normal((4,), 0, "ab"))


def test_numbers_are_the_same_on_every_machine() -> None:
    # Recorded values: if they change, every recorded seed of every user draws another brain.
    assert [round(float(value), 4) for value in normal((3,), 0, "start", 0)] == [0.069, -0.2447, 0.0875]
    assert permutation(5, 0, "order") == [3, 4, 1, 0, 2]


def test_uniform_fills_the_unit_interval() -> None:
    values = np.array([uniform(0, index) for index in range(2000)])
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(np.histogram(values, 4, (0, 1))[0] - 500).max() < 100
