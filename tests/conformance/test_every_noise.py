"""Every file in volgen/sampling/noises draws standard normal numbers that are a function of seed and key."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from volgen.core.registry import config_class, kinds
from volgen.core.rng import normal
from volgen.sampling.noises.slerp import Config as Slerp

PACKAGE = "volgen.sampling.noises"
KINDS = kinds(PACKAGE)
SHAPE = (24, 20, 22)


def config(kind: str) -> Any:
    return config_class(PACKAGE, kind)()


def test_the_promised_noises_exist() -> None:
    assert set(KINDS) >= {"white", "slerp"}


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_keyed(kind: str) -> None:
    first = config(kind).draw((1, *SHAPE), 3, "step", 1, 7)
    assert first.shape == (1, *SHAPE) and first.dtype == torch.float32
    assert torch.equal(first, config(kind).draw((1, *SHAPE), 3, "step", 1, 7))
    for key in ((4, "step", 1, 7), (3, "step", 2, 7), (3, "start", 7)):
        other = config(kind).draw((1, *SHAPE), *key)
        assert abs(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]) < 0.06  # five standard errors


@pytest.mark.parametrize("kind", KINDS)
def test_every_slice_is_standard_normal_within_itself(kind: str) -> None:
    # Pooled over keys: 60 draws of 440 voxels a slice; five standard errors.
    draws = torch.stack([config(kind).draw((1, *SHAPE), 0, key)[0] for key in range(60)])
    for axis in (1, 2, 3):
        per_slice = draws.movedim(axis, 0).flatten(1)
        count = per_slice.shape[1]
        assert per_slice.mean(dim=1).abs().max() < 5 / math.sqrt(count / 4)  # slices of one key may share noise: fewer free numbers
        assert (per_slice.var(dim=1) - 1).abs().max() < 5 * math.sqrt(2 / (count / 4))


def test_white_is_the_noise_that_sampling_always_had() -> None:
    assert torch.equal(config("white").draw((1, *SHAPE), 5, "start", 2), normal((1, *SHAPE), 5, "start", 2))


@pytest.mark.parametrize("axis", ["R", "A", "S"])
@pytest.mark.parametrize("spacing", [1, 3, 4])
def test_slerp_slices_correlate_as_stated_along_its_axis_and_not_across(axis: str, spacing: int) -> None:
    place = "RAS".index(axis)
    draws = torch.stack([Slerp(axis=axis, spacing=spacing).draw((1, 30, 31, 32), 0, key)[0] for key in range(20)])
    slices = draws.movedim(place + 1, 0).flatten(1)
    found = torch.corrcoef(slices)
    for one in range(2 * spacing):
        for other in range(2 * spacing):
            if one // spacing == other // spacing:
                expected = math.cos(math.pi * abs(one - other) / (2 * spacing))
                assert float(found[one, other]) == pytest.approx(expected, abs=0.05)
    assert float(found[0, spacing]) == pytest.approx(0.0, abs=0.05)
    across = torch.corrcoef(draws.movedim((place + 1) % 3 + 1, 0).flatten(1))
    assert (across - torch.eye(len(across))).abs().max() < 0.08


def test_more_slices_than_keys_reach_end_in_a_key() -> None:
    for count in (1, 2, 5, 8, 9, 10):
        volume = Slerp(axis="R", spacing=4).draw((1, count, 16, 16), 0, 0)
        assert volume.shape == (1, count, 16, 16) and torch.isfinite(volume).all()
        assert volume[0].flatten(1).var(dim=1).min() > 0.6
