"""Dropout is something that a network is told: nothing without it, the same for an example wherever it is computed, none in sampling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from volgen.core.config import validate
from volgen.methods import Fitted
from volgen.models.condition import Conditioned
from volgen.models.dropout import dropping, features_kept
from volgen.models.networks import slice_unet2d, triplanar, wavelet_unet3d
from volgen.models.networks._residual_unet import Block
from volgen.models.preconditioners import edm
from volgen.recipe import Recipe
from volgen.training.draws import StepDraws

CONFIGS: dict[str, Any] = {
    "groups": wavelet_unet3d.Config(channels=(8, 12), norm_groups=4, residual_blocks=2),
    "voxels": wavelet_unet3d.Config(channels=(8, 12), norm="pixel"),
    "slices": slice_unet2d.Config(channels=(8, 12), norm_groups=4, slices_at_once=3),
    "planes": triplanar.Config(channels=(8,), norm_groups=4),
}


def awake(config: Any, **more: Any) -> nn.Module:
    torch.manual_seed(2)
    network: nn.Module = config.build(1, **more)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.3)
    return network


def batch(config: Any, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x, noise = torch.randn(count, 1, 8, 8, 8, generator=generator), torch.linspace(-0.6, 0.5, count)
    return x, noise, features_kept(torch.randn(count, config.features, generator=generator), 0.4)


@pytest.mark.parametrize("kind", ["groups", "voxels"])
def test_it_is_what_multiplying_the_features_of_each_block_is(kind: str) -> None:
    network, (x, noise, kept_BK) = awake(CONFIGS[kind]), batch(CONFIGS[kind])
    places = iter(range(1000))
    used: list[int] = []

    def left_out(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        mine = kept_BK[:, [next(places) for _ in range(inputs[0].shape[1])]]
        used.append(mine.shape[1])
        return (inputs[0] * mine[:, :, None, None, None],)

    told = network(x, noise, kept_BK=kept_BK)
    assert torch.equal(network(x, noise, kept_BK=torch.ones_like(kept_BK)), network(x, noise))
    for block in network.modules():
        if isinstance(block, Block):
            block.conv2.register_forward_pre_hook(left_out)
    torch.testing.assert_close(told, network(x, noise))
    assert sum(used) == kept_BK.shape[1], "no feature is told twice or never"


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_an_example_is_the_same_wherever_it_is_computed(kind: str) -> None:
    config = CONFIGS[kind]
    network, (x, noise, kept_BK) = awake(config), batch(config)
    together = network(x, noise, kept_BK=kept_BK)
    assert (together - network(x, noise)).abs().max() > 0.1
    for row in range(len(x)):
        rows = slice(row, row + 1)
        torch.testing.assert_close(network(x[rows], noise[rows], kept_BK=kept_BK[rows]), together[rows], rtol=1e-4, atol=1e-5)
    again = awake(config, checkpointing=True)(x, noise, kept_BK=kept_BK)
    torch.testing.assert_close(again, together)
    found = []
    for checkpointing in (False, True):
        same = awake(config, checkpointing=checkpointing)
        found.append(torch.autograd.grad(dropping(same, kept_BK)(x, noise).square().mean(), list(same.parameters())))
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(plain, recomputed)
    network.eval()
    assert torch.equal(network(x, noise, kept_BK=kept_BK), network(x, noise)), "nothing is left out of what is judged"


def test_samples_of_one_example_leave_out_the_same_features() -> None:
    network, (x, noise, kept_BK) = awake(CONFIGS["voxels"]), batch(CONFIGS["voxels"], count=4)
    found = dropping(network, kept_BK[:2])(x, noise)
    assert torch.equal(found, network(x, noise, kept_BK=kept_BK[[0, 0, 1, 1]]))


class Number(nn.Linear):
    """A condition's module."""

    def forward(self, value: Tensor) -> Tensor:
        return super().forward(value.view(-1, 1))


def test_a_network_that_is_told_conditions_leaves_out_features_too() -> None:
    config = CONFIGS["groups"]
    network, (x, noise, kept_BK) = awake(config), batch(config)
    told = Conditioned(network, [], config.embedding)
    told.embed_told["of_age"], told.embed_untold["of_age"] = Number(1, config.embedding), Number(1, config.embedding, bias=False)
    told._edges = {"age": ()}
    age = torch.tensor([0.3, 0.5, 0.1])
    expected = network(x, noise, told.embed_told["of_age"](age), kept_BK=kept_BK)
    assert torch.equal(dropping(told, kept_BK)(x, noise, {"age": age}), expected)


def test_as_many_are_left_out_as_was_said_and_the_mean_stays() -> None:
    drawn = features_kept(torch.randn(400, 500, generator=torch.Generator().manual_seed(0)), 0.15)
    assert sorted(set(drawn.flatten().tolist())) == pytest.approx([0.0, 1 / 0.85])
    assert float((drawn == 0).float().mean()) == pytest.approx(0.15, abs=0.003)
    assert float(drawn.mean()) == pytest.approx(1.0, abs=0.004)


def test_a_recipe_leaves_out_features_in_training_alone_and_nothing_unless_asked(tmp_path: Path) -> None:
    def built(**network: float) -> tuple[Any, nn.Module, Any]:
        content = {
            "name": "run", "data": {"store": str(tmp_path), "shape": [8, 8, 8], "batch_size": 3},
            "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 20.0}, "experts": {"count": 1},
            "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4, **network},
            "preconditioner": {"kind": "edm"},
        }  # fmt: skip
        method = validate(Recipe, content, "test").build()
        phase = method.phases()[-1]
        return method, awake(wavelet_unet3d.Config(channels=(8,), norm_groups=4)), method.objective(phase, Fitted(edm.Config().restore({})))

    plain, dropped = built(), built(dropout=0.4)
    method, network, objective = dropped
    examples = method.examples(3, torch.ones)

    def loss(of: tuple[Any, nn.Module, Any], step: int, positions: Sequence[int] = (0, 1, 2)) -> Tensor:
        found: Tensor = of[2].loss(of[1], examples[list(positions)], StepDraws(1, "expert", step, 3, positions))
        return found.detach()

    assert type(plain[2]) is not type(objective)
    assert not torch.equal(loss(plain, 1), loss(dropped, 1)) and torch.equal(loss(dropped, 1), loss(dropped, 1))
    torch.testing.assert_close(loss(dropped, 1, [2]), loss(dropped, 1)[2:])
    network.eval()
    assert torch.equal(loss(plain, 1), loss(dropped, 1)), "validation and audits see all features"
