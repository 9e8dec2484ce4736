"""What each network promises beyond the conformance tests: sizes, start, shapes of weights, refused settings."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from volgen.models.haar import analyse, synthesise
from volgen.models.networks import slice_unet2d, triplanar, unet3d, wavelet_unet3d


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
