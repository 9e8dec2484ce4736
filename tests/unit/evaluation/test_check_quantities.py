"""Each check against a volume whose answer is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from volgen.core.protocols import AXES
from volgen.core.registry import kinds
from volgen.evaluation import slices
from volgen.evaluation.mask import dilated, head_mask
from volgen.evaluation.measure import default_checks, measure, robust_unit
from volgen.evaluation.scan import HeadScan
from volgen.evaluation.spectrum import high_frequency_energy
from volgen.evaluation.volumes import adjacent_l1, adjacent_ssim, anisotropy, excess, extent, high_frequency, slice_bias, total_variation

SHAPE = (20, 24, 28)
WHOLE = np.ones(SHAPE, dtype=np.bool_)
SIZE = (1.0, 2.0, 4.0)


def ramp(*slopes: float) -> NDArray[np.float32]:
    grid = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in SHAPE], indexing="ij")
    return np.asarray(sum(slope * axis for slope, axis in zip(slopes, grid, strict=True)), dtype=np.float32)


def head(seed: int = 0, shape: tuple[int, int, int] = (32, 36, 32)) -> NDArray[np.float32]:
    """A smooth ellipsoid with texture on black."""
    from scipy import ndimage

    grid = np.meshgrid(*[np.linspace(-1.3, 1.3, n) for n in shape], indexing="ij")
    inside = sum(axis**2 for axis in grid) < 1
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    return np.asarray(np.where(inside, 0.6 + 0.5 * texture, 0), dtype=np.float32)


def test_total_variation_of_a_ramp_is_its_slope_and_the_ratio_is_relative_to_the_reference() -> None:
    check = total_variation.Config()
    values = check.measure(HeadScan(ramp(0.01, 0.002, 0.005), WHOLE, SIZE)).values
    assert values["tv_ratio"] == pytest.approx((0.01, 0.002, 0.005), rel=1e-4)
    assert check.relate(values, {"tv_ratio": (0.01, 0.001, 0.01)})["tv_ratio"] == pytest.approx((1.0, 2.0, 0.5), rel=1e-4)


def test_excess_is_the_ratio_minus_the_mean_of_the_other_axes() -> None:
    check = excess.Config()
    values = check.measure(HeadScan(ramp(0.01, 0.002, 0.005), WHOLE, SIZE)).values
    assert check.relate(values, {"tv_excess": (0.01, 0.001, 0.01)})["tv_excess"] == pytest.approx((-0.25, 1.25, -1.0), rel=1e-3)


def test_anisotropy_counts_change_per_millimetre() -> None:
    # Equal slopes per mm on an anisotropic grid: 0.01 per mm along every axis.
    values = anisotropy.Config().measure(HeadScan(ramp(0.01, 0.02, 0.04), WHOLE, SIZE)).values
    assert values["anisotropy"] == pytest.approx((1.0, 1.0, 1.0), rel=1e-4)
    values = anisotropy.Config().measure(HeadScan(ramp(0.03, 0.02, 0.04), WHOLE, SIZE)).values
    assert values["anisotropy"] == pytest.approx((3.0, 0.5, 0.5), rel=1e-4)


def test_pairs_across_the_edge_of_the_mask_do_not_count() -> None:
    unit = np.zeros(SHAPE, dtype=np.float32)
    unit[5:15, 5:15, 5:15] = 1.0
    values = total_variation.Config().measure(HeadScan(unit, unit > 0, SIZE)).values
    assert values["tv_ratio"] == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("axis", range(3))
def test_banding_has_the_slice_bias_of_its_steps_along_its_axis_alone(axis: int) -> None:
    unit = np.full(SHAPE, 0.5, dtype=np.float32)
    np.moveaxis(unit, axis, 0)[::2] += 0.1
    result = slice_bias.Config().measure(HeadScan(unit, WHOLE, SIZE))
    expected = [0.0, 0.0, 0.0]
    expected[axis] = 0.1
    assert result.values["slice_bias_ratio"] == pytest.approx(expected, abs=1e-6)
    assert [len(curve) for curve in result.curves["slice_bias"]] == [n - 1 for n in SHAPE]


def test_adjacent_l1_is_that_of_a_loop_over_slices() -> None:
    unit, mask = head(), head_mask(head())
    result = adjacent_l1.Config(smallest_share=0.01).measure(HeadScan(unit, mask, SIZE))
    loop = []
    for z in range(unit.shape[2] - 1):
        both = mask[:, :, z] & mask[:, :, z + 1]
        if both.sum() >= 0.01 * (mask[:, :, 1:] & mask[:, :, :-1]).sum(axis=(0, 1)).max():
            loop.append(np.abs(unit[:, :, z + 1] - unit[:, :, z])[both].mean())
    assert result.values["adjacent_l1_mean"][2] == pytest.approx(np.mean(loop), rel=1e-5)
    assert result.values["adjacent_l1_min"][2] == pytest.approx(np.min(loop), rel=1e-5)
    assert result.values["adjacent_l1_sd"][2] == pytest.approx(np.std(loop), rel=1e-5)


def test_cropping_to_the_head_does_not_change_adjacent_ssim() -> None:
    unit, mask = head(), head_mask(head())
    curve = adjacent_ssim.Config().measure(HeadScan(unit, mask, SIZE)).curves["adjacent_ssim"][1]
    z = unit.shape[1] // 2
    _, local = structural_similarity(unit[:, z], unit[:, z + 1], win_size=7, data_range=1.0, full=True)
    assert curve[z] == pytest.approx(local[mask[:, z] & mask[:, z + 1]].mean(), rel=1e-6)


def test_equal_slices_have_ssim_one_and_no_difference() -> None:
    unit = head()
    unit[:, :, 16] = unit[:, :, 15]
    mask = head_mask(unit)
    assert adjacent_ssim.Config().measure(HeadScan(unit, mask, SIZE)).curves["adjacent_ssim"][2][15] == pytest.approx(1.0, abs=1e-6)
    assert adjacent_l1.Config().measure(HeadScan(unit, mask, SIZE)).values["adjacent_l1_min"][2] == 0.0


@pytest.mark.parametrize("axis", range(3))
def test_a_grating_has_all_its_energy_on_one_side_of_the_cutoff(axis: int) -> None:
    place = np.arange(32).reshape([-1 if a == axis else 1 for a in range(3)])
    whole = np.ones((32, 32, 32), dtype=np.bool_)
    for frequency, share in ((0.4, 1.0), (0.1, 0.0)):
        wave = np.broadcast_to(np.cos(2 * np.pi * frequency * place), whole.shape).astype(np.float32)
        assert high_frequency_energy(HeadScan(wave, whole, SIZE), axis) == pytest.approx(share, abs=1e-3)
    # Along the other axes that grating is constant.
    assert high_frequency_energy(HeadScan(wave, whole, SIZE), (axis + 1) % 3) == pytest.approx(0.0, abs=1e-6)


def test_white_noise_has_the_share_of_frequencies_above_the_cutoff() -> None:
    noise = np.random.default_rng(0).normal(size=(64, 64, 64)).astype(np.float32)
    values = high_frequency.Config(cutoff=0.25).measure(HeadScan(noise, np.ones(noise.shape, dtype=np.bool_), SIZE)).values
    assert values["high_frequency_ratio"] == pytest.approx((0.5, 0.5, 0.5), abs=0.02)


def test_extent_is_the_bounding_box_in_millimetres() -> None:
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[3:13, 4:9, 20:28] = True
    assert extent.Config().measure(HeadScan(mask.astype(np.float32), mask, SIZE)).values["extent_mm"] == (10.0, 10.0, 32.0)


def test_a_spike_stands_out_by_its_height_and_a_slope_does_not() -> None:
    curve = np.full(30, 2.0)
    curve[[11, 12]] = 6.0
    sharp = slices.spikes(curve)
    assert sharp[[11, 12]] == pytest.approx([3.0, 3.0])
    assert np.delete(sharp, [11, 12]) == pytest.approx(np.ones(28))
    assert np.nanmax(slices.spikes(np.linspace(1, 2, 30))) < 1.1


def test_a_spike_is_not_looked_for_where_too_few_neighbours_are_known() -> None:
    curve = np.full(30, np.nan)
    curve[10:13] = 1.0
    assert np.isnan(slices.spikes(curve)).all()


@pytest.mark.parametrize("hollow", [False, True])
def test_the_mask_is_the_head_with_its_holes_and_without_specks_and_noise(hollow: bool) -> None:
    unit = head()
    truth = unit > 0
    if hollow:
        unit[13:18, 15:20, 13:18] = 0  # ventricles
    unit[1:3, 1:3, 1:3] = 0.8  # a speck in a corner
    noisy = np.clip(unit + np.random.default_rng(0).normal(0, 0.03, unit.shape), 0, 1).astype(np.float32)
    mask = head_mask(noisy)
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.99


def test_dilation_is_in_millimetres() -> None:
    mask = np.zeros((21, 21, 21), dtype=np.bool_)
    mask[10, 10, 10] = True
    grown = dilated(mask, (1.0, 2.0, 4.0), 4.0)
    assert [int(grown.any(axis=others).sum()) for others in ((1, 2), (0, 2), (0, 1))] == [9, 5, 3]


def test_metric_names_are_unique_over_the_folder_and_every_check_keeps_its_word() -> None:
    checks = default_checks()
    assert [check.kind for check in checks] == kinds("volgen.evaluation.volumes")
    names = [metric.name for check in checks for metric in check.metrics]
    assert len(set(names)) == len(names)
    volume = robust_unit(head())
    for check in checks:
        result = check.measure(HeadScan(volume, head_mask(volume), (2.0, 2.0, 2.0)))
        related = check.relate(result.values, dict.fromkeys(result.values, (1.0, 1.0, 1.0)))
        assert set(related) == {metric.name for metric in check.metrics if not metric.placed}
        assert all(np.isfinite(values).all() for values in related.values()), check.kind
        for metric in check.metrics:
            assert metric.low or metric.high
            assert not metric.placed or (metric.high and metric.curve)
            if metric.curve:
                lengths = [len(curve) for curve in result.curves[metric.curve]]
                assert lengths in ([n - 1 for n in volume.shape], list(volume.shape)), metric.name


@pytest.mark.parametrize("voxels", [np.zeros((16, 16, 16)), np.full((16, 16, 16), 7.0), np.full((16, 16, 16), np.nan), np.ones((3, 2, 1))])
def test_a_volume_without_a_head_is_measured_without_a_crash(voxels: NDArray[np.float64]) -> None:
    measured = measure(voxels, (1.0, 1.0, 1.0), default_checks())
    assert measured.extents == (None, None, None)
    assert measured.results["extent"].values["extent_mm"] == (0.0, 0.0, 0.0)
    assert np.isnan(measured.results["total_variation"].values["tv_ratio"]).all()


def test_voxels_that_are_not_numbers_are_remembered_with_their_slices() -> None:
    voxels = head() * 900
    voxels[10, 10, 7], voxels[12, 12, 9] = np.nan, np.inf
    measured = measure(voxels, (2.0, 2.0, 2.0), default_checks())
    assert measured.not_finite == (7, 9)
    assert measured.not_finite_share == pytest.approx(2 / voxels.size)
    assert all(np.isfinite(v).all() for result in measured.results.values() for v in result.values.values())


def test_slice_rows_cover_every_slice_of_every_axis() -> None:
    measured = measure(head(), (2.0, 3.0, 4.0), default_checks())
    rows = list(measured.slice_rows())
    assert [(row["axis"], row["slice"]) for row in rows] == [(a, z) for a, n in zip(AXES, (32, 36, 32), strict=True) for z in range(n)]
    total = sum(row["head_mm2"] * 4.0 for row in rows if row["axis"] == "S")
    assert total == pytest.approx(sum(row["head_mm2"] * 2.0 for row in rows if row["axis"] == "R"))
