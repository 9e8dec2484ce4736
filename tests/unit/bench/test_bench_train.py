"""volgen bench train: arms end well, out of memory or late, and each of these is a row."""

from __future__ import annotations

import math

import pytest

from volgen.bench import train
from volgen.bench.train.arm import Arm, Figures, measure

SMALL = {"kind": "wavelet_unet3d", "channels": [8]}
WIDE = {"kind": "wavelet_unet3d", "channels": [32]}


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["volgen", "bare"])
def test_an_arm_trains_in_a_process_of_its_own(loop: str) -> None:
    found = measure(Arm("arm", 16, SMALL, loop=loop), steps=1, memory_gib=4, patience=120)  # type: ignore[arg-type]
    assert not found.failed
    assert found.cpu > 0 and found.wall > 0 and found.parameters > 1000
    assert found.peak > 100 * 2**20  # torch alone


@pytest.mark.slow
def test_passes_share_a_batch() -> None:
    at_once, in_passes = (measure(Arm("arm", 64, WIDE, batch=4, passes=passes), steps=1, memory_gib=8, patience=300) for passes in (1, 4))
    assert not at_once.failed and not in_passes.failed
    assert 0.3 < in_passes.cpu / at_once.cpu < 3.0, "the same volumes"
    assert in_passes.peak < at_once.peak


@pytest.mark.slow
def test_too_little_memory_is_a_figure() -> None:
    found = measure(Arm("arm", 192, WIDE, loop="bare", precision="fp32", checkpointing=False), steps=1, memory_gib=1, patience=120)
    assert found.failed == "out of memory"


def test_too_little_patience_is_a_figure() -> None:
    assert measure(Arm("arm", 16, SMALL), steps=1, memory_gib=4, patience=0.2).failed == "longer than 0.2 s"


def test_rows_say_what_they_are_relative_to_and_which_way_is_better() -> None:
    reference = Figures(cpu=2.0, wall=1.0, peak=2**30, parameters=5)
    rows = {row.name: row for row in train._rows("loop 8^3 DeepSpeed", Figures(2.1, 1.0, 2**31, 5), reference, "loop 8^3 bare PyTorch")}
    step, peak = rows["loop 8^3 DeepSpeed: step"], rows["loop 8^3 DeepSpeed: peak"]
    assert step.ratio_to["loop 8^3 bare PyTorch: step"] == pytest.approx(1.05)
    assert (step.better, rows["loop 8^3 DeepSpeed: wall"].better, peak.value) == ("lower", None, 2.0)
    assert next(row.better for row in train._rows("growth 8^3 MONAI", reference, reference, "growth 8^3 wavelet")) == "higher"


def test_a_failed_arm_has_a_row_that_says_so_and_no_number_to_compare() -> None:
    [row] = train._rows("growth 8^3 MONAI", Figures(failed="out of memory"), Figures(1.0, 1.0, 1.0, 1), "growth 8^3 wavelet")
    assert row.name == "growth 8^3 MONAI: out of memory" and not row.ratio_to
    assert "out of memory" in train.table([row])
    [*rows] = train._rows("growth 8^3 MONAI", Figures(1.0, 1.0, 1.0, 1), Figures(failed="out of memory"), "growth 8^3 wavelet")
    assert not any(row.ratio_to for row in rows)


def test_the_best_of_the_rounds_counts() -> None:
    slow, fast, dead = Figures(2.0), Figures(1.0), Figures(failed="out of memory")
    assert train._better(slow, fast) is fast and train._better(fast, slow) is fast
    assert train._better(dead, slow) is slow and train._better(None, dead) is dead
    assert math.isnan(train._better(slow, dead).cpu) is False
