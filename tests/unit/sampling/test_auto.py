"""Autoguidance: its equation, its interval, and that it goes with corners."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Problem
from volgen.core.registry import config_class
from volgen.sampling.guidances.auto import Config

Y, SIGMA = torch.randn(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5])


def denoise(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
    return 0.5 * y


PROBLEM = Problem(expected=lambda y, sigma: 0.2 * y + 1.0)


def guided(**settings: Any) -> Tensor:
    return Config(**settings).build().guide(denoise, PROBLEM, lambda k: Y)(Y, SIGMA)


def test_it_goes_on_from_what_is_expected_through_what_the_network_says() -> None:
    torch.testing.assert_close(guided(strength=3.0), 0.2 * Y + 1.0 + 3.0 * (0.5 * Y - 0.2 * Y - 1.0))
    torch.testing.assert_close(guided(strength=1.0), 0.5 * Y)


def test_outside_of_its_interval_it_does_nothing() -> None:
    assert torch.equal(guided(strength=3.0, sigma_low=0.51), 0.5 * Y) and torch.equal(guided(strength=3.0, sigma_high=0.49), 0.5 * Y)
    assert not torch.equal(guided(strength=3.0, sigma_low=0.5, sigma_high=0.5), 0.5 * Y)


def test_its_strength_may_be_another_above_some_noise_levels() -> None:
    def strength(above: Any) -> float:
        """w, found from what was made of one voxel at sigma 0.5."""
        made, better, worse = (x0.flatten()[0] for x0 in (guided(strength=2.0, strength_above=above), 0.5 * Y, 0.2 * Y + 1.0))
        return round(float((made - worse) / (better - worse)), 4)

    assert strength([]) == 2.0 and strength([[0.5, 3.0]]) == 2.0 and strength([[0.49, 3.0]]) == 3.0
    assert strength([[0.51, 4.0], [0.4, 3.0]]) == 3.0 and strength([[0.49, 4.0], [0.4, 3.0]]) == 4.0
    assert torch.equal(guided(strength=2.0, strength_above=[[0.4, 1.0]]), 0.5 * Y)
    assert Config(strength=1.0, weak="shared", strength_above=((0.4, 2.0),)).build().asks_weak(0.5)
    for level in (1.2, 0.1, 0.7):  # as 32 bits have it, a level of the grid is above or below itself
        at = Config(strength=1.0, weak="shared", strength_above=((level, 2.0),), sigma_high=level).build()
        assert at.asks_weak(level) == at.asks_weak(float(torch.tensor(level))) is False
        weak = Config(strength=2.0, weak="shared", weak_above=level).build()
        assert weak.asks_weak(level) == weak.asks_weak(float(torch.tensor(level))) is False
        high = Config(strength=2.0, weak="shared", sigma_high=level, sigma_low=level).build()
        assert high.asks_weak(level) == high.asks_weak(float(torch.tensor(level))) is True
    with pytest.raises(ValueError, match="each below the one before"):
        Config(strength_above=((0.4, 2.0), (0.4, 3.0)))


def test_it_does_not_take_what_it_would_ignore() -> None:
    with pytest.raises(UserError, match="no worse denoiser"):
        Config().build().check(Problem())
    with pytest.raises(ValueError, match="above sigma_high"):
        Config(sigma_low=2.0, sigma_high=1.0)


def test_only_guidances_that_need_whole_volumes_stop_them_from_climbing() -> None:
    needs = {kind: config_class("volgen.sampling.guidances", kind)().build().whole for kind in ("none", "auto", "projection")}  # type: ignore[attr-defined]
    assert needs == {"none": False, "auto": False, "projection": True}
