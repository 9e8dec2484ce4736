"""Masks of k-space: how much they measure, where, and that they are a function of their settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from volgen.acquisition.masks._shared import centred, radius
from volgen.core.errors import UserError
from volgen.core.registry import config_class, kinds

PACKAGE = "volgen.acquisition.masks"
KINDS = kinds(PACKAGE)
RANDOM = [kind for kind in KINDS if "acceleration" in config_class(PACKAGE, kind).model_fields]
SHAPE = (64, 48)


def config(kind: str, **settings: Any) -> Any:
    return config_class(PACKAGE, kind)(**settings)


def test_the_promised_masks_exist() -> None:
    assert set(KINDS) >= {"poisson", "random", "equispaced", "partial", "elliptical", "full"}
    assert set(RANDOM) == {"poisson", "random", "equispaced"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_a_function_of_its_settings(kind: str) -> None:
    first, second = config(kind).draw(SHAPE), config(kind).draw(SHAPE)
    assert first.dtype == torch.bool and first.shape == SHAPE and torch.equal(first, second)
    assert first[SHAPE[0] // 2, SHAPE[1] // 2], "the centre of k-space is measured"


@pytest.mark.parametrize("acceleration", [2.0, 4.0, 8.0, 12.0])
@pytest.mark.parametrize("kind", RANDOM)
def test_acceleration_centre_and_corners_are_as_asked(kind: str, acceleration: float) -> None:
    mask = config(kind, acceleration=acceleration, centre=0.1).draw(SHAPE)
    assert mask.numel() / int(mask.sum()) == pytest.approx(acceleration, rel=0.05)
    assert mask[centred(64, 6), centred(48, 5)].all()
    assert not mask[radius(SHAPE) > 1.0].any()
    assert config(kind, acceleration=acceleration, corners=True).draw(SHAPE)[radius(SHAPE) > 1.0].any()


@pytest.mark.parametrize("kind", RANDOM)
def test_another_seed_is_another_mask(kind: str) -> None:
    masks = [config(kind, seed=seed).draw(SHAPE) for seed in range(3)]
    assert not torch.equal(masks[0], masks[1]) and not torch.equal(masks[1], masks[2])


def test_random_lines_are_denser_in_the_middle_and_discs_keep_their_distance() -> None:
    near = radius(SHAPE) < 0.5
    for kind in ("poisson", "random"):
        mask = config(kind, acceleration=6.0, centre=0.01).draw(SHAPE).double()
        assert mask[near].mean() > 2 * mask[(~near) & (radius(SHAPE) <= 1)].mean()
    places = {kind: config(kind, acceleration=10.0, centre=0.01).draw(SHAPE) & (radius(SHAPE) > 0.7) for kind in ("poisson", "random")}
    closest = {}
    for kind, mask in places.items():
        points = mask.nonzero().double()
        closest[kind] = (torch.cdist(points, points) + 1e3 * torch.eye(len(points))).min(dim=1).values.min()
    assert closest["poisson"] > 2.0 >= closest["random"]


def test_equispaced_lines_are_equispaced_and_shifted() -> None:
    mask = config("equispaced", acceleration=4.0, centre=0.0, corners=True, shift=2).draw((64, 64))
    for column in (3, 20, 50):
        assert set(mask[:, column].nonzero().flatten().diff().tolist()) <= {3, 4, 5}
    assert torch.equal(mask[2:, 10], mask[:-2, 11])
    lines = config("equispaced", acceleration=4.0, centre=0.0, corners=True, shift=0).draw((64, 64))
    assert set(lines.sum(1).tolist()) <= {0, 1, 64}, "without a shift whole lines are left out, but for the very centre"


def test_partial_fourier_and_the_shutter() -> None:
    mask = config("partial", share=0.75).draw(SHAPE)
    assert mask[16:].all() and not mask[:16].any()
    mask = config("partial", share=0.625, along="second").draw(SHAPE)
    assert mask[:, 18:].all() and not mask[:, :18].any()
    assert float(config("elliptical").draw((256, 256)).double().mean()) == pytest.approx(torch.pi / 4, rel=0.01)
    assert config("elliptical", size=1.5).draw(SHAPE).all()


def test_what_no_mask_can_be_is_refused() -> None:
    with pytest.raises(UserError, match="the centre"):
        config("poisson", acceleration=20.0, centre=0.5).draw(SHAPE)
    with pytest.raises(UserError, match="phase encodes"):
        config("random", acceleration=1.0).draw(SHAPE)
    assert config("random", acceleration=1.0, corners=True).draw(SHAPE).all()
