"""Resampling and cropping move no anatomy."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from pydantic import ValidationError

from volgen.core.config import apply_overrides, validate
from volgen.core.errors import UserError
from volgen.data.ingest.grid import GridConfig, check, conform, kept
from volgen.data.ingest.preprocess import IngestConfig
from volgen.images.volume import Volume


def ball(shape: tuple[int, int, int], affine: np.ndarray, centre: tuple[float, float, float], radius: float) -> Volume:
    """A smooth ball at a place in the world."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    distance = np.linalg.norm(nib.affines.apply_affine(affine, grid) - np.array(centre), axis=-1)
    return Volume((100 / (1 + np.exp(2 * (distance - radius)))).astype(np.float32), affine)


def world_centre(volume: Volume) -> np.ndarray:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in volume.shape], indexing="ij"), -1).reshape(-1, 3)
    weights = volume.voxels.ravel().astype(np.float64)
    return nib.affines.apply_affine(volume.affine, (index * weights[:, None]).sum(0) / weights.sum())


def turned(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * [0.9, 1.4, 2.0]
    affine[:3, 3] = [-31, -28, -22]
    return affine


@pytest.mark.parametrize("size", [0.8, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("degrees", [0.0, 14.0])
def test_a_ball_keeps_its_place_and_mass(size: float, degrees: float) -> None:
    affine = turned(degrees)
    centre = tuple(nib.affines.apply_affine(affine, (34.3, 21.1, 13.2)))
    volume = ball((70, 45, 28), affine, centre, 11.0)
    result = conform(volume, IngestConfig(shape=(64, 64, 64), voxel_size=size))
    assert result.shape == (64, 64, 64) and result.voxel_size == pytest.approx((size,) * 3, abs=1e-9)
    assert np.abs(world_centre(result) - world_centre(volume)).max() < 0.02
    mass = volume.voxels.sum(dtype=np.float64) * abs(np.linalg.det(affine))
    assert result.voxels.sum(dtype=np.float64) * size**3 == pytest.approx(mass, rel=0.01)
    directions = result.affine[:3, :3] / size
    assert np.abs(directions - affine[:3, :3] / [0.9, 1.4, 2.0]).max() < 1e-12, "an oblique image stays oblique"
    assert volume.voxels.min() <= result.voxels.min() and result.voxels.max() <= volume.voxels.max()


def test_downsampling_does_not_alias() -> None:
    """Stripes too fine for the new grid must fade to grey, not turn into coarse stripes."""
    stripes = np.zeros((60, 60, 60), np.float32)
    stripes[::2] = 100.0
    for size, resampling, left in ((3.0, "linear", 25.0), (3.0, "sharp", 34.0), (3.4, "sharp", 34.0)):
        coarse = conform(Volume(stripes, np.eye(4)), GridConfig(shape=None, voxel_size=size, resampling=resampling))
        inner = coarse.voxels[3:-3, 3:-3, 3:-3]
        assert inner.mean() == pytest.approx(50.0, abs=1.0) and np.ptp(inner) < left


@pytest.mark.parametrize("shape", [(24, 24, 24), (25, 26, 27)])
def test_a_voxel_of_whole_voxels_is_their_mean_wherever_they_begin(shape: tuple[int, int, int]) -> None:
    voxels = np.random.default_rng(1).normal(100, 10, shape).astype(np.float32)
    affine = np.diag([2.0, 2.0, 1.0, 1.0])
    affine[:3, 3] = [5, -3, 2]
    result = conform(Volume(voxels, affine), GridConfig(shape=None, voxel_size=4.0))
    x, y, z = (n % f // 2 for n, f in zip(shape, (2, 2, 4), strict=True))
    blocks = voxels[x:, y:, z:][: shape[0] // 2 * 2, : shape[1] // 2 * 2, : shape[2] // 4 * 4]
    means = blocks.reshape(shape[0] // 2, 2, shape[1] // 2, 2, shape[2] // 4, 4).mean(axis=(1, 3, 5))
    assert result.shape == means.shape and np.abs(result.voxels - means).max() < 1e-4
    first = affine @ [x + 0.5, y + 0.5, z + 1.5, 1.0]
    assert result.affine[:3, 3].tolist() == first[:3].tolist(), "the centre of a voxel is that of its block"


def test_detail_that_the_grid_can_hold_is_kept_and_what_rings_is_cut() -> None:
    """Waves of two fifths of a period a voxel, the shortest that a grid can hold with some room, on a grid at other places."""
    x = np.arange(80) * 0.9
    wave = (100 + 50 * np.cos(2 * np.pi * 0.4 * x))[:, None, None] * np.ones((1, 20, 20))
    volume = Volume(wave.astype(np.float32), np.diag([0.9, 1.0, 1.0, 1.0]))
    spread = {}
    for resampling in ("sharp", "linear"):
        found = conform(volume, GridConfig(shape=None, voxel_size=1.0, resampling=resampling)).voxels[8:-8]
        spread[resampling] = found.std() / volume.voxels.std()
    assert spread["sharp"] > 0.95 and spread["linear"] < 0.8
    edge = np.zeros((40, 20, 20), np.float32)
    edge[15:25] = 100.0
    found = conform(Volume(edge, np.diag([0.9, 1.0, 1.0, 1.0])), GridConfig(shape=None, voxel_size=1.0)).voxels
    assert found.min() == 0.0 and found.max() == 100.0
    bright = np.flatnonzero(found[:, 10, 10])
    assert bright[-1] - bright[0] < 11 and (np.diff(bright) == 1).all(), "nothing rings out into the air"


@pytest.mark.parametrize(
    "config", [{"shape": "native", "voxel_size": "native"}, {"shape": [20, 21, 22], "voxel_size": 1.0, "centre": "grid"}]
)
def test_nothing_to_do_returns_the_same_bits(config: dict[str, object]) -> None:
    volume = Volume(np.random.default_rng(0).normal(size=(20, 21, 22)).astype(np.float32), np.eye(4) + 1e-9 * np.eye(4))
    result = conform(volume, IngestConfig(**config))  # type: ignore[arg-type]
    assert result.voxels.tobytes() == volume.voxels.tobytes() and result.affine.tobytes() == volume.affine.tobytes()


def test_crop_and_pad_shift_by_whole_voxels_and_fill_with_the_minimum() -> None:
    voxels = np.full((30, 10, 20), -7.0, np.float32)
    voxels[20:26, 2:6, 8:12] = 50.0
    result = conform(Volume(voxels, np.diag([1, 1, 1, 1.0])), IngestConfig(shape=(12, 16, 20), voxel_size=1.0))
    assert result.voxels.sum() == pytest.approx(-7.0 * 12 * 16 * 20 + 57.0 * 6 * 4 * 4)
    where = np.argwhere(result.voxels == 50.0)
    assert np.abs(where.mean(0) - (np.array([12, 16, 20]) - 1) / 2).max() <= 1.0, "the foreground is in the middle"
    assert nib.affines.apply_affine(result.affine, where.min(0)).tolist() == [20, 2, 8]


def test_a_cut_head_is_noticed() -> None:
    volume = ball((50, 50, 50), np.eye(4), (24, 24, 24), 18.0)
    assert kept(volume, conform(volume, IngestConfig(shape=(48, 48, 48)))) == 1.0
    assert 0.2 < kept(volume, conform(volume, IngestConfig(shape=(24, 48, 48)))) < 0.95


@pytest.mark.parametrize(
    ("text", "shape"), [("256", (256, 256, 256)), ("[48, 56, 48]", (48, 56, 48)), ("48 56 48", (48, 56, 48)), ("native", None)]
)
def test_shape_from_the_command_line(text: str, shape: tuple[int, int, int] | None) -> None:
    assert validate(IngestConfig, apply_overrides({}, [("shape", text)]), "test").shape == shape


def test_shares_must_leave_somebody_to_train_on() -> None:
    with pytest.raises(ValidationError, match="nobody"):
        IngestConfig(validation=0.5, test=0.5)


def test_unusable_voxels_are_refused() -> None:
    voxels = np.ones((4, 4, 4), np.float32)
    for fill, word in ((0.0, "empty"), (3.0, "constant")):
        with pytest.raises(UserError, match=word):
            check(Volume(voxels * fill, np.eye(4)), "x")
    voxels[1, 2, 3] = np.nan
    with pytest.raises(UserError, match="1 NaN"):
        check(Volume(voxels, np.eye(4)), "x")
    with pytest.raises(UserError, match="larger than the image"):
        conform(Volume(np.arange(64, dtype=np.float32).reshape(4, 4, 4), np.eye(4)), IngestConfig(voxel_size=5.0))
