"""One resampling of the box that is not background is TorchIO's affine and flip of the whole volume."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchio as tio
from numpy.typing import NDArray

from volgen.data.augment import AugmentConfig, RandomPose, index_matrix, resample
from volgen.data.piece import Piece
from volgen.images.box import BoxConfig

SHAPE = (43, 38, 35)
ALL = BoxConfig.whole(SHAPE)
OBLIQUE = np.array([[1.2, 0.2, 0, -20], [-0.2, 1.2, 0.1, 30], [0, -0.1, 1.5, -10], [0, 0, 0, 1.0]])


def head(*box: slice) -> torch.Tensor:
    """Noise in a box, its lowest value around it."""
    volume = torch.full(SHAPE, -0.75)
    values = np.random.default_rng(1).uniform(-0.75, 1, SHAPE)
    volume[box] = torch.from_numpy(values).float()[box]
    return volume


def torchio(volume: torch.Tensor, affine: NDArray[Any], pose: tio.Affine) -> torch.Tensor:
    moved: torch.Tensor = pose.apply_transform(tio.Subject(image=tio.ScalarImage(tensor=volume[None], affine=affine)))["image"].data[0]
    return moved


@pytest.mark.parametrize("affine", [np.eye(4), OBLIQUE])
@pytest.mark.parametrize("box", [(slice(0, 43), slice(0, 38), slice(0, 35)), (slice(6, 35), slice(0, 19), slice(15, 32))])
@pytest.mark.parametrize(
    ("scales", "degrees", "translation"),
    [((1.0,) * 3, (0.0,) * 3, (0.0,) * 3), ((1.1, 0.9, 1.05), (10, -25, 40), (2, -3, 1)), ((0.8, 1.2, 1), (90, 0, 0), (0, 0, 500))],
)
def test_it_is_what_torchio_makes(affine: NDArray[Any], box: Any, scales: Any, degrees: Any, translation: Any) -> None:
    volume = head(*box)
    pose = tio.Affine(scales=scales, degrees=degrees, translation=translation, default_pad_value="minimum")
    whole = torchio(volume, affine, pose)
    matrix = index_matrix(pose, SHAPE, affine)
    around = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)
    x, y, z = (part.start for part in around)
    for piece in (Piece.of(volume), Piece(volume[around], (x, y, z), SHAPE, float(volume.min()))):
        moved = resample(piece, matrix, ALL)
        assert moved.is_contiguous() and (moved - whole).abs().max() < 2e-5
        place = BoxConfig(start=(3, 11, 5), size=(30, 16, 21))
        assert (resample(piece, matrix, place) - place.crop(whole)).abs().max() < 2e-5


def test_mirroring_is_part_of_the_same_resampling() -> None:
    volume = head(slice(2, 20), slice(1, 9), slice(3, 14))
    both = RandomPose(AugmentConfig(rotation_degrees=20, translation_mm=3, scale=0.1, flip_left_right=True))
    without = RandomPose(AugmentConfig(rotation_degrees=20, translation_mm=3, scale=0.1))
    mirrored = 0
    for step in range(8):
        one, other = (augment.moved(Piece.of(volume), ALL, OBLIQUE, 3, step) for augment in (both, without))
        flipped = (one - other.flip(0)).abs().max() < 2e-5
        assert flipped or (one - other).abs().max() < 2e-5
        mirrored += bool(flipped)
    assert 1 <= mirrored <= 7


def test_nothing_to_do_gives_the_volume_back() -> None:
    volume = head(slice(2, 20), slice(1, 9), slice(3, 14))
    piece = Piece(volume[1:21, 0:10, 2:15], (1, 0, 2), SHAPE, -0.75)
    assert torch.equal(resample(piece, np.eye(4), ALL), volume)
