"""Coils and fields that are made up, and maps that are estimated."""

from __future__ import annotations

import pytest
import torch

from volgen.acquisition.coils import coil_maps, estimated_maps
from volgen.acquisition.fields import smooth_field
from volgen.acquisition.kspace import from_kspace, to_kspace

SHAPE = (24, 20, 28)


def test_maps_are_smooth_unlike_and_of_unit_power() -> None:
    maps = coil_maps(6, SHAPE, seed=1)
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(SHAPE))
    assert max(float(maps.diff(dim=axis).abs().max()) for axis in (1, 2, 3)) < 0.4
    assert torch.equal(maps, coil_maps(6, SHAPE, seed=1)) and not torch.allclose(maps, coil_maps(6, SHAPE, seed=2))
    flat = maps.abs().flatten(1)
    assert torch.corrcoef(flat).fill_diagonal_(-1).max() < 0.9, "each sees another side"
    assert torch.equal(coil_maps(1, SHAPE, 0), torch.ones(1, *SHAPE, dtype=torch.complex64))


def test_fields_are_smooth_and_scaled() -> None:
    field = smooth_field(SHAPE, 3, 0, "a")
    assert abs(float(field.mean())) < 1e-5 and float(field.std()) == pytest.approx(1.0, abs=1e-5)
    spectrum = torch.fft.fftn(torch.cat([field, field.flip(0)], dim=0))[:, 0, 0].abs()  # even, so no edge
    assert spectrum[8:-8].max() < 1e-3 * spectrum.max()
    assert not torch.equal(field, smooth_field(SHAPE, 3, 0, "b"))
    fine, coarse = smooth_field((48, 40, 56), 3, 0, "a"), smooth_field(SHAPE, 3, 0, "a")
    means = torch.nn.functional.avg_pool3d(fine[None], 2)[0]
    assert torch.corrcoef(torch.stack([means.flatten(), coarse.flatten()]))[0, 1] > 0.99, "the same field on another grid"


def test_k_space_has_its_centre_in_the_middle() -> None:
    image = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    kspace = to_kspace(image, (1, 2))
    torch.testing.assert_close(kspace[:, 3, 2].real, image.sum((1, 2)) / 30**0.5)
    torch.testing.assert_close(from_kspace(kspace, (1, 2)).real, image)
    dot = torch.zeros(8, dtype=torch.complex64)
    dot[4] = 1
    torch.testing.assert_close(to_kspace(dot, (0,)), torch.full((8,), 8**-0.5, dtype=torch.complex64))


def test_estimated_maps_are_those_that_were_used() -> None:
    shape = (32, 32, 32)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 3, indexing="ij")
    head = sum(axis**2 for axis in axes) < 0.6
    volume = torch.where(head, 1.0 + 0.3 * torch.sin(7 * axes[0]) * torch.cos(5 * axes[1]), 0.0)
    phase = 0.8 * smooth_field(shape, 2, 4, "phase")
    truth = coil_maps(4, shape, 3) * torch.polar(torch.ones(shape), phase)
    noise = 0.01 * torch.randn(4, 32, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.complex64)
    kspace = to_kspace(truth * volume + noise, (1, 2, 3))[:, 6:26, 6:26, 6:26]
    window = torch.hann_window(22, periodic=False)[1:-1]
    kspace = kspace * window[:, None, None] * window[:, None] * window
    found = estimated_maps(from_kspace(kspace, (1, 2, 3)), shape)
    inside = sum(axis**2 for axis in axes) < 0.45
    error = (found - truth)[:, inside].abs().square().sum(0).sqrt()
    assert error.mean() < 0.08 and error.max() < 0.35
    torch.testing.assert_close(found.abs().square().sum(0), torch.ones(shape), rtol=1e-4, atol=1e-4)
