"""What each network promises beyond the conformance tests: sizes, start, shapes of weights, refused settings."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from volgen.experts._weights import narrowed
from volgen.models.convolution import Conv
from volgen.models.haar import analyse, synthesise
from volgen.models.networks import slice_unet2d, triplanar, unet3d, wavelet_unet3d
from volgen.models.networks._place import PlaceConfig, Places
from volgen.models.networks._residual_unet import FilmNorm, PixelNorm
from volgen.models.place import PLACES, beginnings, coordinates


def wavelet(inputs: int = 2, checkpointing: bool = False, awake: bool = True, **settings: object) -> nn.Module:
    config = wavelet_unet3d.Config.model_validate({"channels": (8, 16, 24), "norm_groups": 4, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = config.build(inputs, checkpointing)
        if awake:
            for parameter in module.parameters():
                if parameter.dim() == 2:
                    nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return module


def volume(*shape: int, inputs: int = 2, batch: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, inputs, *shape, generator=torch.Generator().manual_seed(1)), torch.linspace(-1, 1, batch)


def test_an_untrained_wavelet_network_returns_nothing() -> None:
    x, noise = volume(8, 8, 8)
    assert not wavelet(awake=False)(x, noise).any()
    assert wavelet()(x, noise).std() > 0.01


def test_an_untrained_wavelet_network_can_learn() -> None:
    # Only the last layer is zero in the way of the gradient: after one step of it, the gradient reaches the first.
    module, (x, noise) = wavelet(awake=False), volume(8, 8, 8)
    module(x, noise).sub(1).square().mean().backward()
    assert module.unembed_volume.weight.grad.any()
    assert not module.embed_volume.weight.grad.any()
    with torch.no_grad():
        module.unembed_volume.weight -= 0.1 * module.unembed_volume.weight.grad
    module(x, noise).sub(1).square().mean().backward()
    assert module.embed_volume.weight.grad.any()


@pytest.mark.parametrize("shape", [(10, 6, 14), (12, 10, 8), (2, 4, 6)])
def test_edges_that_are_odd_inside_come_out_whole(shape: tuple[int, int, int]) -> None:
    # 10 voxels are 5 coefficients, 3 at the second resolution and 2 at the third.
    x, noise = volume(*shape)
    y = wavelet()(x, noise)
    assert y.shape == (2, 1, *shape)
    assert torch.isfinite(y).all()
    changed = x.clone()
    changed[:, :, -2:, -2:, -2:] += 1
    moved = (wavelet()(changed, noise) - y).abs()
    assert moved[:, :, -2:, -2:, -2:].max() > 0.01, "the last cube, which the padding touches, is seen"


@pytest.mark.parametrize("haar_levels", [1, 2])
def test_the_border_layers_work_on_haar_coefficients(haar_levels: int) -> None:
    # With every block's output silenced but the first and last layer, the network is synthesise(last(SiLU(norm(first(analyse(x)))))).
    module = wavelet(inputs=1, haar_levels=haar_levels, channels=(8,))
    for name, parameter in module.named_parameters():
        if "conv2" in name:
            nn.init.zeros_(parameter)
    skip = module.up[0][0].skip
    with torch.no_grad():
        skip.weight.copy_(torch.cat([torch.eye(8), torch.zeros(8, 8)], dim=1))  # of [h, skip], both the same here
    x, noise = volume(8, 8, 4, inputs=1)
    c = x
    for _ in range(haar_levels):
        c = analyse(c)
    h = nn.functional.conv3d(c, module.embed_volume.weight.view(8, 8**haar_levels, 3, 3, 3), module.embed_volume.bias, padding=1)
    h = nn.functional.silu(nn.functional.group_norm(h, 4, module.last_norm.weight, module.last_norm.bias))
    expected = nn.functional.conv3d(h, module.unembed_volume.weight.view(8**haar_levels, 8, 3, 3, 3), module.unembed_volume.bias, padding=1)
    for _ in range(haar_levels):
        expected = synthesise(expected)
    torch.testing.assert_close(module(x, noise), expected, rtol=1e-4, atol=1e-5)


def test_recomputing_wavelet_activations_changes_no_number() -> None:
    results = []
    for checkpointing in (False, True):
        module, (x, noise) = wavelet(checkpointing=checkpointing), volume(8, 12, 8)
        x.requires_grad_()
        y = module(x, noise)
        y.square().mean().backward()
        results.append([y, x.grad, *(p.grad for p in module.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=1e-5, atol=1e-7)


def test_wavelet_parameters_are_counted_by_hand() -> None:
    def conv(inputs: int, outputs: int, size: int = 3) -> int:
        return outputs * inputs * size**3 + outputs

    def block(inputs: int, outputs: int, embedding: int) -> int:
        film, norms = (embedding + 1) * 2 * outputs, 2 * inputs + 2 * outputs
        return norms + conv(inputs, outputs) + film + conv(outputs, outputs) + (conv(inputs, outputs, 1) if inputs != outputs else 0)

    e = 4 * 8
    noise = (2 * 16 + 1) * e + (e + 1) * e
    down = 2 * block(8, 8, e) + conv(8, 16) + 2 * block(16, 16, e)
    up = block(16 + 16, 16, e) + block(16, 16, e) + block(16 + 8, 8, e) + block(8, 8, e)
    borders = conv(2 * 8, 8) + 2 * 8 + conv(8, 8)
    module = wavelet(inputs=2, channels=(8, 16), residual_blocks=2)
    assert sum(p.numel() for p in module.parameters()) == noise + borders + down + block(16, 16, e) + up


def test_every_wavelet_weight_is_a_matrix_or_a_vector() -> None:
    assert {p.dim() for p in wavelet(haar_levels=2, residual_blocks=2).parameters()} == {1, 2}


def test_the_wavelet_network_tells_noise_levels_apart_everywhere_on_the_axis() -> None:
    # log(sigma) / 4 for sigma from 0.002 to 600; neighbours a factor of 1.2 apart.
    noise = torch.arange(-1.55, 1.6, 0.045)
    features = wavelet().embed_noise(noise)
    distances = (features[1:] - features[:-1]).norm(dim=1)
    assert distances.min() > 0.05 * features.norm(dim=1).mean()


def test_norm_groups_that_divide_no_width_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"norm_groups 4 does not divide every width of \[8, 10\]"):
        wavelet_unet3d.Config(channels=(8, 10), norm_groups=4)
    with pytest.raises(ValidationError, match=r"norm_groups 4 does not divide every width of \[8, 10\]"):
        unet3d.Config(channels=(8, 10), attention=(False, False), head_channels=2, norm_groups=4)


@pytest.mark.parametrize(("channels", "attention", "head_channels", "attended"), [
    ((32, 48), (False, False), 32, "[48]"), ((48, 64), (True, False), 32, "[48, 64]"), ((32, 16), (False, True), 32, "[16]"),
])  # fmt: skip
def test_heads_that_do_not_fit_attention_are_refused(
    channels: tuple[int, ...], attention: tuple[bool, ...], head_channels: int, attended: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        unet3d.Config(channels=channels, attention=attention, head_channels=head_channels)
    assert f"head_channels {head_channels} does not divide every width with attention, {attended}" in str(caught.value)


def test_head_channels_must_be_positive_and_attention_needs_an_entry_for_each_width() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        unet3d.Config(head_channels=0)
    with pytest.raises(ValidationError, match="attention has 2 entries for 3 resolutions"):
        unet3d.Config(attention=(False, False))


@pytest.mark.parametrize(
    ("channels", "attention"), [((24, 16), (False, False)), ((24, 16), (False, True)), ((16, 16), (True, True)), ((8,), (True,))]
)
def test_what_the_configuration_accepts_monai_builds_and_runs(channels: tuple[int, ...], attention: tuple[bool, ...]) -> None:
    module = unet3d.Config(channels=channels, attention=attention, head_channels=8, norm_groups=8).build(inputs=2)
    x, noise = volume(4, 6, 4)
    with torch.no_grad():
        assert module(x, noise).shape == (2, 1, 4, 6, 4)


def test_multiples_are_what_the_resolutions_need() -> None:
    assert [wavelet_unet3d.Config(haar_levels=levels).multiples for levels in (1, 2, 3)] == [(2,) * 3, (4,) * 3, (8,) * 3]
    assert unet3d.Config(channels=(32, 64, 64), attention=(False,) * 3).multiples == (4, 4, 4)
    assert unet3d.Config(channels=(32,), attention=(False,)).multiples == (1, 1, 1)
    assert [slice_unet2d.Config(axis=axis, haar_levels=2).multiples for axis in "RAS"] == [(1, 4, 4), (4, 1, 4), (4, 4, 1)]
    assert triplanar.Config(planes=("R", "S")).multiples == (2, 2, 2)


THIN = {
    "x-of-2": (wavelet_unet3d.Config(channels=(16, 32), norm_groups=8), (8, 8, 8)),
    "x-of-2-monai": (unet3d.Config(channels=(16, 32), attention=(False, False), head_channels=8, norm_groups=8), (4, 8, 8)),
    "x-of-2-local": (wavelet_unet3d.Config(channels=(16, 32), norm="pixel"), (8, 8, 8)),
    "z-of-1-local": (wavelet_unet3d.Config(channels=(16, 32), norm="pixel"), (16, 16, 2)),
    "z-of-1": (wavelet_unet3d.Config(channels=(16, 32), norm_groups=8), (16, 16, 2)),
    "slices-of-1": (slice_unet2d.Config(channels=(16, 32), norm_groups=8), (8, 2, 8)),
}
"""Networks and volumes that come to a size inside where oneDNN's bf16 takes what was in memory for a gradient."""


def thin(case: str) -> tuple[nn.Module, Tensor]:
    config, shape = THIN[case]
    torch.manual_seed(0)
    module = config.build(1)
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return module, torch.randn(1, 1, *shape)


@pytest.mark.parametrize("case", THIN)
def test_gradients_of_volumes_that_are_thin_inside_are_right_in_bf16(case: str) -> None:
    module, x = thin(case)
    largest = max(parameter.numel() for parameter in module.parameters())

    def gradients(bf16: bool) -> Tensor:
        poison = [torch.full((size,), torch.nan) for size in (largest, largest // 2, 2 * largest) for _ in range(4)]
        del poison
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = module(x, torch.zeros(1))
        return torch.cat([g.flatten() for g in torch.autograd.grad((y.float() - x).square().mean(), list(module.parameters()))])

    right = gradients(False)
    for _ in range(8):
        assert (gradients(True) - right).norm() < 0.05 * right.norm()


@pytest.mark.parametrize("case", THIN)
def test_volumes_that_are_thin_inside_can_be_drawn_with_weights_in_bf16(case: str) -> None:
    module, x = thin(case)
    right = module(x, torch.zeros(1)).detach()
    for parameter in module.parameters():  # as a bank of a run that was trained in bf16 holds them
        parameter.requires_grad_(False)
        if parameter.dim() > 1:
            parameter.data = parameter.data.bfloat16()
    for guided in (False, True):  # a gradient of the volume, none of the weights
        x = x.clone().requires_grad_(guided)
        with torch.set_grad_enabled(guided), torch.autocast("cpu", torch.bfloat16):
            y = module(x, torch.zeros(1)).float()
        assert (y - right).norm() < 0.05 * right.norm()
        assert not guided or torch.isfinite(torch.autograd.grad(y.sum(), x)[0]).all()


def local(inputs: int = 2, **settings: object) -> nn.Module:
    return wavelet(inputs, **{"norm": "pixel", **settings})


@pytest.mark.parametrize("dims", [2, 3])
def test_a_voxel_is_normalised_over_its_channels(dims: int) -> None:
    torch.manual_seed(0)
    x, scale, shift = torch.randn(2, 6, *[4] * dims), torch.randn(2, 6), torch.randn(2, 6)
    plain = (x - x.mean(dim=1, keepdim=True)) / (x.var(dim=1, keepdim=True, correction=0) + 1e-5).sqrt()
    norm = PixelNorm(6)
    weight, bias = norm.norm.weight, norm.norm.bias
    nn.init.normal_(weight)
    nn.init.normal_(bias)

    def over(value: Tensor) -> Tensor:
        return value.view(*value.shape, *[1] * dims)

    torch.testing.assert_close(norm(x), plain * over(weight[None]) + over(bias[None]))
    torch.testing.assert_close(FilmNorm(6)(x, scale, shift), plain * (1 + over(scale)) + over(shift))
    doubles = [value.double().requires_grad_() for value in (x, scale, shift)]
    assert torch.autograd.gradcheck(lambda h, a, b: FilmNorm(6)(h, a, b), doubles)


@pytest.mark.parametrize("batch", [1, 2])
def test_every_convolution_of_a_local_network_sees_channels_last_in_bf16(batch: int) -> None:
    # Otherwise each would turn its input round and back, which takes as long as the rest of what is not a convolution.
    module, (x, noise) = local(channels=(8, 16), residual_blocks=2), volume(16, 24, 16, batch=batch)
    seen: list[bool] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        (h,) = inputs
        seen.append(h.is_contiguous(memory_format=torch.channels_last_3d) and (len(seen) == 0 or h.dtype == torch.bfloat16))
        seen.append(output.is_contiguous(memory_format=torch.channels_last_3d) and output.dtype == torch.bfloat16)

    for layer in module.modules():
        if isinstance(layer, Conv):
            layer.register_forward_hook(look)
    with torch.autocast("cpu", torch.bfloat16):
        module(x, noise)
    assert len(seen) > 20 and all(seen)


def test_a_local_network_sees_a_neighbourhood_and_a_normalised_volume_all_of_it() -> None:
    x, noise = volume(96, 4, 4, batch=1)
    changed = x.clone()
    changed[:, :, 0] += 1.0
    for module, far in ((local(channels=(8, 16)), False), (wavelet(channels=(8, 16)), True)):
        moved = (module(changed, noise) - module(x, noise)).abs().amax(dim=(0, 1, 3, 4))
        assert moved[0] > 0 and bool(moved[-8:].any()) is far


def test_features_of_places_are_trilinear_between_their_nodes() -> None:
    places = Places(2, PlaceConfig(grid=(2, 3, 1)), edge=2)
    nodes = torch.stack(torch.meshgrid(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0]), torch.zeros(1), indexing="ij"))
    with torch.no_grad():  # a function that is linear in the coordinates, and one that is linear in |y|
        places.features.copy_(torch.stack([3 * nodes[0] - nodes[1] + 0.5, nodes[1].abs()]).flatten(1))
    where = torch.cat([coordinates((32, 16, 8), (8, 0, 4), (8, 12, 4)), coordinates((32, 16, 8), (24, 4, 0), (8, 12, 4))])
    found = places(where)
    x, y, _ = torch.nn.functional.avg_pool3d(where, 2).unbind(1)
    torch.testing.assert_close(found, torch.stack([3 * x - y + 0.5, y.abs()], dim=1))
    assert found.is_contiguous(memory_format=torch.channels_last_3d)


def test_a_network_with_places_can_tell_them_apart_and_learns_to() -> None:
    module = local(inputs=1 + PLACES, channels=(8,), place={"grid": 3})
    x, noise = volume(8, 8, 8, inputs=1, batch=1)
    here, there = (torch.cat([x, coordinates((32, 32, 32), start, (8, 8, 8))], dim=1) for start in ((0, 0, 0), (24, 24, 24)))
    nn.init.zeros_(module.embed_place.features)
    assert torch.equal(module(here, noise), module(there, noise)), "it begins without them"
    module(here, noise).sum().backward()
    reached = module.embed_place.features.grad.view(8, 3, 3, 3)
    assert reached[:, :2, :2, :2].all() and not reached[:, 2].any(), "only nodes around the piece learn from it"
    nn.init.normal_(module.embed_place.features)
    assert not torch.allclose(module(here, noise), module(there, noise))


def test_features_of_places_kept_in_bf16_change_no_bit_under_autocast() -> None:
    module = local(inputs=1 + PLACES, channels=(8,), place={"grid": 3})
    x, noise = volume(8, 8, 8, inputs=1, batch=1)
    x = torch.cat([x, coordinates((16, 16, 8), (8, 0, 0), (8, 8, 8))], dim=1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = module(x, noise)
        assert torch.equal(narrowed(module, torch.bfloat16)(x, noise), before)
    assert module.embed_place.features.dtype == torch.bfloat16


@pytest.mark.parametrize("start", [(0, 0, 0), (8, 4, 2), (300, 0, 6)])
def test_where_a_piece_begins_follows_from_its_coordinates(start: tuple[int, int, int]) -> None:
    shape, size = (311, 8, 10), (11, 4, 4)
    assert beginnings(coordinates(shape, start, size), shape, (1, 1, 1)).tolist() == [list(start)]
    made_up = torch.randn(3, PLACES, *size) * 5
    found = beginnings(made_up, (320, 8, 12), (4, 4, 2))
    assert (found % torch.tensor([4, 4, 2]) == 0).all() and (found >= 0).all() and (found <= torch.tensor([309, 4, 8])).all()
