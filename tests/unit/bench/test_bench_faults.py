"""Planted faults are what they say, touch what they say, and the benchmark counts them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from volgen.bench import faults
from volgen.bench.faults.damage import FAULTS, STRENGTHS, plant
from volgen.core.errors import UserError

SHAPE = (44, 48, 52)


@pytest.fixture(scope="module")
def brain() -> NDArray[np.float32]:
    grid = np.meshgrid(*[np.linspace(-1.25, 1.25, n) for n in SHAPE], indexing="ij")
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 1.5)
    return np.where(sum(axis**2 for axis in grid) < 1, 0.5 + texture, 0).astype(np.float32)


@pytest.mark.parametrize("strength", range(3))
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_changes_a_copy_along_its_axis_and_only_where_it_says(name: str, strength: int, brain: NDArray[np.float32]) -> None:
    fault, before = FAULTS[name], brain.copy()
    for axis in fault.axes:
        broken, places = plant(fault, brain, axis, strength, np.random.default_rng(strength))
        again, _ = plant(fault, brain, axis, strength, np.random.default_rng(strength))
        assert np.array_equal(broken, again)
        assert np.array_equal(brain, before)
        assert broken.shape == brain.shape
        assert broken.dtype == np.float32
        changed = np.flatnonzero((broken != brain).any(axis=tuple(a for a in range(3) if a != axis)))
        assert changed.size
        if name in ("slice swap", "one bad slice", "repeated slices"):
            assert places is not None
            assert places[0] <= changed[0]
            assert changed[-1] <= places[1]
        elif name in ("patch seam", "left-right flip half-way"):
            assert places is not None
            assert changed[0] >= places[1]  # everything beyond the border
            assert changed[-1] > places[1] + 5
        else:
            assert places is None


def test_sizes_grow_with_the_strength() -> None:
    assert all(fault.sizes[0] < fault.sizes[1] < fault.sizes[2] for fault in FAULTS.values())


def test_a_flip_is_a_mirror_about_the_middle_of_the_head(brain: NDArray[np.float32]) -> None:
    mirrored, places = plant(FAULTS["left-right flip half-way"], brain, 2, 0, np.random.default_rng(0))
    assert places is not None
    filled = np.flatnonzero((brain > 0).any(axis=(1, 2)))
    for x in range(filled[0], filled[-1] + 1):
        assert np.array_equal(mirrored[x, :, places[1] :], brain[filled[0] + filled[-1] - x, :, places[1] :])


def test_the_benchmark_counts_and_its_table_has_every_fault(blob_store: Path) -> None:
    rows = faults.run(faults.Config(store=blob_store, cases=1))
    names = {row.name for row in rows}
    assert {
        f"STORE on STORE: {name}, {word}: {what}" for name in (*FAULTS, "all") for word in STRENGTHS for what in ("caught", "found")
    } <= names
    by_name = {row.name: row.value for row in rows}
    for name in FAULTS:
        assert all(
            by_name[f"STORE on STORE: {name}, {word}: found"] <= by_name[f"STORE on STORE: {name}, {word}: caught"] for word in STRENGTHS
        )
    table = faults.table(rows)
    assert all(f"| {name} |" in table for name in FAULTS)
    assert all(row.interval is None or row.interval[0] <= row.value <= row.interval[1] for row in rows)


@pytest.mark.slow
def test_with_another_cohort_there_are_six_settings_and_other_is_not_caught_on_it(blob_store: Path) -> None:
    rows = faults.run(faults.Config(store=blob_store, other=blob_store, cases=1))
    by_name = {row.name: row.value for row in rows}
    settings = [name.removesuffix(": people behind the bands") for name in by_name if name.endswith("people behind the bands")]
    assert settings == ["STORE on STORE", "other on other", "STORE on other", "other on STORE", "both on STORE", "both on other"]
    assert by_name["both on other: people behind the bands"] == 2 * by_name["STORE on STORE: people behind the bands"]
    for word in STRENGTHS:  # the same bands and volumes: only what counts as caught differs
        assert by_name[f"STORE on other: all, {word}: caught"] <= by_name[f"other on other: all, {word}: caught"]
    assert len({row.name for row in rows}) == len(rows)
    assert faults.table(rows).count("| motion ghosting |") == len(settings)


def test_stores_that_do_not_fit_are_refused(blob_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        faults.run(faults.Config(store=tmp_path / "none"))
    with pytest.raises(UserError, match="no such folder"):
        faults.run(faults.Config(store=blob_store, other=tmp_path / "none"))
