"""Coverage, PIT and chi-square, against posteriors whose truth is drawn from them."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from volgen.evaluation import posterior

RNG = np.random.default_rng(0)
VOXELS = 40000


def told(width: float, shift: float = 0.0, count: int = 8) -> dict:  # type: ignore[type-arg]
    """Samples of N(m, 0.1^2) and a truth of N(m + shift, (0.1 / width)^2)."""
    mean = RNG.random(VOXELS)
    samples = (mean + 0.1 * RNG.standard_normal((count, VOXELS))).astype(np.float32)
    truth = (mean + shift + 0.1 / width * RNG.standard_normal(VOXELS)).astype(np.float32)
    return posterior.tallied(samples, truth, 0).told()


@pytest.mark.parametrize("count", [2, 8])
def test_intervals_of_a_right_posterior_hold_what_they_say(count: int) -> None:
    found = told(1.0, count=count)
    for level in posterior.LEVELS:
        assert found["coverage"][f"{level:g}"] == pytest.approx(level, abs=0.01)
    np.testing.assert_allclose(found["pit"], 0.1, atol=0.01)
    assert found["spread_over_error"] == pytest.approx(1.0, abs=0.02)


def test_a_posterior_that_is_too_narrow_too_wide_or_off_is_told() -> None:
    narrow, wide, off = told(0.5), told(2.0), told(1.0, shift=0.1)
    assert narrow["coverage"]["0.9"] < 0.8 and narrow["pit"][0] > 0.15 < narrow["pit"][-1] and narrow["spread_over_error"] < 0.7
    assert wide["coverage"]["0.5"] > 0.7 and wide["pit"][0] < 0.05 > wide["pit"][-1] and wide["spread_over_error"] > 1.4
    assert off["pit"][-1] > 0.2 > 0.05 > off["pit"][0]


def test_people_add_up_and_maps_are_compared() -> None:
    spread = np.repeat(np.float32([0.02, 0.2]), VOXELS // 2)
    samples = (spread * RNG.standard_normal((8, VOXELS))).astype(np.float32)
    truth = (spread * RNG.standard_normal(VOXELS)).astype(np.float32)
    one = posterior.tallied(samples, truth, 0)
    both = one + one
    assert both.voxels == 2 * VOXELS and both.told()["coverage"] == one.told()["coverage"]
    bins = one.told()["by_spread"]
    assert len(bins) == posterior.BINS and bins[0]["error"] < 0.03 and bins[-1]["error"] > 0.15
    assert posterior.likeness_of_maps(samples.std(axis=0), truth) > 0.5  # type: ignore[operator]
    assert posterior.likeness_of_maps(np.ones(5, np.float32), np.ones(5, np.float32)) is None


def test_psnr_and_ssim_have_a_range_of_one() -> None:
    truth = RNG.random((12, 12, 12), dtype=np.float32)
    image = np.clip(truth + 0.1 * RNG.standard_normal(truth.shape), 0, 1).astype(np.float32)
    assert posterior.psnr(image, truth) == pytest.approx(peak_signal_noise_ratio(truth, image, data_range=1.0), abs=1e-4)
    whole = np.ones(truth.shape, dtype=bool)
    assert posterior.ssim_in(image, truth, whole) == pytest.approx(structural_similarity(truth, image, data_range=1.0), abs=0.02)
    half = whole.copy()
    half[:, :, 6:] = False
    damaged = image.copy()
    damaged[:, :, 10:] = 0.0  # outside of the mask, and farther from it than a window reaches
    assert posterior.ssim_in(damaged, truth, half) == pytest.approx(posterior.ssim_in(image, truth, half))
    assert posterior.ssim_in(image[:4], truth[:4], whole[:4]) is None


def test_disagreement_is_said_in_words() -> None:
    assert posterior.disagreement([1.0, 0.9, 1.2]) == ""
    found = posterior.disagreement([4.0])
    assert found.startswith("Data and model disagree: the volumes miss what was measured by 2 times the noise")
    found = posterior.disagreement([0.01, 0.01, 3.0])
    assert found.startswith("The volumes follow the noise of the data: they miss what was measured by 0.1")
