"""Every file in volgen/models/views keeps the promises of ``ViewConfig``, at every level."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.core.protocols import Shape3
from volgen.core.registry import config_class, kinds
from volgen.data.scan import VolumeScan
from volgen.models.denoiser import PreconditionedDenoiser
from volgen.models.model import ExpertModel

PACKAGE = "volgen.models.views"
KINDS = kinds(PACKAGE)
SHAPE = (16, 8, 24)
# Small enough for a test; what stands behind a slash is one more way to set it up.
SMALL: dict[str, dict[str, Any]] = {
    "patches": {"edge": [4, 2, 2]},
    "patches/tiles": {"edge": 2, "per_scan": 3, "foreground": 0.5, "tile": [2, 2, 4]},
    "whole/placed": {"place": True},
}
KINDS = sorted({*KINDS, *SMALL})
LEVELS = (0, 1, 2)
EDM: Any = config_class("volgen.models.preconditioners", "edm")()
ASSEMBLY: Any = config_class("volgen.models.assemblies", "whole")()
NETWORK: Any = config_class("volgen.models.networks", "wavelet_unet3d").model_validate({"channels": [8], "norm": "pixel"})


def model(kind: str, level: int) -> ExpertModel:
    view: Any = config_class(PACKAGE, kind.split("/")[0]).model_validate(SMALL.get(kind, {}))
    return ExpertModel(NETWORK, view, level)


def scan() -> VolumeScan:
    volume = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return VolumeScan(SHAPE, lambda: volume)


def network(made: ExpertModel) -> torch.nn.Module:
    torch.manual_seed(0)
    built: torch.nn.Module = NETWORK.build(inputs=made.inputs(EDM) + made.view.known)
    for parameter in built.parameters():  # the last layer begins with zeros
        torch.nn.init.normal_(parameter, std=0.1)
    return built


def test_the_off_object_exists() -> None:
    assert "whole" in KINDS


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_example_has_the_declared_shape_and_can_be_trained_on(kind: str, level: int) -> None:
    made = model(kind, level)
    cut = made.cut(ASSEMBLY.cut, EDM)
    example = cut(scan(), 0, 4, 1)
    x, known = example.x_BCXYZ, example.given.channels
    assert x.shape == (1, 1, *made.piece(SHAPE, EDM)) and x.dtype == torch.float32 and x.abs().max() <= 1
    assert made.view.known == (0 if known is None else known.shape[1])
    assert torch.equal(x, cut(scan(), 0, 4, 1).x_BCXYZ), "a function of scan, seed and key"
    assert made.view.examples(made.shape(SHAPE)) >= 1
    bare = network(made)
    denoise = made.of_examples(bare, EDM.blank(SHAPE, 4).coarse(level))
    assert denoise.weight(torch.tensor([0.7, 3.0])).shape == (2,)
    x0 = denoise(x, torch.tensor([made.sigma(0.7)]), example.given)
    assert x0.shape == (1, 1, *made.piece(SHAPE, EDM))
    assert torch.autograd.grad(x0.square().mean(), list(bare.parameters())[-1])[0].abs().sum() > 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
def test_outside_it_is_a_denoiser_of_whole_volumes_that_can_be_differentiated(kind: str, level: int) -> None:
    made = model(kind, level)
    denoise = made.denoiser(network(made), EDM.blank(SHAPE, 4))
    y, sigma = torch.randn(2, 1, *SHAPE).requires_grad_(), torch.tensor([0.3, 4.0])
    x0 = denoise(y, sigma)
    assert x0.shape == y.shape and torch.isfinite(x0).all()
    assert torch.autograd.grad(x0.sum(), y)[0].abs().min() > 0
    alone = torch.cat([denoise(y[row : row + 1], sigma[row : row + 1]) for row in range(2)])
    torch.testing.assert_close(alone, x0, rtol=1e-4, atol=1e-5)


def test_the_whole_volume_at_full_resolution_is_the_preconditioned_network_bit_for_bit() -> None:
    made = model("whole", 0)
    bare, preconditioner = network(made), EDM.blank(SHAPE, 4)
    y, sigma = torch.randn(2, 1, *SHAPE), torch.tensor([0.3, 4.0])
    assert torch.equal(made.denoiser(bare, preconditioner)(y, sigma), PreconditionedDenoiser(bare, preconditioner)(y, sigma))
    assert torch.equal(made.of_examples(bare, preconditioner)(y, sigma), PreconditionedDenoiser(bare, preconditioner)(y, sigma))
    assert made.cut(ASSEMBLY.cut, EDM) == ASSEMBLY.cut
    assert made.sigma(0.3) == 0.3 and torch.equal(made.sigma(sigma), sigma)


@pytest.mark.parametrize("level", LEVELS[1:])
def test_a_coarser_level_sees_means_of_cubes(level: int) -> None:
    edge = 2**level
    example = model("whole", level).cut(ASSEMBLY.cut, EDM)(scan(), 0).x_BCXYZ
    shape: Shape3 = tuple(size // edge for size in SHAPE)  # type: ignore[assignment]
    x: Tensor = scan().whole()
    for place in ((0, 0, 0), (1, 1, 2), tuple(size - 1 for size in shape)):
        cube = x[tuple(slice(at * edge, (at + 1) * edge) for at in place)]
        torch.testing.assert_close(example[(0, 0, *place)], cube.mean())
