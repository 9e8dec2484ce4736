"""Networks made of slices: who sees whom, memory in chunks, where a slice lies, and planes that are blended."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from volgen.models.networks import slice_unet2d, triplanar

SHAPE = (8, 12, 10)


def awake(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter.shape[1] ** -0.5 if parameter.dim() > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + (parameter.dim() == 1))
    return module


def joint(checkpointing: bool = False, **settings: object) -> nn.Module:
    config = slice_unet2d.Config.model_validate({"channels": (8, 16), "norm_groups": 4, **settings})
    return awake(config.build(2, checkpointing))


def inputs(batch: int = 2, shape: tuple[int, int, int] = SHAPE) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 2, *shape, generator=torch.Generator().manual_seed(1)), torch.linspace(-1, 1, batch)


@pytest.mark.parametrize("axis", ["R", "A", "S"])
@pytest.mark.parametrize("neighbours", [0, 1, 2])
def test_a_slice_sees_so_many_neighbours_along_its_axis_and_no_more(axis: str, neighbours: int) -> None:
    place = "RAS".index(axis) + 2
    network = joint(axis=axis, neighbours=neighbours)
    x, noise = inputs()
    changed = x.clone()
    changed.select(place, 4).add_(1)
    with torch.no_grad():
        moved = (network(changed, noise) - network(x, noise)).abs().movedim(place, 0).flatten(1).amax(dim=1)
    reached = [index for index, value in enumerate(moved.tolist()) if value > 0]
    assert reached == list(range(4 - neighbours, 4 + neighbours + 1))


def test_slices_are_turned_to_the_axis_and_back() -> None:
    # The same weights across another axis, on the volume turned round: the same answer, turned round.
    x, noise = inputs(shape=(8, 8, 6))
    along_s = joint(axis="S")
    along_r = joint(axis="R")
    turned = x.movedim(4, 2)
    with torch.no_grad():
        torch.testing.assert_close(along_r(turned, noise), along_s(x, noise).movedim(4, 2), rtol=1e-5, atol=1e-6)


def test_outside_of_the_volume_is_zero() -> None:
    x, noise = inputs()
    padded = torch.cat([torch.zeros_like(x[..., :1]), x, torch.zeros_like(x[..., :1])], dim=-1)
    network = joint(neighbours=1)
    nn.init.zeros_(network.embed_place.layers[2].weight)  # where a slice lies would differ
    with torch.no_grad():
        torch.testing.assert_close(network(padded, noise)[..., 1:-1], network(x, noise), rtol=1e-5, atol=1e-6)


def test_where_a_slice_lies_counts() -> None:
    x, noise = inputs()
    same = x[..., :1].expand(*x.shape)
    with torch.no_grad():
        y = joint(neighbours=0)(same.contiguous(), noise)
    assert (y[..., 0] - y[..., -1]).abs().max() > 0.01


@pytest.mark.parametrize("slices_at_once", [1, 3, 4, 100])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_chunks_and_recomputation_change_no_number(slices_at_once: int, checkpointing: bool) -> None:
    results = []
    for settings in ({"slices_at_once": 10}, {"slices_at_once": slices_at_once, "checkpointing": checkpointing}):
        network, (x, noise) = joint(**settings), inputs()  # type: ignore[arg-type]
        x.requires_grad_()
        y = network(x, noise)
        y.square().mean().backward()
        results.append([y, x.grad, *(p.grad for p in network.parameters())])
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-6)


def test_recomputation_keeps_no_activation_of_a_chunk() -> None:
    def kept(checkpointing: bool) -> int:
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        network, (x, noise) = joint(checkpointing=checkpointing, slices_at_once=2), inputs()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(x, noise)
        return sum(saved.values())

    # The volume itself (2 x 2 x 960 voxels) and what little else is needed, against every activation of every slice.
    assert kept(True) < 0.1 * kept(False)


def test_an_untrained_slice_network_returns_nothing() -> None:
    x, noise = inputs()
    for module in (slice_unet2d.Config(channels=(8,)).build(2), triplanar.Config(channels=(8,)).build(2)):
        assert not module(x, noise).any()


def test_planes_start_with_equal_weights_that_follow_the_noise() -> None:
    network = triplanar.Config(channels=(8, 16), norm_groups=4, planes=("R", "S")).build(2)
    awake(network.planes)
    x, noise = inputs()
    with torch.no_grad():
        expected = sum(plane(x, noise) for plane in network.planes) / 2
        torch.testing.assert_close(network(x, noise), expected, rtol=1e-4, atol=1e-6)
        nn.init.normal_(network.embed_weights.weight, std=5.0, generator=torch.Generator().manual_seed(0))
        weights = network.embed_weights(network.embed_noise(noise)).softmax(dim=1)
        expected = sum(weights[:, p].view(-1, 1, 1, 1, 1) * plane(x, noise) for p, plane in enumerate(network.planes))
        torch.testing.assert_close(network(x, noise), expected, rtol=1e-4, atol=1e-6)
    assert (weights[0] - weights[1]).abs().max() > 0.01


@pytest.mark.parametrize("planes", [("R",), ("R", "R"), ("R", "A", "S", "S"), ("X", "S")])
def test_planes_are_two_or_three_different_ones(planes: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        triplanar.Config.model_validate({"planes": planes})


def test_all_matrices_suit_muon_except_the_borders() -> None:
    assert {p.dim() for p in joint().parameters()} == {1, 2}
