"""The cost of the report and what other acquisitions move are measured on a store, and rows say what they are relative to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from volgen.bench import acquisitions, report
from volgen.bench.acquisitions.simulate import ACQUISITIONS
from volgen.core.errors import UserError
from volgen.data.store import Store
from volgen.evaluation.measure import default_checks


def test_metrics_are_timed_against_reading_and_against_the_plain_loop(blob_store: Path) -> None:
    rows = {row.name: row for row in report.run(report.Config(store=blob_store, repeats=2))}
    read, metrics, plain = (rows[n] for n in ("read the file (.nii.gz)", "all metrics", "plain loop with scipy and scikit-image"))
    assert metrics.ratio_to[read.name] == pytest.approx(metrics.value / read.value)
    assert plain.ratio_to[metrics.name] == pytest.approx(plain.value / metrics.value)
    assert rows["window and head mask"].value < metrics.value
    assert all(row.value > 0 for row in rows.values())


def test_another_acquisition_is_another_volume_of_the_same_grid(blob_store: Path) -> None:
    store = Store.open(blob_store)
    unit = store.read_unit(store.records[0])
    kept = unit.copy()
    for name, acquire in ACQUISITIONS.items():
        found = acquire(unit)
        assert found.shape == unit.shape and found.dtype == np.float32 and np.isfinite(found).all(), name
        assert not np.array_equal(found, unit), name
    assert np.array_equal(unit, kept)


def test_every_metric_has_its_largest_move_and_a_word_on_what_is_forgiven(blob_store: Path) -> None:
    rows = acquisitions.run(acquisitions.Config(store=blob_store, people=2))
    names = [metric.name for check in default_checks() for metric in check.metrics]
    assert [row.name for row in rows] == ["people", *names]
    by_name = {row.name: row.value for row in rows}
    assert by_name["roughness"] > 0.05  # sharpening moves sharpness
    assert acquisitions.table(rows).count("\n") == len(names) + 1
    with pytest.raises(UserError, match="no such folder"):
        acquisitions.run(acquisitions.Config(store=blob_store / "none"))
