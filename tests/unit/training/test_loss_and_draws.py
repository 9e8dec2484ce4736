from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from volgen.core.given import NOTHING, Examples, Given
from volgen.training import draws as drawing
from volgen.training.draws import JoinedDraws, StepDraws, quantiles
from volgen.training.objectives.denoising import Config


@dataclass(frozen=True)
class Fixed:
    """A denoiser that has nothing to learn, and its weight."""

    denoise: Callable[[Tensor, Tensor], Tensor]
    weigh: Callable[[Tensor], Tensor]

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        return self.denoise(y_BCXYZ, sigma_B)

    def weight(self, sigma_B: Tensor) -> Tensor:
        return self.weigh(sigma_B)


@dataclass(frozen=True)
class OneTrainee:
    """What an objective sees of it, whichever the network."""

    fixed: Fixed
    sigma: Callable[[float], float]
    points: Sequence[float] = (1.0,)

    def denoiser(self, network: object, ids: Sequence[str] = ()) -> Fixed:
        return self.fixed


def network(inputs_BCXYZ: Tensor, noise_B: Tensor) -> Tensor:
    raise AssertionError("nobody asks it")


def test_the_loss_is_the_weighted_mean_square_of_each_volume() -> None:
    x = torch.rand(3, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    draws = StepDraws(0, "test", 1, 3, range(3))
    levels = dict(zip(draws.quantiles(), (0.1, 1.0, 7.0), strict=True))
    half = Fixed(lambda y, _: 0.5 * y, lambda sigma: 1 / sigma)
    found = Config().build(OneTrainee(half, levels.__getitem__)).loss(network, Examples(x), draws)
    for index, level in enumerate(levels.values()):
        voxels = zip(x[index].flatten().tolist(), draws.normal(x.shape[1:])[index].flatten().tolist(), strict=True)
        errors = [(0.5 * (clean + level * n) - clean) ** 2 for clean, n in voxels]
        assert float(found[index]) == pytest.approx(sum(errors) / len(errors) / level, rel=1e-5)


def test_the_exact_denoiser_of_a_gaussian_has_its_posterior_variance_as_loss() -> None:
    variance, sigma = 0.3, 0.8
    x = math.sqrt(variance) * torch.randn(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(1))
    exact = Fixed(lambda y, s: y * variance / (variance + s[0] ** 2), torch.ones_like)
    found = Config().build(OneTrainee(exact, lambda _: sigma)).loss(network, Examples(x), StepDraws(0, "test", 1, 1, [0]))
    assert float(found) == pytest.approx(variance * sigma**2 / (variance + sigma**2), rel=0.01)


def test_each_batch_has_one_quantile_in_each_stratum() -> None:
    for step in range(200):
        drawn = sorted(quantiles(8, 3, "5", step))
        assert [int(quantile * 8) for quantile in drawn] == list(range(8))
        assert all(0.0 <= quantile < 1.0 for quantile in drawn)


def test_quantiles_of_one_position_are_uniform_over_steps() -> None:
    drawn = sorted(quantiles(4, 11, "0", step)[2] for step in range(2000))
    # Kolmogorov-Smirnov: 1.63 / sqrt(n) is the 1 % point for independent draws.
    assert max(abs(value - (index + 0.5) / 2000) for index, value in enumerate(drawn)) < 1.63 / math.sqrt(2000)


def test_a_batch_of_one_covers_the_span_evenly_over_steps() -> None:
    """With K = T and one volume for each step, plain draws would leave some noise levels out for long."""
    counts = [0] * 10
    for step in range(100):
        counts[int(quantiles(1, 0, "0", step)[0] * 10)] += 1
    assert min(counts) >= 8
    assert max(counts) <= 12


def test_draws_depend_on_seed_phase_step_purpose_and_global_position_only() -> None:
    shape, everybody = (1, 2, 2, 2), range(4)
    whole = StepDraws(5, "1", 7, 4, everybody)
    together, quantiles_of_all = whole.normal(shape), whole.quantiles()
    halves = [StepDraws(5, "1", 7, 4, rows) for rows in ([0, 1], [2, 3])]
    assert torch.equal(together[2:], halves[1].normal(shape)) and quantiles_of_all[2:] == halves[1].quantiles()
    joined = JoinedDraws(halves)
    assert torch.equal(joined.normal(shape), together) and joined.quantiles() == quantiles_of_all and joined.step == 7
    others = [StepDraws(6, "1", 7, 4, everybody), StepDraws(5, "2", 7, 4, everybody), StepDraws(5, "1", 8, 4, everybody)]
    assert not any(torch.equal(together, other.normal(shape)) for other in others)
    assert not any(quantiles_of_all == other.quantiles() for other in others)
    assert not torch.equal(together, whole.normal(shape, "dropout")) and quantiles_of_all != whole.quantiles("dropout")


def test_noise_of_large_volumes_is_drawn_side_by_side_and_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, shape = StepDraws(2, "expert", 3, 8, [5, 1, 7]), (1, 4, 4, 4)
    one_by_one = drawn.normal(shape)
    names: set[str] = set()
    real = drawing.normal
    monkeypatch.setattr(drawing, "normal", lambda *key: names.add(threading.current_thread().name) or real(*key))
    monkeypatch.setattr(drawing, "LARGE", 1)
    assert torch.equal(drawn.normal(shape), one_by_one)
    assert names and threading.main_thread().name not in names
