"""Generator and critics: one pass gives both their gradients, critics are 1-Lipschitz layers, and the score is a proper one."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.nn import functional

from volgen.models import adversaries
from volgen.models.adversaries import Adversaries, Critic, HierarchicalGenerator, energy_score

SHAPE = (8, 16, 16)


def both() -> Adversaries:
    torch.manual_seed(0)
    return Adversaries(HierarchicalGenerator(SHAPE, 6, 8, 2), 4, 2)


def test_one_backward_pass_gives_the_critic_its_gradient_and_the_generator_the_non_saturating_one() -> None:
    critic, made, real = Critic(4, 2), torch.randn(3, 1, *SHAPE), torch.randn(3, 1, *SHAPE)
    weight = torch.tensor(0.7, requires_grad=True)
    adversaries._contest(critic, real, weight * made).sum().backward()
    ours = {name: parameter.grad.clone() for name, parameter in critic.named_parameters() if parameter.grad is not None}
    found = weight.grad
    critic.zero_grad()
    (functional.softplus(-critic(real)) + functional.softplus(critic((weight * made).detach()))).sum().backward()
    assert ours.keys() == {name for name, _ in critic.named_parameters()}
    for name, parameter in critic.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad)
    (own,) = torch.autograd.grad(functional.softplus(-critic(weight * made)).sum(), weight)
    torch.testing.assert_close(found, own)


def test_the_gradient_of_an_example_is_its_own() -> None:
    network = both()
    normal, real, place = torch.randn(2, 1, 6, 1, 1), torch.randn(2, 1, *SHAPE), torch.tensor([0.1, 0.9])
    together = network(normal, torch.zeros(2), real=real, place=place)
    together.sum().backward()
    whole = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    for row in range(2):
        one = slice(row, row + 1)
        loss = network(normal[one], torch.zeros(1), real=real[one], place=place[one])
        torch.testing.assert_close(loss, together[one])
        loss.sum().backward()
    for parameter, expected in zip(network.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


def test_slabs_of_volumes_are_at_the_places_of_their_features() -> None:
    """Features and volumes that say where they are: the critic of detail sees the same places of both."""
    places = torch.arange(16.0).expand(2, 1, *SHAPE).contiguous()
    first = torch.tensor([0, 2])
    slabs = adversaries._slabs(places, adversaries.COARSE * first, 8)
    assert slabs[0, 0, 0, 0].tolist() == list(range(8)) and slabs[1, 0, 0, 0].tolist() == list(range(8, 16))
    network, seen = both(), []
    network.of_slabs.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.randn(2, 1, 6, 1, 1), torch.zeros(2), real=places, place=torch.tensor([0.0, 0.999]))
    made, real = seen
    assert made.shape == real.shape == (2, 1, 8, 16, 8)
    assert real[:, 0, 0, 0, 0].tolist() == [0.0, 8.0]


def test_a_whole_volume_is_what_its_slabs_are_away_from_their_borders() -> None:
    generator = HierarchicalGenerator((8, 16, 64), 6, 8, 2).eval()
    with torch.no_grad():
        features = generator.features(torch.randn(1, 6))
        for block in generator.modules():  # groups are normalised over what is there, which a slab has less of
            if isinstance(block, torch.nn.GroupNorm):
                block.forward = lambda x: x  # type: ignore[method-assign]
        whole, part = generator.fine(features), generator.fine(features[..., 4:12])
    torch.testing.assert_close(whole[..., 24:40], part[..., 8:24])


def test_the_largest_singular_value_of_a_critics_layer_is_one() -> None:
    layer = adversaries._Normalised(3, 5, 1)
    seen = []
    original = functional.conv3d

    def watched(x: torch.Tensor, weight: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        seen.append(weight)
        return original(x, weight, *rest, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "conv3d", watched)
        layer(torch.randn(1, 3, 4, 4, 4)).sum().backward()
    assert float(torch.linalg.matrix_norm(seen[0].detach().flatten(1), 2)) == pytest.approx(1.0, abs=1e-5)
    assert layer.weight.grad is not None
    # A scale of the weight is no freedom: its gradient is at right angles to it.
    weight, gradient = layer.weight.detach(), layer.weight.grad
    assert abs(float((gradient * weight).sum())) < 1e-3 * float(gradient.norm() * weight.norm())


def test_the_energy_score_is_smallest_for_the_generator_that_draws_as_people_are() -> None:
    random = torch.Generator().manual_seed(0)

    def drawn(mean: float, deviation: float) -> torch.Tensor:
        return mean + deviation * torch.randn(20000, 1, 1, 1, 2, generator=random)

    people = drawn(0.0, 1.0)

    def score(mean: float, deviation: float) -> float:
        return float(energy_score(people, [drawn(mean, deviation), drawn(mean, deviation)]).mean())

    best = score(0.0, 1.0)
    assert all(best + 0.02 < score(*other) for other in ((0.5, 1.0), (0.0, 0.4), (0.0, 1.8)))


def test_a_step_of_both_brings_the_generator_to_people() -> None:
    """Volumes that are 0.6 everywhere: after some steps those that are drawn are so too."""
    network = both()
    optimiser = torch.optim.Adam(network.parameters(), 2e-3, betas=(0.5, 0.99))
    real = torch.full((4, 1, *SHAPE), 0.6)
    before = (network(torch.randn(4, 1, 6, 1, 1), torch.zeros(4)) - 0.6).abs().mean()
    for _ in range(60):
        optimiser.zero_grad()
        network(torch.randn(4, 1, 6, 1, 1), torch.zeros(4), real=real, place=torch.rand(4)).mean().backward()
        optimiser.step()
    after = (network(torch.randn(4, 1, 6, 1, 1), torch.zeros(4)) - 0.6).abs().mean()
    assert float(after.detach()) < 0.5 * float(before.detach())


def test_a_step_leaves_nothing_behind() -> None:
    """A score that its own graph holds would keep the graph of every step."""
    critic, kept = Critic(4, 2), []
    critic.register_forward_hook(lambda _, inputs, score: kept.append(weakref.ref(score)))
    adversaries._contest(critic, torch.randn(1, 1, *SHAPE), torch.randn(1, 1, *SHAPE, requires_grad=True)).sum().backward()
    gc.collect()
    assert len(kept) == 2 and not [score for score in kept if score() is not None]


def test_a_slab_whose_place_was_rounded_to_1_is_the_last_one() -> None:
    """The largest quantile below 1 is 1 in float32."""
    network, normal, real = both(), torch.randn(1, 1, 6, 1, 1), torch.randn(1, 1, *SHAPE)
    last, rounded = (network(normal, torch.zeros(1), real=real, place=torch.tensor([place])) for place in (0.999, 1.0 - 2.0**-53))
    assert torch.equal(last, rounded)
