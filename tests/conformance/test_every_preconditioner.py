"""Every file in volgen/models/preconditioners keeps the promises of ``Preconditioner`` and ``PreconditionerConfig``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.core.registry import config_class, kinds
from volgen.models.corners import FittedCorners
from volgen.models.denoiser import PreconditionedDenoiser, Preconditioner
from volgen.models.haar import means, spread

PACKAGE = "volgen.models.preconditioners"
KINDS = kinds(PACKAGE)
SHAPE = (16, 8, 8)
PEOPLE = [f"person-{index // 2}" for index in range(20)]  # two scans of each
SIGMAS = torch.tensor([0.02, 0.3, 2.0, 80.0])


def config(kind: str) -> Any:
    return config_class(PACKAGE, kind)()


def cohort() -> Iterator[Tensor]:
    """20 volumes that share a shape and differ in size and detail, in [-1, 1]."""
    random = torch.Generator().manual_seed(0)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    radius = sum(axis**2 for axis in axes)
    for _ in range(20):
        size = 0.8 + 0.3 * torch.rand((), generator=random)
        texture = 0.15 * torch.randn(SHAPE, generator=random)
        yield torch.where(radius < size, 0.4 + texture, torch.tensor(-1.0)).clamp(-1, 1)


def fitted(kind: str) -> Preconditioner:
    return config(kind).fit(cohort, PEOPLE, seed=0)  # type: ignore[no-any-return]


def noisy(seed: int = 3) -> tuple[Tensor, Tensor]:
    """Clean volumes and the same with one noise level of SIGMAS each."""
    clean = torch.stack(list(cohort())[: len(SIGMAS)])[:, None]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return clean, clean + SIGMAS.view(-1, 1, 1, 1, 1) * noise


def silent(x: Tensor, noise: Tensor) -> Tensor:
    return torch.zeros_like(x[:, :1])


def test_the_promised_preconditioners_exist() -> None:
    assert set(KINDS) >= {"gaussian", "edm", "x0", "v", "epsilon", "flow"}


@pytest.mark.parametrize("kind", KINDS)
def test_network_sees_the_declared_inputs_at_unit_scale(kind: str) -> None:
    _, y = noisy()
    seen: list[tuple[Tensor, Tensor]] = []

    def network(x: Tensor, noise: Tensor) -> Tensor:
        seen.append((x, noise))
        return torch.zeros_like(x[:, :1])

    x0 = fitted(kind).denoise(network, y, SIGMAS)
    assert x0.shape == y.shape
    assert torch.isfinite(x0).all()
    ((x, noise),) = seen
    assert x.shape == (len(SIGMAS), config(kind).inputs, *SHAPE)
    scale = x[:, 0].flatten(1).square().mean(dim=1).sqrt()
    assert ((scale > 0.2) & (scale < 3)).all(), scale
    torch.testing.assert_close(noise, SIGMAS.log() / 4)


@pytest.mark.parametrize("kind", KINDS)
def test_weight_is_positive_and_one_number_per_volume(kind: str) -> None:
    weight = fitted(kind).weight(SIGMAS)
    assert weight.shape == SIGMAS.shape
    assert torch.isfinite(weight).all()
    assert (weight > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_state_survives_safetensors(kind: str) -> None:
    _, y = noisy()
    first = fitted(kind)
    again = config(kind).restore(load(save(first.state())))
    assert torch.equal(first.denoise(silent, y, SIGMAS), again.denoise(silent, y, SIGMAS))
    assert torch.equal(first.weight(SIGMAS), again.weight(SIGMAS))
    assert {name: tensor.shape for name, tensor in again.state().items()} == {name: t.shape for name, t in first.state().items()}
    moved = again.to(torch.device("cpu"))
    assert torch.equal(moved.denoise(silent, y, SIGMAS), first.denoise(silent, y, SIGMAS))


@pytest.mark.parametrize("kind", KINDS)
def test_volumes_of_a_batch_do_not_see_each_other(kind: str) -> None:
    _, y = noisy()
    preconditioner = fitted(kind)
    together = preconditioner.denoise(silent, y, SIGMAS)
    for row in range(len(SIGMAS)):
        alone = preconditioner.denoise(silent, y[row : row + 1], SIGMAS[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_learning_lowers_the_error_at_every_noise_level(kind: str) -> None:
    # D is affine in the network's output, so the squared error is quadratic: one step of steepest descent with exact line search
    # must lower it, unless the network is cut off somewhere.
    clean, y = noisy()
    preconditioner = fitted(kind)
    output = torch.zeros_like(y, requires_grad=True)
    start = preconditioner.denoise(lambda x, n: output, y, SIGMAS)
    before = (start - clean).square().flatten(1).mean(dim=1)
    (gradient,) = torch.autograd.grad(before.sum(), output)
    assert torch.isfinite(gradient).all()
    direction = preconditioner.denoise(lambda x, n: gradient, y, SIGMAS) - start.detach()
    length = (direction * (clean - start.detach())).flatten(1).sum(dim=1) / direction.square().flatten(1).sum(dim=1)
    after = (start.detach() + length.view(-1, 1, 1, 1, 1) * direction - clean).square().flatten(1).mean(dim=1)
    assert (after < 0.9 * before.detach()).all(), (before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_training_sees_each_volume_through_a_fit_without_its_person(kind: str) -> None:
    # Otherwise a network learns to correct an estimate that is better than what any new person gets. So the estimate of a person may
    # not move when that person's own scans change. At high noise it is the mean; variances, which all people share, do not count.
    _, y = noisy()
    y, sigma = y[:2], torch.tensor([80.0, 80.0])

    def with_another_first_person() -> Iterator[Tensor]:
        for index, volume in enumerate(cohort()):
            yield -volume if PEOPLE[index] == PEOPLE[0] else volume

    before, after = fitted(kind), config(kind).fit(with_another_first_person, PEOPLE, seed=0)
    for numbers in ([0, 1], [1, 0]):
        moved = after.held_out(numbers).denoise(silent, y, sigma) - before.held_out(numbers).denoise(silent, y, sigma)
        assert moved.abs().max() < 0.01
    others = after.held_out([10, 11]).denoise(silent, y, sigma) - before.held_out([10, 11]).denoise(silent, y, sigma)
    assert kind != "gaussian" or others.abs().max() > 0.05, "the change was too small for this test to see"


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_in_float32_whatever_the_network_returns(kind: str) -> None:
    _, y = noisy()
    x0 = PreconditionedDenoiser(lambda x, n: silent(x, n).bfloat16(), fitted(kind))(y, SIGMAS)
    assert x0.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_fit_is_a_function_of_the_data_and_the_seed(kind: str) -> None:
    first, second = fitted(kind).state(), fitted(kind).state()
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_blank_is_as_large_as_a_fit(kind: str) -> None:
    shapes, expected = (
        {name: (tensor.shape, tensor.dtype) for name, tensor in made.state(training=True).items()}
        for made in (config(kind).blank(SHAPE, len(PEOPLE)), fitted(kind))
    )
    assert shapes == expected


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_expected_is_what_a_silent_network_leaves(kind: str) -> None:
    _, y = noisy()
    torch.testing.assert_close(fitted(kind).expected(y, SIGMAS), fitted(kind).denoise(silent, y, SIGMAS))


@pytest.mark.parametrize("kind", KINDS)
def test_at_a_coarser_level_it_is_a_preconditioner_of_means(kind: str) -> None:
    whole = fitted(kind)
    assert whole.coarse(0) is whole
    for level in range(1, min(config(kind).coarsest, 3) + 1):
        x = torch.stack(list(cohort()))[: len(SIGMAS), None, :: 2**level, :: 2**level, :: 2**level]
        coarse = whole.coarse(level)
        for seen in (coarse, coarse.held_out([0, 1, 2, 3]), whole.coarse(level).to(torch.device("cpu"))):
            assert seen.denoise(silent, x, SIGMAS).shape == seen.prior(x, 1.0).shape == x.shape
            assert seen.weight(SIGMAS).shape == SIGMAS.shape


@pytest.mark.parametrize("kind", [kind for kind in KINDS if config(kind).coarsest])
@pytest.mark.parametrize("sigma", [0.05, 0.7, 20.0])
def test_one_noise_is_one_path_of_the_flow_in_bands_that_a_level_may_leave_out(kind: str, sigma: float) -> None:
    """dx/ds = (x - D)/s: so bands may be drawn at any noise level, and solvers know where they come from."""

    def bands(x: Tensor) -> Tensor:
        return x - spread(means(x, 1), 1)

    made, noise, h = fitted(kind), torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(1)), 0.01 * sigma
    found = (made.noised(noise, sigma + h) - made.noised(noise, sigma - h)) / (2 * h)
    x = made.noised(noise, sigma)
    expected = (x - made.expected(x, torch.tensor([sigma]))) / sigma
    torch.testing.assert_close(bands(found), bands(expected), rtol=1e-3, atol=1e-3 * float(bands(expected).abs().max()))


def units(count: int = 40) -> Tensor:
    return torch.randn(count, 1, *SHAPE, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", KINDS)
def test_volumes_spread_as_the_skip_path_says(kind: str) -> None:
    """C = sigma^2 times the derivative of what is expected; but for what of that is not symmetric, which no covariance can be."""
    preconditioner = fitted(kind)
    covariance = preconditioner.covariance
    if covariance is None:
        return
    _, y = noisy()
    for sigma in (0.1, 0.5, 3.0):
        at = torch.full((len(y),), sigma)
        step = units(len(y))
        slope = preconditioner.expected(y + step, at) - preconditioner.expected(y, at)
        found = covariance.times(step, sigma)
        assert (found - sigma**2 * slope).norm() < 0.2 * found.norm()
        other = units()[: len(y)].flip(0)
        left, right = (found * other).sum(), (step * covariance.times(other, sigma)).sum()
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3 * float(found.norm()))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_has_the_covariance(kind: str) -> None:
    covariance = fitted(kind).covariance
    if covariance is None:
        return
    count = 16 * 8 * 8
    basis, zeros = torch.eye(count).view(count, 1, *SHAPE), torch.zeros(count, 1, *SHAPE)
    for sigma in (0.3, float("inf")):
        columns = torch.cat([covariance.drawn(basis, zeros, sigma).flatten(1), covariance.drawn(zeros, basis, sigma).flatten(1)])
        exact = covariance.times(basis, sigma).flatten(1)
        torch.testing.assert_close(columns.T @ columns, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))
        variances, rest = covariance.strengths(sigma)
        for direction, variance in zip(covariance.directions, variances, strict=True):
            torch.testing.assert_close(covariance.times(direction[None], sigma)[0], variance * direction, rtol=1e-3, atol=1e-4)
        assert rest == pytest.approx(float(exact.diagonal().mean()), rel=0.5 if len(variances) else 1e-5)


FLOWING = [kind for kind in KINDS if config(kind).fit(cohort, PEOPLE, seed=0).flow_map is not None]
TO = torch.tensor([0.0, 1.0, 0.3, 2.0])
"""Lower and higher than SIGMAS."""


@pytest.mark.parametrize("kind", FLOWING)
def test_the_flow_leaves_what_goes_nowhere_as_it_is(kind: str) -> None:
    _, y = noisy()
    for preconditioner in (fitted(kind), fitted(kind).held_out([0, 1, 2, 3])):
        assert preconditioner.flow_map is not None
        for level in (SIGMAS, torch.zeros(len(SIGMAS))):
            assert torch.equal(preconditioner.flow_map(y, level, level), y)


@pytest.mark.parametrize("kind", FLOWING)
def test_segments_of_the_flow_compose(kind: str) -> None:
    _, y = noisy()
    for preconditioner in (fitted(kind), fitted(kind).held_out([0, 1, 2, 3]), fitted(kind).coarse(0)):
        flow = preconditioner.flow_map
        assert flow is not None
        for middle in (0.1, 0.9, 30.0):
            between = torch.full_like(SIGMAS, middle)
            inside = flow(y, SIGMAS, between)
            largest = float(torch.cat([y, inside]).abs().max())
            torch.testing.assert_close(flow(inside, between, TO), flow(y, SIGMAS, TO), rtol=0.0, atol=1e-5 * largest)


@pytest.mark.parametrize("kind", FLOWING)
def test_one_noise_is_one_path_of_the_flow(kind: str) -> None:
    made, noise = fitted(kind), units(1)
    assert made.flow_map is not None
    for sigma, to in ((20.0, 0.7), (0.7, 0.0), (0.05, 3.0)):
        found = made.flow_map(made.noised(noise, sigma), torch.tensor([sigma]), torch.tensor([to]))
        torch.testing.assert_close(found, made.noised(noise, to), rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("kind", [kind for kind in FLOWING if config(kind).fitted])
def test_corners_flow_as_the_whole_volume_does(kind: str) -> None:
    made, (_, y) = fitted(kind), noisy()
    assert made.flow_map is not None
    corners, scale = FittedCorners(made), 2**1.5
    whole = means(made.flow_map(y, SIGMAS, TO), 1) * scale
    torch.testing.assert_close(corners.flowed(1, means(y, 1) * scale, SIGMAS, TO), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", sorted({*KINDS} - {*FLOWING}))
def test_where_there_is_no_distribution_there_is_no_flow(kind: str) -> None:
    with pytest.raises(ValueError, match="the denoiser of no distribution"):
        FittedCorners(fitted(kind)).flowed(0, units(1), torch.ones(1), torch.zeros(1))


@pytest.mark.parametrize("kind", KINDS)
def test_told_nothing_that_it_knows_of_it_is_what_it_is(kind: str) -> None:
    fit, (_, y) = fitted(kind), noisy()
    assert fit.told(NOTHING) is fit and fit.told(Given(fitted={"age": torch.full((4,), float("nan"))})) is fit
    assert fit.told(Given(fitted={"age": torch.ones(4)})) is fit, "nothing was said of people when it was fitted"
    assert fit.carried(y, 3.0, fit) is y and fit.carried(y, 3.0, fitted(kind)) is y
