"""Volumes that are denoised from both sides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.models.mirrored import MirroredDenoiser
from volgen.recipe import Recipe, load

SIGMA = torch.tensor([0.7])


def recipe(**sections: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "run", "data": {"store": "cohort.zarr", "shape": [16, 16, 16], "augment": {"flip_left_right": True}},
        "schedule": {"kind": "karras", "points": 4, "sigma_min": 0.1, "sigma_max": 10.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "preconditioner": {"kind": "edm"},
    }  # fmt: skip
    return load({**content, **sections})


def seen(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
    """A denoiser that knows left from right: it is wrong by the place of a voxel, and looks at what is given."""
    x0_BCXYZ = y_BCXYZ * torch.arange(y_BCXYZ.shape[2]).view(-1, 1, 1)
    return x0_BCXYZ if given.channels is None else x0_BCXYZ + given.channels[:, :1]


def test_the_estimate_of_a_mirror_image_is_the_mirror_image_of_the_estimate() -> None:
    y, both = torch.randn(1, 1, 4, 2, 2), MirroredDenoiser(seen)
    assert torch.allclose(both(y, SIGMA), y * 1.5)
    assert torch.allclose(both(y.flip(2), SIGMA), both(y, SIGMA).flip(2))
    assert not torch.allclose(seen(y.flip(2), SIGMA), seen(y, SIGMA).flip(2))


def test_given_images_are_mirrored_with_the_volume() -> None:
    y, channels = torch.zeros(1, 1, 4, 2, 2), torch.randn(1, 1, 4, 2, 2)
    assert torch.allclose(MirroredDenoiser(seen)(y, SIGMA, Given(channels)), channels)


def test_only_volumes_are_denoised_from_both_sides_and_training_is_what_it_was() -> None:
    plain, both = recipe(), recipe(mirrored=True)
    phase = both.phases()[0]
    torch.manual_seed(0)
    network = both.build().released(phase)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network.eval()
    preconditioner = both.preconditioner.blank((16, 16, 16), 4)
    y = torch.randn(1, 1, 16, 16, 16)
    one, two = (each.build().denoiser(network, preconditioner) for each in (plain, both))
    assert torch.allclose(two(y, SIGMA), (one(y, SIGMA) + one(y.flip(2), SIGMA).flip(2)) / 2, atol=1e-6)
    assert not torch.allclose(two(y, SIGMA), one(y, SIGMA), atol=1e-4)
    assert both.model == plain.model, "weights of one are weights of the other"
    trained = [each.model.of_examples(each.build().forward(network), preconditioner) for each in (plain, both)]
    assert type(trained[0]) is type(trained[1])


def test_a_model_may_be_mirrored_alone() -> None:
    bank = recipe(experts={"models": [{"points": 2}, {"points": 2, "mirrored": True}]})
    assert [variant.model.mirrored for variant in bank.variants] == [False, True]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"store": "cohort.zarr", "shape": [16, 16, 16]}}, "flip_left_right is false"),
        (
            {"data": {"store": "cohort.zarr", "shape": [32, 16, 16], "augment": {"flip_left_right": True},
                      "box": {"start": [0, 0, 0], "size": [16, 16, 16]}}},
            "its middle is not the grid's",
        ),
    ],
)  # fmt: skip
def test_what_has_no_mirror_image_that_was_seen_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(mirrored=True, **sections)
