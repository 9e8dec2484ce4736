"""The sampling loop: sample i is a function of the seed and i alone, and all volumes pass a step before the next begins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Guidance, Noises, Problem, Sampler
from volgen.core.rng import normal
from volgen.sampling.descent import Descent, down, sample, up
from volgen.sampling.samplers import ddpm, dpmpp_2m, euler, heun

GRID = [8.0, 3.0, 1.0, 0.2]
SHAPE = (4, 6, 5)


def denoise(y: Tensor, sigma: Tensor) -> Tensor:
    return torch.tanh(y) * (0.25 / (0.25 + sigma**2)).view(-1, 1, 1, 1, 1)


def draw(indices: list[int], seed: int = 3) -> dict[int, Tensor]:
    volumes = sample(denoise, ddpm.Config().build(), down(GRID), seed=seed, indices=indices, shape=(1, *SHAPE))
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

    sample(spy, euler.Config().build(), down(GRID), seed=3, indices=[7], shape=(1, *SHAPE))
    torch.testing.assert_close(seen[0][0], normal((1, *SHAPE), 3, "start", 7) * 8.0)


def test_order_is_expert_major() -> None:
    asked: list[tuple[float, int]] = []

    def spy(y: Tensor, sigma: Tensor) -> Tensor:
        asked.append((round(float(sigma[0]), 6), len(sigma)))
        return denoise(y, sigma)

    sample(spy, dpmpp_2m.Config().build(), down(GRID), seed=0, indices=range(5), shape=(1, *SHAPE))
    assert asked == [(sigma, 1) for sigma in GRID for _ in range(5)], "each alone: in a batch, convolutions round differently"


def test_what_a_solver_remembers_belongs_to_its_batch() -> None:
    together = sample(denoise, dpmpp_2m.Config().build(), down(GRID), seed=0, indices=[0, 1], shape=(1, *SHAPE))
    alone = [sample(denoise, dpmpp_2m.Config().build(), down(GRID), seed=0, indices=[i], shape=(1, *SHAPE))[0] for i in (0, 1)]
    torch.testing.assert_close(torch.stack(together), torch.stack(alone), rtol=0, atol=0)


def test_each_step_of_each_sample_has_fresh_noise() -> None:
    drawn: list[Tensor] = []

    class Recorder(Sampler):
        order, stochastic = 1, True

        def step(self, denoise, x, step, memory):  # type: ignore[no-untyped-def]
            noise = step.noise()
            torch.testing.assert_close(noise, step.noise(), rtol=0, atol=0)  # a fixed function
            drawn.extend(noise.unbind())
            return x, None

    sample(denoise, Recorder(), down(GRID), seed=0, indices=[0, 1], shape=(1, *SHAPE))
    flat = torch.stack(drawn).flatten(1)
    assert len(flat) == 8
    correlation = torch.corrcoef(flat) - torch.eye(8)
    assert correlation.abs().max() < 0.45  # 120 voxels: five standard errors


def test_values_that_are_not_finite_stop_with_the_step() -> None:
    def broken(y: Tensor, sigma: Tensor) -> Tensor:
        return y * float("nan") if sigma[0] < 2 else denoise(y, sigma)

    with pytest.raises(UserError, match=r"step 3 of 4 \(sigma 1\)"):
        sample(broken, euler.Config().build(), down(GRID), seed=0, indices=[0], shape=(1, *SHAPE))


def test_no_gradient_is_kept() -> None:
    weight = torch.ones((), requires_grad=True)
    (volume,) = sample(lambda y, s: y * weight * 0.1, euler.Config().build(), down(GRID), seed=0, indices=[0], shape=(1, *SHAPE))
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
    volumes = sample(spy, solver, down(GRID), seed=3, indices=[7, 1, 4], shape=(1, *SHAPE), problem=Problem(start))
    assert asked == [((1, 1, *SHAPE), GRID[0])] * 3
    expected = [0.5 + 2.0 * normal((1, *SHAPE), 3, "start", index) for index in (7, 1, 4)]
    torch.testing.assert_close(torch.cat(seen[:3]), torch.stack(expected))
    (alone,) = sample(denoise, solver, down(GRID), seed=3, indices=[1], shape=(1, *SHAPE), problem=Problem(start))
    torch.testing.assert_close(volumes[1], alone, rtol=0, atol=1e-5)
    (plain,) = sample(denoise, solver, down(GRID), seed=3, indices=[1], shape=(1, *SHAPE))
    assert (plain - alone).abs().max() > 0.01


def test_a_sample_that_goes_up_comes_down_again() -> None:
    grid = [8.0 * 0.97**step for step in range(120)]
    x = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    solver = heun.Config().build()
    (noisy,) = sample(denoise, solver, up(grid), seed=0, indices=[0], shape=(1, *SHAPE), begin=[x])
    assert float(noisy.std()) > 2.0, "noise of the highest level"
    (back,) = sample(denoise, solver, down(grid)[:-1], seed=0, indices=[0], shape=(1, *SHAPE), begin=[noisy])
    assert (back - x).abs().max() < 5e-3


def test_a_path_may_go_up_and_down_again_in_one_descent() -> None:
    grid, x = [8.0 * 0.97**step for step in range(120)], torch.full((1, *SHAPE), 0.3)
    path = [*up(grid), *down(grid)[:-1]]
    (back,) = sample(denoise, euler.Config().build(), path, seed=0, indices=[0], shape=(1, *SHAPE), begin=[x])
    assert (back - x).abs().max() < 0.05


def test_a_solver_with_fresh_noise_does_not_go_up() -> None:
    with pytest.raises(UserError, match="goes down only"):
        Descent(denoise, ddpm.Config().build(), up(GRID), 0, (1, *SHAPE), torch.device("cpu"))


def test_a_path_without_a_joint_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="begins where"):
        Descent(denoise, euler.Config().build(), [(8.0, 3.0), (2.0, 0.0)], 0, (1, *SHAPE), torch.device("cpu"))


def test_what_is_given_belongs_to_its_volume() -> None:
    seen: list[float] = []

    def spy(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
        seen.append(float(given.values["age"]))
        return denoise(y, sigma)

    given = [Given(values={"age": torch.tensor([age])}) for age in (20.0, 70.0)]
    sample(spy, euler.Config().build(), down(GRID), seed=0, indices=[0, 1], shape=(1, *SHAPE), given=given)
    assert seen == [20.0, 70.0] * len(GRID)


class Halved(Guidance):
    """Half of what the denoiser says; draws where it may."""

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        self.drawn = [noises(0), noises(1), noises(0)]
        return lambda y_BCXYZ, sigma_B, given=NOTHING: denoise(y_BCXYZ, sigma_B) / 2


def test_a_solver_asks_what_the_guidance_made_of_the_denoiser() -> None:
    guidance = Halved()
    (guided,) = sample(denoise, euler.Config().build(), down(GRID), seed=0, indices=[3], shape=(1, *SHAPE), guidance=guidance)
    (expected,) = sample(lambda y, s: denoise(y, s) / 2, euler.Config().build(), down(GRID), seed=0, indices=[3], shape=(1, *SHAPE))
    assert torch.equal(guided, expected)
    first, second, again = guidance.drawn
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert torch.equal(first, normal((1, *SHAPE), 0, "guide", len(GRID) - 1, 3, 0)[None]), "the noise of its key"


def test_a_guidance_that_draws_wants_a_sampler_that_renoises() -> None:
    class Drawing(Halved):
        renoises = True

    with pytest.raises(UserError, match="a sampler that adds noise"):
        Descent(denoise, euler.Config().build(), down(GRID), 0, (1, *SHAPE), torch.device("cpu"), guidance=Drawing())


@pytest.mark.parametrize("differentiates", [False, True])
def test_gradients_are_kept_for_a_guidance_that_differentiates_and_for_no_other(differentiates: bool) -> None:
    class Sloped(Guidance):
        def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
            def guided(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
                y_BCXYZ = y_BCXYZ.detach().requires_grad_()
                x0 = denoise(y_BCXYZ, sigma_B)
                return x0 - torch.autograd.grad(x0.square().sum(), y_BCXYZ)[0] / 10

            return guided

    Sloped.differentiates = differentiates
    arguments: Any = {"seed": 0, "indices": [0], "shape": (1, *SHAPE), "guidance": Sloped()}
    if not differentiates:
        with pytest.raises(RuntimeError, match="does not require grad"):
            sample(denoise, euler.Config().build(), down(GRID), **arguments)
        return
    (volume,) = sample(denoise, euler.Config().build(), down(GRID), **arguments)
    assert torch.isfinite(volume).all() and not volume.requires_grad
