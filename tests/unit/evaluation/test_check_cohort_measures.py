"""Cohort measures: against independent implementations, and against cohorts whose fault is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.metrics.regression import MultiScaleSSIMMetric
from numpy.typing import NDArray
from scipy import ndimage, stats
from scipy.linalg import sqrtm

from volgen.evaluation.cohort import cohort_quality
from volgen.evaluation.cohort_measure import VolumeGroup
from volgen.evaluation.cohort_sample import CohortSample
from volgen.evaluation.cohorts import told_apart
from volgen.evaluation.cohorts.told_apart import apart
from volgen.evaluation.frechet import Features, frechet_distance
from volgen.evaluation.ms_ssim import WEIGHTS, ms_ssim, pyramid, scales

SHAPE = (24, 28, 24)


def person(seed: int) -> NDArray[np.float32]:
    """An ellipsoid of a person's own size with smooth texture."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.linspace(-1.4, 1.4, n) for n in SHAPE], indexing="ij")
    inside = sum((axis / r) ** 2 for axis, r in zip(grid, rng.uniform(0.9, 1.1, 3), strict=True)) < 1
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.0)
    return np.where(inside, np.clip(0.55 + 0.8 * texture, 0.3, 1), 0).astype(np.float32)


@pytest.fixture(scope="module")
def people() -> list[NDArray[np.float32]]:
    return [person(seed) for seed in range(30)]


def test_ms_ssim_is_monais(people: list[NDArray[np.float32]]) -> None:
    a, b = (ndimage.zoom(volume, 2, order=1) for volume in people[:2])  # 48 x 56 x 48: three scales
    count = scales(a.shape)
    assert count == 3
    weights = (np.array(WEIGHTS[:count]) / sum(WEIGHTS[:count])).tolist()
    oracle = MultiScaleSSIMMetric(spatial_dims=3, data_range=1.0, kernel_size=7, kernel_sigma=1.5, weights=weights)
    expected = float(oracle(torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None]))
    assert ms_ssim(pyramid(a), pyramid(b)) == pytest.approx(expected, abs=1e-4)
    assert ms_ssim(pyramid(a), pyramid(a)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("edge", "count"), [(8, 1), (16, 1), (24, 2), (48, 3), (96, 4), (192, 5), (256, 5)])
def test_the_number_of_scales_leaves_twelve_voxels(edge: int, count: int) -> None:
    assert scales((edge, edge + 8, edge)) == count


def test_frechet_distance_is_the_formula_with_a_matrix_root() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)) + 1, rng.normal(size=(150, 5)) @ rng.normal(size=(5, 5))
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * np.real(sqrtm(ca @ cb)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(a[:3], a[:3] + 2.0) == pytest.approx(5 * 4.0)  # fewer volumes than features


def test_features_are_the_principal_components() -> None:
    rng = np.random.default_rng(0)
    volumes = (rng.normal(size=(40, 3)) * [5, 3, 1] @ rng.normal(size=(3, 60))).astype(np.float32)
    features = Features.fit(volumes, components=24)
    assert len(features.basis) == 3  # its rank, not 24
    assert features.basis @ features.basis.T == pytest.approx(np.eye(3), abs=1e-4)
    assert features(volumes) @ features.basis + features.mean == pytest.approx(volumes, abs=1e-3)


def test_real_people_meet_every_target(people: list[NDArray[np.float32]]) -> None:
    measured = cohort_quality(people[:8], people[8:16], people[16:], 4.0)
    assert len(measured["targets"]) == 7
    assert [target["name"] for target in measured["targets"] if not target["pass"]] == []
    assert measured["high_frequency"]["ratio"] == pytest.approx(1.0, abs=0.1)
    assert 0.3 < measured["frechet"]["ratio"] < 3
    json.dumps(measured, allow_nan=False)


@pytest.mark.parametrize(
    ("fault", "missed"),
    [
        ("copies", {"nearest training: correlation", "nearest training: MS-SSIM"}),
        ("haze", {"background"}),
        ("mush", {"MS-SSIM difference", "high-frequency ratio", "nearest training: correlation"}),
        ("noise", {"high-frequency ratio"}),
        ("large", {"volume z"}),
    ],
)
def test_the_target_that_a_fault_misses(people: list[NDArray[np.float32]], fault: str, missed: set[str]) -> None:
    new, validation, train = people[:8], people[8:16], people[16:]
    rng = np.random.default_rng(1)
    mean = np.mean(people, axis=0)
    made = {
        "copies": train[:8],
        "haze": [np.clip(v + 0.05, 0, 1) for v in new],
        "mush": [(0.9 * mean + 0.1 * v).astype(np.float32) for v in new],
        "noise": [np.where(v > 0, np.clip(v + rng.normal(0, 0.3, SHAPE), 0.25, 1), 0).astype(np.float32) for v in new],
        "large": [np.clip(ndimage.zoom(v, 1.2, order=1)[2:26, 3:31, 2:26], 0, 1) for v in new],
    }[fault]
    measured = cohort_quality(made, validation, train, (4.0, 4.0, 4.0))
    failed = {target["name"] for target in measured["targets"] if not target["pass"]}
    assert missed <= failed
    if fault in ("copies", "haze"):  # haze takes contrast from the tissue
        assert failed - {"told apart"} == missed


@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0])
def test_the_area_of_two_normal_clouds_is_that_of_their_distance(distance: float) -> None:
    rng = np.random.default_rng(0)
    ours, real = rng.normal(size=(300, 4)) * 7 + 7 * np.array([distance, 0, 0, 0]), rng.normal(size=(300, 4)) * 7
    area, found = apart(ours, real, np.random.default_rng(1))
    assert area == pytest.approx(stats.norm.cdf(distance / np.sqrt(2)), abs=0.07)
    assert found == pytest.approx(distance, abs=0.3)


def grained(seed: int, fine: float) -> NDArray[np.float32]:
    """A ball with texture; how fine it is, and nothing else, is the difference."""
    inside = person(100)[..., :24] > 0
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=inside.shape), fine)
    return np.where(inside, np.clip(0.6 + 0.1 * texture / texture.std(), 0.2, 1), 0).astype(np.float32)


def test_texture_of_another_kind_is_told_apart_and_of_the_same_is_not() -> None:
    real = [grained(seed, 1.0) for seed in range(40)]
    sides = [VolumeGroup(volumes, (4.0, 4.0, 4.0)) for volumes in (real[16:24], real[24:])]
    same, other, few = (
        told_apart.Config().compare(VolumeGroup(volumes, (4.0, 4.0, 4.0)), *sides)
        for volumes in (real[:16], [grained(seed, 1.3) for seed in range(50, 66)], real[:3])
    )
    assert same.values["generated"] < 0.75  # chance, from 16 of either side
    assert not other.targets[0].passed and other.values["generated"] > 0.9
    assert other.values["distance"] > 2 * abs(same.values["distance"])
    assert same.values["floor"] == pytest.approx(0.5, abs=0.15)
    assert few.targets[0].passed is None


def test_one_volume_has_no_diversity_to_measure(people: list[NDArray[np.float32]]) -> None:
    measured = cohort_quality(people[:1], people[1:4], people[4:10], 4.0)
    assert measured["ms_ssim"]["generated"] is None
    assert next(t["pass"] for t in measured["targets"] if t["name"] == "MS-SSIM difference") is None
    json.dumps(measured, allow_nan=False)


def test_a_large_grid_is_averaged_before_it_is_kept() -> None:
    sample = CohortSample(["a", "b", "c"], ["d", "e"], (100, 100, 100), (1.0, 1.0, 1.0))
    volume = ndimage.zoom(person(0), (100 / 24, 100 / 28, 100 / 24), order=1)
    for name in "abcde":
        sample.add_real(name, volume * (1 + ord(name) / 1000))
    sample.add_generated(volume)
    measured = sample.measure()
    assert measured["voxel_size"] == [2.0, 2.0, 2.0]
    assert measured["volume_ml"]["generated"] == pytest.approx(measured["volume_ml"]["real"], rel=1e-3)


def test_the_cohort_is_skipped_with_a_reason() -> None:
    assert "needs" in CohortSample(["a"], [], SHAPE, (1.0, 1.0, 1.0)).measure()["skipped"]
    other = CohortSample(["a", "b", "c"], ["d", "e"], SHAPE, (1.0, 1.0, 1.0))
    other.add_generated(np.zeros((8, 8, 8)))
    assert "shape" in other.measure()["skipped"]
