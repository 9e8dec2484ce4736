from __future__ import annotations

import math
import threading

import pytest
import torch
from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.training import draws
from volgen.training.draws import noise, quantiles
from volgen.training.loss import denoising_loss


def test_the_loss_is_the_weighted_mean_square_of_each_volume() -> None:
    generator = torch.Generator().manual_seed(0)
    x, z = torch.rand(3, 1, 4, 5, 6, generator=generator), torch.randn(3, 1, 4, 5, 6, generator=generator)
    sigma = torch.tensor([0.1, 1.0, 7.0])

    def half(y: Tensor, level: Tensor, given: Given = NOTHING) -> Tensor:
        return 0.5 * y

    found = denoising_loss(half, lambda level: 1 / level, x, z, sigma)
    for index, level in enumerate(sigma.tolist()):
        voxels = zip(x[index].flatten().tolist(), z[index].flatten().tolist(), strict=True)
        errors = [(0.5 * (clean + level * n) - clean) ** 2 for clean, n in voxels]
        assert float(found[index]) == pytest.approx(sum(errors) / len(errors) / level, rel=1e-5)


def test_the_exact_denoiser_of_a_gaussian_has_its_posterior_variance_as_loss() -> None:
    variance, sigma = 0.3, 0.8
    x = math.sqrt(variance) * torch.randn(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(1))
    z = noise(x, [0], 0, "test", 1)

    def exact(y: Tensor, s: Tensor, given: Given = NOTHING) -> Tensor:
        return y * variance / (variance + s[0] ** 2)

    found = denoising_loss(exact, torch.ones_like, x, z, torch.tensor([sigma]))
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


def test_draws_depend_on_seed_phase_step_and_global_position_only() -> None:
    whole = torch.zeros(4, 1, 2, 2, 2)
    together = noise(whole, [0, 1, 2, 3], 5, "1", 7)
    assert torch.equal(together[2:], noise(whole[2:], [2, 3], 5, "1", 7))
    others = [noise(whole, [0, 1, 2, 3], *key) for key in ((6, "1", 7), (5, "2", 7), (5, "1", 8))]
    assert not any(torch.equal(together, other) for other in others)
    assert quantiles(4, 5, "1", 7) == quantiles(4, 5, "1", 7)
    assert len({tuple(quantiles(4, *key)) for key in ((5, "1", 7), (6, "1", 7), (5, "2", 7), (5, "1", 8))}) == 4


def test_noise_of_large_volumes_is_drawn_side_by_side_and_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(3, 1, 4, 4, 4)
    one_by_one = noise(x, [5, 1, 7], 2, "expert", 3)
    names: set[str] = set()
    real = draws.normal
    monkeypatch.setattr(draws, "normal", lambda *key: names.add(threading.current_thread().name) or real(*key))
    monkeypatch.setattr(draws, "LARGE", 1)
    assert torch.equal(noise(x, [5, 1, 7], 2, "expert", 3), one_by_one)
    assert names and threading.main_thread().name not in names
