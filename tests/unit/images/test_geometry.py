"""geometry.json: the frame in which generated volumes are written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from volgen.core.errors import UserError
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap

SHAPE = (64, 64, 64)


def cohort(litres: float = 1.4, size: float = 4.0) -> Geometry:
    affines = []
    for angle in (0.0, 0.2):
        affine = np.eye(4)
        affine[:3, :3] = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]) * size
        affine[:3, 3] = 100 * angle
        affines.append(affine)
    windows = [IntensityMap(0, 100), IntensityMap(2, 300), IntensityMap(4, 10_000)]
    example = np.zeros(SHAPE, dtype=np.float32)
    example.reshape(-1)[: round(litres * 1e6 / size**3)] = 0.5
    return Geometry.of_cohort(SHAPE, affines, windows, [example])


def test_frame_is_upright_with_the_centre_of_the_grid_at_the_origin() -> None:
    geometry = cohort()
    assert geometry.voxel_size == (4.0, 4.0, 4.0)
    np.testing.assert_allclose(geometry.affine @ [31.5, 31.5, 31.5, 1], [0, 0, 0, 1])
    np.testing.assert_allclose(geometry.affine[:3, :3], 4 * np.eye(3))


def test_window_is_the_median_one() -> None:
    assert cohort().intensity == IntensityMap(2, 300)


@pytest.mark.parametrize(("litres", "stripped"), [(1.1, True), (1.9, True), (3.2, False), (4.5, False)])
def test_brains_and_heads_are_told_apart_by_size(litres: float, stripped: bool) -> None:
    assert cohort(litres).skull_stripped is stripped


def test_round_trip(tmp_path: Path) -> None:
    geometry = cohort()
    geometry.write(tmp_path)
    assert Geometry.read(tmp_path) == geometry
    content = json.loads((tmp_path / "geometry.json").read_text())
    np.testing.assert_allclose(content["affine"], geometry.affine)


def test_a_cohort_in_one_frame_keeps_it(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-63.0, -81.0, -45.5]
    geometry = Geometry.of_cohort(SHAPE, [affine, affine], [IntensityMap(0, 1)], [np.zeros(SHAPE, np.float32)], one_frame=True)
    assert geometry.centre == (0.0, -18.0, 17.5)
    assert geometry.affine.tolist() == affine.tolist()
    geometry.write(tmp_path)
    assert Geometry.read(tmp_path) == geometry
    content = json.loads((tmp_path / "geometry.json").read_text())
    (tmp_path / "geometry.json").write_text(json.dumps({**content, "centre": [0, 0, 1e9]}))
    with pytest.raises(UserError, match="middle of a grid"):
        Geometry.read(tmp_path)
    cohort().write(tmp_path)
    assert "centre" not in json.loads((tmp_path / "geometry.json").read_text()), "files of other cohorts are what they were"


def test_differing_voxel_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="voxel sizes differ"):
        Geometry.of_cohort(SHAPE, [np.eye(4), 2 * np.eye(4)], [IntensityMap(0, 1)], [])
    with pytest.raises(ValueError, match="without volumes"):
        Geometry.of_cohort(SHAPE, [], [], [])


@pytest.mark.parametrize(
    "damage",
    [
        {"shape": [1, 2]},
        {"voxel_size": [1, 1, 0]},
        {"intensity": {"low": 1, "high": 1}},
        {"shape": "abc"},
        {"shape": [float("inf"), 8, 8]},
        {"voxel_size": [10**400, 1, 1]},
    ],
)
def test_damaged_file_is_refused(tmp_path: Path, damage: dict[str, object]) -> None:
    cohort().write(tmp_path)
    path = tmp_path / "geometry.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(UserError, match="has another form"):
        Geometry.read(tmp_path)
