"""Every file in volgen/models/networks keeps the promises of ``NetworkConfig``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from volgen.core.registry import config_class, kinds
from volgen.experts._weights import narrowed

PACKAGE = "volgen.models.networks"
# Small enough for a test; a file without an entry is tested with its defaults. What stands behind a slash is one more way to set it up.
SMALL: dict[str, dict[str, Any]] = {
    "unet3d": {"channels": (8, 16), "attention": (False, True), "head_channels": 8, "norm_groups": 4},
    "slice_unet2d": {"channels": (8, 16), "norm_groups": 4, "neighbours": 1, "slices_at_once": 3},
    "triplanar": {"channels": (8, 16), "norm_groups": 4, "neighbours": 1, "slices_at_once": 3},
    "wavelet_unet3d": {"channels": (8, 16), "norm_groups": 4},
    "wavelet_unet3d/pixel": {"channels": (8, 16), "norm": "pixel"},
    "wavelet_unet3d/plain": {"channels": (8, 16), "norm": "pixel", "haar_levels": 0},
    "slice_unet2d/pixel": {"channels": (8, 16), "norm": "pixel", "neighbours": 1, "slices_at_once": 3},
}
KINDS = sorted({*kinds(PACKAGE), *SMALL})


def config(kind: str) -> Any:
    return config_class(PACKAGE, kind.split("/")[0]).model_validate(SMALL.get(kind, {}))


def awake(kind: str, inputs: int, checkpointing: bool = False) -> nn.Module:
    """A network with random weights everywhere: a last layer of zeros would hide the rest."""
    torch.manual_seed(0)
    module: nn.Module = config(kind).build(inputs=inputs, checkpointing=checkpointing)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return module


def volumes(kind: str, inputs: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    shape = tuple(edge * max(1, round(size / edge)) for size, edge in zip((8, 12, 16), config(kind).multiples, strict=True))
    x = torch.randn(batch, inputs, *shape, generator=torch.Generator().manual_seed(1))
    return x, torch.linspace(-1.0, 1.0, batch)


def test_the_promised_networks_exist() -> None:
    assert set(KINDS) >= {"unet3d", "wavelet_unet3d", "slice_unet2d", "triplanar"}


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_shape_is_kept_and_one_channel_comes_out(kind: str, inputs: int) -> None:
    x, noise = volumes(kind, inputs)
    with torch.no_grad():
        y = awake(kind, inputs)(x, noise)
    assert y.shape == (2, 1, *x.shape[2:])
    assert torch.isfinite(y).all()
    assert y.std() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_may_have_several_channels(kind: str) -> None:
    torch.manual_seed(0)
    module = config(kind).build(inputs=2, outputs=3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, noise = volumes(kind, 2)
    with torch.no_grad():
        y = module(x, noise)
    assert y.shape == (2, 3, *x.shape[2:])
    assert (y[:, 0] - y[:, 1]).abs().max() > 0 and (y[:, 1] - y[:, 2]).abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_edge_of_the_declared_multiple_is_enough(kind: str) -> None:
    a, b, c = config(kind).multiples
    for factor in (3, 5):
        x = torch.randn(1, 1, a * factor, b * 4, c * 2)
        with torch.no_grad():
            assert awake(kind, 1)(x, torch.zeros(1)).shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_every_parameter(kind: str) -> None:
    # A parameter without a gradient hangs sharded training and fails under differential privacy.
    module = awake(kind, 2)
    x, noise = volumes(kind, 2)
    module(x, noise).square().mean().backward()
    silent = [name for name, p in module.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("kind", KINDS)
def test_output_depends_on_noise_level_and_every_input_channel(kind: str) -> None:
    module = awake(kind, 2).eval()
    x, noise = volumes(kind, 2)
    with torch.no_grad():
        y = module(x, noise)
        assert (module(x, noise + 0.5) - y).abs().max() > 1e-4
        for channel in range(2):
            changed = x.clone()
            changed[:, channel] += torch.randn_like(x[:, 0])
            assert (module(changed, noise) - y).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_volumes_of_a_batch_do_not_see_each_other(kind: str) -> None:
    module = awake(kind, 1).eval()
    x, noise = volumes(kind, 1)
    with torch.no_grad():
        together, alone = module(x, noise), module(x[1:], noise[1:])
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_memory_and_nothing_else(kind: str) -> None:
    x, noise = volumes(kind, 1)
    results = []
    for checkpointing in (False, True):
        module = awake(kind, 1, checkpointing)
        loss = module(x, noise).square().mean()
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in module.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_survive_safetensors(kind: str) -> None:
    module, other = awake(kind, 1), config(kind).build(inputs=1)
    other.load_state_dict(load(save(module.state_dict())))
    x, noise = volumes(kind, 1)
    with torch.no_grad():
        assert torch.equal(module.eval()(x, noise), other.eval()(x, noise))


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_built_without_memory(kind: str) -> None:
    with torch.device("meta"):
        module = config(kind).build(inputs=1)
    assert all(p.is_meta for p in module.parameters())
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in awake(kind, 1).parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_kept_in_bf16_change_no_bit_under_autocast(kind: str) -> None:
    x, noise = volumes(kind, 1)
    module = awake(kind, 1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = module(x, noise)
        assert torch.equal(narrowed(module, torch.bfloat16)(x, noise), before)
