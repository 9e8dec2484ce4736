"""Checks of slices against their neighbours: closed forms, and faults that each must see at their place and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from volgen.evaluation.placement import POSITIONS, Entries, Placement
from volgen.evaluation.scan import HeadScan, large
from volgen.evaluation.slices import stand_out
from volgen.evaluation.volumes import alignment, background, continuity, drift, mirror, outline, seam

SHAPE = (30, 34, 38)
SIZE = (1.0, 2.0, 4.0)
WHOLE = np.ones(SHAPE, dtype=np.bool_)


def texture(seed: int = 0, sd: float = 2.0) -> NDArray[np.float32]:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), sd)
    return np.asarray(0.5 + 0.1 * smooth / smooth.std(), dtype=np.float32)


def along(volume: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    return np.moveaxis(volume, axis, 0)


@pytest.mark.parametrize("axis", range(3))
def test_order_and_misfit_are_those_of_a_loop(axis: int) -> None:
    unit = texture()
    curves = continuity.Config().measure(HeadScan(unit, WHOLE, SIZE)).curves
    s = along(unit, axis).astype(np.float64)
    for z in (1, 12, len(s) - 2):
        before, after, over = (np.abs(a - b).mean() for a, b in ((s[z], s[z - 1]), (s[z + 1], s[z]), (s[z + 1], s[z - 1])))
        assert curves["order"][axis][z] == pytest.approx(2 * over / (before + after), rel=1e-4)
        assert curves["misfit"][axis][z] == pytest.approx(np.abs(s[z] - (s[z - 1] + s[z + 1]) / 2).mean(), rel=1e-4)
        assert curves["step"][axis][z] == pytest.approx(after, rel=1e-4)
    assert [len(curves["order"][a]) for a in range(3)] == list(SHAPE)
    assert [len(curves["step"][a]) for a in range(3)] == [n - 1 for n in SHAPE]


@pytest.mark.parametrize("axis", range(3))
def test_swapped_slices_are_out_of_order_and_no_others_are(axis: int) -> None:
    unit = texture(sd=3.0)
    slices = along(unit, axis)
    slices[[14, 15]] = slices[[15, 14]]
    order = continuity.Config().measure(HeadScan(unit, WHOLE, SIZE)).curves["order"]
    assert set(np.flatnonzero(order[axis] < 1)) == {14, 15}
    assert all(np.nanmin(order[other]) > 1 for other in range(3) if other != axis)


def test_white_noise_changes_as_much_over_one_slice_as_over_two_and_a_ramp_half_as_much() -> None:
    noise = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    values = continuity.Config().measure(HeadScan(noise, WHOLE, SIZE)).values
    assert values["order_mean"] == pytest.approx((1, 1, 1), abs=0.02)
    assert values["roughness"] == pytest.approx((1, 1, 1), abs=0.03)
    assert values["roughness_excess"] == pytest.approx((1, 1, 1), abs=0.05)
    ramp = np.asarray(np.indices(SHAPE).sum(axis=0), dtype=np.float32)
    assert continuity.Config().measure(HeadScan(ramp, WHOLE, SIZE)).values["order_mean"] == pytest.approx((2, 2, 2), rel=1e-4)


@pytest.mark.parametrize("axis", range(3))
def test_blur_along_one_axis_lowers_its_roughness_alone_and_contrast_does_not(axis: int) -> None:
    unit = texture(sd=0.8)
    before = continuity.Config().measure(HeadScan(unit, WHOLE, SIZE)).values
    assert continuity.Config().measure(HeadScan(0.2 * unit, WHOLE, SIZE)).values["roughness"] == pytest.approx(
        before["roughness"], rel=1e-3
    )
    after = continuity.Config().measure(HeadScan(ndimage.gaussian_filter1d(unit, 0.8, axis=axis), WHOLE, SIZE)).values
    for other in range(3):
        ratio = after["roughness"][other] / before["roughness"][other]
        assert ratio < 0.8 if other == axis else ratio == pytest.approx(1, abs=0.05)
    assert int(np.argmin(after["roughness_excess"])) == axis


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("moved", [0.25, 0.5])
def test_the_shift_of_one_slice_is_measured_in_voxels(axis: int, moved: float) -> None:
    unit = texture(sd=3.0)
    slices = along(unit, axis)
    slices[15] = ndimage.shift(slices[15], (moved, 0), order=3, mode="nearest")
    shift = alignment.Config().measure(HeadScan(unit, WHOLE, SIZE)).curves["shift"]
    assert shift[axis][15] == pytest.approx(moved, abs=0.12)
    assert int(np.nanargmax(shift[axis])) == 15


@pytest.mark.parametrize("axis", range(3))
def test_the_gain_of_one_slice_is_the_share_by_which_it_is_brighter(axis: int) -> None:
    unit = texture(sd=3.0)
    along(unit, axis)[15] *= 1.06
    gain = alignment.Config().measure(HeadScan(unit, WHOLE, SIZE)).curves["gain"]
    assert gain[axis][15] == pytest.approx(0.06, abs=0.01)
    assert [gain[axis][z] for z in (14, 16)] == pytest.approx([0.03, 0.03], abs=0.01)
    assert all(np.nanmax(gain[other]) < 0.02 for other in range(3) if other != axis)


def test_the_outline_of_a_box_that_moves() -> None:
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[5:25, 6:26, 5:20] = True
    mask[5:25, 8:28, 20:35] = True  # two voxels of 2 mm along A from slice 20 on
    curves = outline.Config().measure(HeadScan(mask.astype(np.float32), mask, SIZE)).curves
    assert curves["outline_loss"][2][19] == pytest.approx(1 - 18 / 20)
    assert curves["outline_drift"][2][19] == pytest.approx(4.0)
    assert np.nanmax(np.delete(curves["outline_drift"][2], 19)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("axis", range(3))
def test_a_ghost_shows_in_the_shadow_of_its_axis_alone(axis: int) -> None:
    unit = np.zeros((40, 40, 40), dtype=np.float32)
    unit[14:26, 14:26, 14:26] = 0.8
    mask = unit > 0
    unit += np.float32(0.1) * np.roll(unit, 16, axis=axis)
    levels = background.Config().measure(HeadScan(unit, mask, (1.0, 1.0, 1.0))).values["ghost_level"]
    assert levels[axis] > 0.02
    assert [levels[other] for other in range(3) if other != axis] == [0.004, 0.004]


@pytest.mark.parametrize("axis", range(3))
def test_the_seam_score_is_the_jump_at_the_borders_over_the_change_elsewhere(axis: int) -> None:
    unit = np.asarray(0.01 * np.indices(SHAPE)[axis] + 0.1, dtype=np.float32)
    along(unit, axis)[16:] += 0.03
    scores = seam.Config(blocks=(16,)).measure(HeadScan(unit, WHOLE, SIZE)).values["seam_score"]
    assert scores[axis] == pytest.approx((0.04 / 0.01) if SHAPE[axis] <= 32 else 2.0, rel=1e-3)  # two borders along the longer axes
    assert seam.Config(blocks=(7,)).measure(HeadScan(unit, WHOLE, SIZE)).values["seam_score"][axis] < 1.2


def test_standing_out_leaves_out_the_entry_and_its_neighbours() -> None:
    logs = np.zeros(30)
    logs[[10, 11]] = 2.0
    assert stand_out(logs)[[9, 10, 11, 12]] == pytest.approx([0, 2, 2, 0])
    sparse = np.full(30, np.nan)
    sparse[3:7] = 1.0
    assert np.isnan(stand_out(sparse)).all()


def course(seed: int, bump: bool = False) -> Entries:
    """A curve with a tall peak in the middle, as at the fissure between the hemispheres, that varies from person to person."""
    rng = np.random.default_rng(seed)
    places = np.arange(60) / 59
    values = np.exp(0.05 * rng.normal(size=60)) * (1 + rng.uniform(1.5, 3.5) * (np.abs(places - 0.5) < 0.02)) * rng.uniform(0.5, 2)
    if bump:
        values[15] *= 1.5
    return Entries.of(values, (0, 59), 60)


def test_a_place_is_compared_with_the_same_place_of_real_volumes() -> None:
    fitted = Placement.fit([course(seed) for seed in range(40)])
    real = [fitted.extreme(course(seed), "high") for seed in range(40, 80)]
    faulty = [fitted.extreme(course(seed, bump=True), "high") for seed in range(40, 80)]
    assert min(faulty) > max(real)
    worst = fitted.standing_out(course(90, bump=True))
    assert int(np.nanargmax(worst)) == 15  # not the peak in the middle, although that is twice as high
    assert Placement.from_json(fitted.to_json()) == fitted
    assert 0.8 < np.mean([fitted.usual(course(seed)).mean() for seed in range(40, 80)]) < 0.97


def test_entries_of_pairs_stand_between_their_slices_and_unknown_ones_are_left_out() -> None:
    curve = np.array([np.nan, 1.0, 2.0, np.nan])
    entries = Entries.of(curve, (1, 4), 5)
    assert entries.places == pytest.approx([0.5 / 3, 1.5 / 3])
    assert entries.slices.tolist() == [1, 2]
    assert Entries.of(curve, None, 5).values.size == 0
    assert Placement.fit([Entries.of(curve, None, 5)] * 3).course == (1.0,) * POSITIONS


def test_a_small_slice_between_large_ones_is_compared_and_those_at_the_ends_are_not() -> None:
    area = np.array([0, 1, 2, 9, 10, 10, 1, 10, 10, 9, 10, 9, 2, 1, 0], dtype=np.float64)
    assert np.flatnonzero(large(area, 0.35)).tolist() == list(range(3, 12))
    assert np.flatnonzero(large(np.array([0.0, 1, 5, 10, 5, 1, 0]), 0.35)).tolist() == [2, 3, 4]
    assert np.flatnonzero(large(np.array([1.0, 2, 9, 9, 1, 2, 3, 4, 0]), 0.35)).tolist() == list(range(8))
    assert not large(np.zeros(9), 0.35).any()


@pytest.mark.parametrize("axis", range(3))
def test_a_stack_that_is_turned_over_is_like_its_mirror_image_there_and_nowhere_else(axis: int) -> None:
    unit = texture(sd=3.0)
    whole = mirror.Config(pixel=1.0).measure(HeadScan(unit, WHOLE, (1.0, 1.0, 1.0)))
    assert max(whole.values["mirror_max"]) < 0.8
    slices = along(unit, axis)
    slices[15:] = slices[15:, ::-1].copy()  # the first edge of a slice is left to right, of a sagittal one back to front
    curve = mirror.Config(pixel=1.0).measure(HeadScan(unit, WHOLE, (1.0, 1.0, 1.0))).curves["mirror"][axis]
    assert np.flatnonzero(curve > 1).tolist() == [14]
    assert len(curve) == SHAPE[axis] - 1
    # Against a loop over all mirrors: 2 sum ab is what a slice and a mirror image share.
    a, b = (slices[z].astype(np.float64) for z in (14, 15))
    shared = max(sum(float(a[i] @ b[c - i]) for i in range(len(a)) if 0 <= c - i < len(b)) for c in range(2 * len(a) - 1))
    assert curve[14] == pytest.approx(((a - b) ** 2).sum() / ((a**2).sum() + (b**2).sum() - 2 * shared), rel=1e-3)


def test_the_slant_of_a_sheared_texture_is_the_shear() -> None:
    shape, shear = (64, 64, 64), 0.2
    smooth = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=shape), 2.0)
    unit = np.asarray(0.5 + 0.1 * smooth / smooth.std(), dtype=np.float32)
    whole, names = np.ones(shape, dtype=np.bool_), ("slant_sideways", "slant_lengthways")
    check = drift.Config(pixel=1.0, turn=0.0)
    sideways, lengthways = names
    cases = [
        (0, 2, {(sideways, 2), (lengthways, 0)}),
        (0, 1, {(sideways, 0), (sideways, 1)}),
        (1, 2, {(lengthways, 1), (lengthways, 2)}),
    ]
    for slides, along_, expected in cases:
        matrix = np.eye(3)
        matrix[slides, along_] = -shear  # the slice at z shows what was at x - s z
        moved = ndimage.affine_transform(unit, matrix, offset=[32 * shear * (axis == slides) for axis in range(3)], mode="wrap")
        before, after = (check.measure(HeadScan(v.astype(np.float32), whole, (1.0, 1.0, 1.0))).values for v in (unit, moved))
        for name in names:
            for axis in range(3):
                change = after[name][axis] - before[name][axis]
                assert change == pytest.approx(-shear / np.hypot(1, shear) if (name, axis) in expected else 0.0, abs=0.03), (name, axis)
