from __future__ import annotations

import pytest
import torch
from torch import Tensor

from volgen.training.ema import EMA, EMAConfig, decay


def weights(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(7, generator=generator), torch.randn(2, 3, generator=generator)]


def closed_form(config: EMAConfig, steps: int) -> list[Tensor]:
    """sum_i (1 - d_i) prod_{j > i} d_j w_i, in float64."""
    total = [torch.zeros(7, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)]
    for i in range(1, steps + 1):
        share = 1.0 - decay(config, i)
        for j in range(i + 1, steps + 1):
            share *= decay(config, j)
        for sum_, tensor in zip(total, weights(i), strict=True):
            sum_ += share * tensor.double()
    return total


@pytest.mark.parametrize("config", [EMAConfig(), EMAConfig(decay=0.9, ramp=0.5), EMAConfig(decay=0.0), EMAConfig(decay=0.999, ramp=0.01)])
def test_the_average_is_the_closed_form(config: EMAConfig) -> None:
    ema = EMA(config, weights(0))
    for step in range(1, 61):
        ema.update(weights(step))
    for average, expected in zip(ema.average, closed_form(config, 60), strict=True):
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_untrained_weights_have_no_part_in_the_average() -> None:
    ema = EMA(EMAConfig(), [torch.full((3,), 1e6)])
    ema.update([torch.ones(3)])
    assert torch.equal(ema.average[0], torch.ones(3))


def test_decay_zero_is_the_last_iterate() -> None:
    ema = EMA(EMAConfig(decay=0.0), weights(0))
    for step in (1, 2, 3):
        ema.update(weights(step))
    assert all(torch.equal(average, last) for average, last in zip(ema.average, weights(3), strict=True))


def test_the_window_grows_with_training_and_is_bounded() -> None:
    config = EMAConfig(decay=0.99, ramp=0.1)
    assert decay(config, 1) == 0.0
    assert decay(config, 11) == pytest.approx(1 - 1 / 2)
    assert decay(config, 101) == pytest.approx(1 - 1 / 11)
    assert decay(config, 10_000) == 0.99


def test_swapping_shows_the_average_and_restores_every_bit() -> None:
    live = weights(1)
    ema = EMA(EMAConfig(), live)
    ema.update(weights(2))
    with pytest.raises(RuntimeError, match="in validation"), ema.swapped(live):  # noqa: PT012 (the failure is inside the swap)
        assert all(torch.equal(tensor, second) for tensor, second in zip(live, weights(2), strict=True))
        raise RuntimeError("in validation")
    assert all(torch.equal(tensor, first) for tensor, first in zip(live, weights(1), strict=True))
    assert all(torch.equal(average, second) for average, second in zip(ema.average, weights(2), strict=True))


def test_restoring_sets_average_and_steps() -> None:
    one, other = EMA(EMAConfig(), weights(0)), EMA(EMAConfig(), weights(9))
    for step in (1, 2, 3):
        one.update(weights(step))
    other.restore([tensor.clone() for tensor in one.average], 3)
    one.update(weights(4))
    other.update(weights(4))
    assert all(torch.equal(a, b) for a, b in zip(one.average, other.average, strict=True))
