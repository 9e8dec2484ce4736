"""Every curve and number of the checks is that of a plain loop with scipy and scikit-image, on a real brain and on awkward ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from volgen.bench.report import plain as plain_metrics
from volgen.evaluation.mask import head_mask
from volgen.evaluation.measure import default_checks, measure, robust_unit
from volgen.images import nifti

SIZE = (2.0, 2.4, 3.0)


@pytest.fixture(scope="module")
def brain(cohort: Path) -> NDArray[np.float32]:
    return robust_unit(nifti.read(sorted(cohort.rglob("*_T1w.nii.gz"))[0]).voxels)


@pytest.mark.parametrize("where", ["whole", "at the border", "odd edges", "noise outside"])
def test_metrics_are_those_of_a_plain_loop(where: str, brain: NDArray[np.float32]) -> None:
    if where == "at the border":  # the head is cut on all sides, so that windows reach over the edge of the volume
        brain = brain[24:58, 30:66, 20:61]
    elif where == "odd edges":
        brain = np.ascontiguousarray(brain[:79, 3:, :-4].transpose(2, 0, 1))
    elif where == "noise outside":
        brain = np.clip(brain + np.abs(np.random.default_rng(0).normal(0, 0.02, brain.shape)), 0, 1).astype(np.float32)
    unit = robust_unit(brain)
    plain = plain_metrics.everything(unit, SIZE)
    measured = measure(brain, SIZE, default_checks())
    assert np.array_equal(head_mask(unit), plain["mask"])
    results = measured.results.values()
    for axis in range(3):
        for name, expected in plain["curves"][axis].items():
            found = next(result.curves[name][axis] for result in results if name in result.curves)
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5, err_msg=name)
            assert np.isfinite(expected).sum() > 5
        for name, value in plain["numbers"][axis].items():
            found = next(result.values[name][axis] for result in results if name in result.values)
            assert found == pytest.approx(value, rel=1e-4), name
