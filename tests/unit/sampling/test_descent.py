"""The sampling loop: sample i is a function of the seed and i alone, and all volumes pass a step before the next begins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.rng import normal
from volgen.sampling.descent import sample
from volgen.sampling.samplers import ddpm, dpmpp_2m, euler

GRID = [8.0, 3.0, 1.0, 0.2]
SHAPE = (4, 6, 5)


def denoise(y: Tensor, sigma: Tensor) -> Tensor:
    return torch.tanh(y) * (0.25 / (0.25 + sigma**2)).view(-1, 1, 1, 1, 1)


def draw(indices: list[int], seed: int = 3) -> dict[int, Tensor]:
    volumes = sample(denoise, ddpm.Config().build(), GRID, seed=seed, indices=indices, shape=SHAPE)
    return dict(zip(indices, volumes, strict=True))


def test_sample_does_not_depend_on_count_or_order() -> None:
    alone = draw([4])[4]
    assert alone.shape == (1, *SHAPE)
    for indices in ([0, 1, 2, 3, 4], [4, 2, 0], [9, 4, 7]):
        assert torch.equal(draw(indices)[4], alone)


def test_seed_and_index_change_the_sample() -> None:
    first = draw([0, 1])
    assert (first[0] - first[1]).abs().max() > 0.1
    assert (first[0] - draw([0], seed=4)[0]).abs().max() > 0.1


def test_start_has_the_first_noise_level_and_the_recorded_key() -> None:
    seen: list[Tensor] = []

    def spy(y: Tensor, sigma: Tensor) -> Tensor:
        seen.append(y.clone())
        return denoise(y, sigma)

    sample(spy, euler.Config().build(), GRID, seed=3, indices=[7], shape=SHAPE)
    torch.testing.assert_close(seen[0][0], normal((1, *SHAPE), 3, "start", 7) * 8.0)


def test_order_is_expert_major() -> None:
    asked: list[tuple[float, int]] = []

    def spy(y: Tensor, sigma: Tensor) -> Tensor:
        asked.append((round(float(sigma[0]), 6), len(sigma)))
        return denoise(y, sigma)

    sample(spy, dpmpp_2m.Config().build(), GRID, seed=0, indices=range(5), shape=SHAPE)
    assert asked == [(sigma, 1) for sigma in GRID for _ in range(5)], "each alone: in a batch, convolutions round differently"


def test_what_a_solver_remembers_belongs_to_its_batch() -> None:
    together = sample(denoise, dpmpp_2m.Config().build(), GRID, seed=0, indices=[0, 1], shape=SHAPE)
    alone = [sample(denoise, dpmpp_2m.Config().build(), GRID, seed=0, indices=[i], shape=SHAPE)[0] for i in (0, 1)]
    torch.testing.assert_close(torch.stack(together), torch.stack(alone), rtol=0, atol=0)


def test_each_step_of_each_sample_has_fresh_noise() -> None:
    drawn: list[Tensor] = []

    class Recorder:
        order, stochastic = 1, True

        def step(self, denoise, x, step, memory):  # type: ignore[no-untyped-def]
            noise = step.noise()
            torch.testing.assert_close(noise, step.noise(), rtol=0, atol=0)  # a fixed function
            drawn.extend(noise.unbind())
            return x, None

    sample(denoise, Recorder(), GRID, seed=0, indices=[0, 1], shape=SHAPE)
    flat = torch.stack(drawn).flatten(1)
    assert len(flat) == 8
    correlation = torch.corrcoef(flat) - torch.eye(8)
    assert correlation.abs().max() < 0.45  # 120 voxels: five standard errors


def test_values_that_are_not_finite_stop_with_the_step() -> None:
    def broken(y: Tensor, sigma: Tensor) -> Tensor:
        return y * float("nan") if sigma[0] < 2 else denoise(y, sigma)

    with pytest.raises(UserError, match=r"step 3 of 4 \(sigma 1\)"):
        sample(broken, euler.Config().build(), GRID, seed=0, indices=[0], shape=SHAPE)


def test_no_gradient_is_kept() -> None:
    weight = torch.ones((), requires_grad=True)
    (volume,) = sample(lambda y, s: y * weight * 0.1, euler.Config().build(), GRID, seed=0, indices=[0], shape=SHAPE)
    assert not volume.requires_grad


def test_start_may_be_another_distribution_and_still_depends_on_seed_and_index_alone() -> None:
    asked: list[tuple[torch.Size, float]] = []
    seen: list[Tensor] = []

    def start(noise: Tensor, sigma: float) -> Tensor:
        asked.append((noise.shape, sigma))
        return 0.5 + 2.0 * noise

    def spy(y: Tensor, sigma: Tensor) -> Tensor:
        seen.append(y.clone())
        return denoise(y, sigma)

    solver = euler.Config().build()
    volumes = sample(spy, solver, GRID, seed=3, indices=[7, 1, 4], shape=SHAPE, start=start)
    assert asked == [((1, 1, *SHAPE), GRID[0])] * 3
    expected = [0.5 + 2.0 * normal((1, *SHAPE), 3, "start", index) for index in (7, 1, 4)]
    torch.testing.assert_close(torch.cat(seen[:3]), torch.stack(expected))
    (alone,) = sample(denoise, solver, GRID, seed=3, indices=[1], shape=SHAPE, start=start)
    torch.testing.assert_close(volumes[1], alone, rtol=0, atol=1e-5)
    (plain,) = sample(denoise, solver, GRID, seed=3, indices=[1], shape=SHAPE)
    assert (plain - alone).abs().max() > 0.01
