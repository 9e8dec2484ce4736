"""Checks of the tissues of a brain: closed forms on waves and noise, real people against mottled copies of them, and where none applies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, stats

from volgen.evaluation.bands import FALSE_ALARM, bands
from volgen.evaluation.check import Metric, Triple
from volgen.evaluation.measure import Measures, default_checks, measure
from volgen.evaluation.reference import Reference
from volgen.evaluation.scan import HeadScan
from volgen.evaluation.tissue import Tissue
from volgen.evaluation.verdict import judge
from volgen.evaluation.volumes import folds, tissues, white_matter
from volgen.images import nifti

Brain = NDArray[np.float32]
EDGE = 64
SIZE: Triple = (2.0, 2.0, 2.0)
COARSE: Triple = (4.8, 4.8, 4.8)
OWN = {"folds", "tissues", "white_matter"}


def scan(unit: NDArray[np.floating], size: Triple = SIZE) -> HeadScan:
    return HeadScan(unit.astype(np.float32), np.ones(unit.shape, dtype=np.bool_), size)


def waves(axes: str, length: float = 12.0) -> NDArray[np.float64]:
    """0.5, and a cosine of 0.05 along each of some axes."""
    place = np.cos(2 * np.pi / length * SIZE[0] * np.arange(EDGE))
    along = {"x": place[:, None, None], "y": place[None, :, None], "z": place[None, None, :]}
    return 0.5 + np.zeros((EDGE,) * 3) + sum(0.05 * along[axis] for axis in axes)


def noise(smooth: float, seed: int = 0) -> NDArray[np.float64]:
    """0.5, and normal texture of 0.05 without a direction."""
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(EDGE,) * 3), smooth, mode="wrap")
    return np.asarray(0.5 + 0.05 * texture / texture.std())


@pytest.mark.parametrize(("axes", "course"), [("x", 0.0), ("y", 0.0), ("z", 0.0), ("xy", 0.5), ("yz", 0.5), ("xz", 0.5), ("xyz", 0.0)])
def test_what_runs_on_along_one_direction_is_a_fold_and_sheets_and_blotches_are_none(axes: str, course: float) -> None:
    # Over whole periods the tensor of a sum of cosines is diagonal with equal entries for the axes it has: (1, 0, 0), (1, 1, 0), (1, 1, 1).
    values = folds.Config(window=6.0).measure(scan(waves(axes))).values
    assert values["fold_course"] == pytest.approx((course,) * 3, abs=0.03)


def test_folds_are_as_they_are_at_any_contrast_shading_and_brightness() -> None:
    unit = waves("xy") + waves("z", 40.0) - 0.5
    field = np.exp(0.2 * np.linspace(-1, 1, EDGE))[:, None, None]
    for check in (folds.Config(), tissues.Config()):
        plain = check.measure(scan(unit)).values
        for changed in (0.3 * unit, unit * field):
            found = check.measure(scan(changed)).values
            for name, value in plain.items():
                assert found[name] == pytest.approx(value, rel=0.02), name


def test_two_tissues_explain_all_of_two_values_and_two_thirds_of_normal_ones() -> None:
    normal = noise(1.0)
    found = tissues.Config().measure(scan(normal)).values
    assert found["two_tissues"][0] == pytest.approx(2 / np.pi, abs=0.01)
    # The slope of a normal field is independent of its value.
    assert found["border"][0] == pytest.approx(1.0, abs=0.03)
    two = ndimage.gaussian_filter(np.where(noise(2.0) > 0.5, 0.7, 0.5), 0.6)
    found = tissues.Config().measure(scan(two)).values
    assert found["two_tissues"][0] > 0.75
    assert found["border"][0] > 1.5


def test_sharpness_is_the_slope_of_a_wave_where_it_crosses_its_mean() -> None:
    length = 16.0
    found = tissues.Config(near=0.1).measure(scan(waves("x", length))).values
    step = 2 * np.pi * SIZE[0] / length
    assert found["border_sharpness"][0] == pytest.approx(np.sqrt(2) * np.sin(step) / SIZE[0], rel=0.05)


def head(edge: int = EDGE) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A bright ball in a darker one in air, and where there is no air."""
    radius = np.linalg.norm(np.stack(np.meshgrid(*[np.arange(edge) - edge / 2 + 0.5] * 3, indexing="ij")), axis=0) / (edge / 2)
    return np.where(radius < 0.6, 0.8, np.where(radius < 0.9, 0.5, 0.0)), radius < 0.9


def slabs() -> NDArray[np.float64]:
    """Slabs of 16 mm of white matter, 0.8, between as many of grey matter, 0.5."""
    white = np.cos(2 * np.pi * SIZE[0] / 32.0 * (np.arange(EDGE) + 0.5)) > 0
    return np.broadcast_to(np.where(white, 0.8, 0.5)[:, None, None], (EDGE,) * 3)


@pytest.mark.parametrize("axis", range(3))
def test_the_noise_of_white_matter_is_that_of_its_voxels_along_each_axis_over_the_contrast(axis: int) -> None:
    added = np.random.default_rng(axis).normal(0, 0.02, (EDGE,) * 3).take([0], axis=axis)
    found = white_matter.Config().measure(scan(slabs() + added)).values["white_noise"]
    expected = [0.02 / 0.3] * 3
    expected[axis] = 0.0  # what is the same in all slices along an axis is no noise along it
    assert found == pytest.approx(expected, rel=0.08, abs=0.002)


def test_texture_of_white_matter_is_not_its_shading() -> None:
    shaded = slabs() * np.exp(0.3 * np.linspace(-1, 1, EDGE))[None, :, None]
    check = white_matter.Config()
    smooth, mottled = (check.measure(scan(volume)).values["white_texture"][0] for volume in (shaded, shaded + noise(1.5) - 0.5))
    assert smooth < 0.01
    assert mottled > 0.04


def test_blocks_have_the_edge_that_was_asked_for_and_parts_of_them_are_found_again_in_voxels() -> None:
    unit = np.zeros((41, 40, 22), dtype=np.float32)
    unit[3:36, 5:38, 4:20] = 0.5
    one = HeadScan(unit, unit > 0, (1.0, 1.0, 2.5))
    tissue = one.tissue(2.0)
    assert tissue is one.tissue(2.0)
    assert tissue.factors == (2, 2, 1) and tissue.edges == (2.0, 2.0, 2.5)
    assert tissue.mask.shape == (18, 18, 18)  # 35 x 35 x 18 voxels
    assert one.in_voxels(tissue.mask, tissue.factors).shape == (35, 35, 18)
    assert (one.in_voxels(tissue.mask, tissue.factors) & (one.mask[one.box])).sum() >= 0.9 * one.mask.sum()


def test_the_core_is_the_head_without_its_rim_and_all_of_it_where_nothing_else_would_be_left() -> None:
    unit, inside = head()
    tissue = Tissue(unit.astype(np.float32), inside, SIZE, 2.0)
    radius = np.cbrt(tissue.core.sum() * 8 / (4 / 3 * np.pi))
    assert radius == pytest.approx(0.9 * EDGE - 4.0, abs=1.5)
    small = Tissue(unit[::16, ::16, ::16].astype(np.float32), inside[::16, ::16, ::16], SIZE, 2.0)
    assert np.array_equal(small.core, small.mask)


def coarse(voxels: Brain) -> Brain:
    x, y, z = (n // 2 for n in voxels.shape)
    return voxels[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))


def mottled(brain: Brain, seed: int) -> Brain:
    """The brain, but all that is finer than some 8 mm is normal texture with as much energy at each place and in each of two bands."""
    inside = ndimage.binary_fill_holes(brain > 0.1 * brain.max()).astype(np.float32)

    def near(values: Brain, size: float) -> Brain:
        found: Brain = ndimage.gaussian_filter(values * inside, size) / np.maximum(ndimage.gaussian_filter(inside, size), 1e-3)
        return found

    texture = np.random.default_rng(seed).normal(size=brain.shape).astype(np.float32)
    bands = [brain, near(brain, 0.8), near(brain, 1.6)]
    grains = [texture, ndimage.gaussian_filter(texture, 0.8), ndimage.gaussian_filter(texture, 1.6)]
    made = bands[-1] * inside
    for band, grain in ((bands[i] - bands[i + 1], grains[i] - grains[i + 1]) for i in range(2)):
        made += grain * inside * np.sqrt(near(band**2, 2.0) / np.maximum(near(grain**2, 2.0), 1e-9))
    return np.clip(made, 0, None)


@pytest.fixture(scope="module")
def brains(cohort: Path) -> list[Brain]:
    """The 61 people of the sample cohort at 4.8 mm."""
    return [coarse(nifti.read(path).voxels) for path in sorted(cohort.rglob("*_T1w.nii.gz"))]


@pytest.fixture(scope="module")
def people(brains: list[Brain]) -> list[Measures]:
    return [measure(brain, COARSE, default_checks()) for brain in brains]


@pytest.fixture(scope="module")
def reference(brains: list[Brain], people: list[Measures]) -> Reference:
    return Reference.fit(people[::2], default_checks(), COARSE, brains[0].shape)


def test_mottled_copies_of_unseen_people_fail_for_their_tissue_and_the_people_do_not(
    brains: list[Brain], people: list[Measures], reference: Reference
) -> None:
    for index in range(1, 13, 2):
        entry = judge("mottled", measure(mottled(brains[index], index), COARSE, reference.checks), reference)
        assert entry["verdict"] == "fail"
        assert {"fold_course", "fold_variety"} & {f["metric"] for f in entry["findings"] if f["level"] == "fail"}
    alarms = [f for one in people[1::2] for f in judge("", one, reference)["findings"] if f["check"] in OWN]
    assert len(alarms) <= 2  # 30 people, and all bands together are to raise an alarm in 5 % of them


def test_a_number_of_the_whole_volume_is_one_finding_that_holds_along_every_axis(brains: list[Brain], reference: Reference) -> None:
    entry = judge("mottled", measure(mottled(brains[1], 0), COARSE, reference.checks), reference)
    whole = [f for f in entry["findings"] if f["metric"] == "fold_variety"]
    assert len(whole) == 1 and whole[0]["whole"] and whole[0]["slices"] is None
    assert whole[0]["text"].startswith("The volume has tissue without folds")
    assert set(entry["axes"].values()) == {"fail"}
    assert reference.thresholds()["fold_variety"]["whole"] and not reference.thresholds()["tv_ratio"]["whole"]


@pytest.mark.parametrize(("whole", "ends"), [(True, 1), (False, 3)])
def test_a_number_of_the_whole_volume_has_one_end_among_those_that_share_the_false_alarms(whole: bool, ends: int) -> None:
    values = np.repeat(np.linspace(-1, 1, 9)[:, None], 3, axis=1)
    found = bands({"a": values}, [Metric("a", "a", low="is low", whole=whole)])["a"]
    width = stats.t.ppf(1 - FALSE_ALARM / ends, 8) * np.sqrt(1 + 1 / 9) * values[:, 0].std(ddof=1)
    assert found[:, 0] == pytest.approx([-width] * 3)


def in_a_skull(brain: Brain) -> Brain:
    """The brain with a dark skull and a bright scalp drawn around it."""
    inside = ndimage.binary_fill_holes(brain > 0.1 * brain.max())
    skull = ndimage.binary_dilation(inside, iterations=2)
    scalp = ndimage.binary_dilation(skull, iterations=2)
    return np.where(inside, brain, np.where(scalp & ~skull, 0.8 * brain.max(), 0.05 * brain.max())).astype(np.float32) * scalp


def test_whole_heads_are_not_judged_by_the_tissues_of_a_brain(brains: list[Brain], reference: Reference) -> None:
    heads = [measure(np.pad(in_a_skull(np.pad(brain, 5)), 1), COARSE, default_checks()) for brain in brains[:8]]
    assert all(one.skull > 0.35 for one in heads)
    found = {f["check"] for f in judge("head", heads[0], reference)["findings"]}
    assert found and not OWN & found  # stripped people as the reference: nothing is said of the tissues
    theirs = Reference.fit(heads, default_checks(), COARSE, heads[0].areas[0].shape * 3)
    names = {metric.name for check in default_checks() if check.kind in OWN for metric in check.metrics}
    assert not names & {metric.name for _, metric in theirs.metrics}
    assert not theirs.unknown
    again = Reference.from_json(theirs.to_json(), "bands.json")
    assert not again.unknown and [m.name for _, m in again.metrics] == [m.name for _, m in theirs.metrics]
