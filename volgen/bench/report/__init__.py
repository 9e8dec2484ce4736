"""Cost of the slice report's metrics: against reading the file, and against a plain loop with scipy and scikit-image.

The table in docs/report.md comes from here: ``volgen bench report STORE --out FILE.json``, with a store of 256^3 scans. Times are CPU
seconds (other work on the machine hardly counts), the best of the repeats; all variants take turns in one run, on the same scan.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import PositiveInt

from volgen.bench.report import plain as plain_metrics
from volgen.commands.bench.result import Row, row
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Positional
from volgen.core.progress import progress
from volgen.data.store import Store
from volgen.evaluation.mask import head_mask
from volgen.evaluation.measure import default_checks, measure, robust_unit
from volgen.images import nifti


class Config(BaseConfig):
    """What is measured, and how often."""

    store: Annotated[Path, Positional("STORE")]
    """Finished store, best of 256^3 scans; its first scan is used."""
    repeats: PositiveInt = 3
    """Repeats of each measurement but the plain loop, which is slow and done once; the best counts."""


def run(config: Config) -> list[Row]:
    """CPU seconds per volume: reading it, one pass over it along each axis, volgen's metrics, and the plain loop.

    Raises:
        UserError: no such store, or a damaged one.
    """
    cohort = Store.open(config.store)
    volume = cohort.read(cohort.records[0])
    voxels, checks = np.asarray(volume.voxels, dtype=np.float32), default_checks()
    with tempfile.TemporaryDirectory() as scratch, progress("bench", config.repeats + 1) as ticker:
        packed, flat = Path(scratch) / "scan.nii.gz", Path(scratch) / "scan.nii"
        for path in (packed, flat):
            nifti.write(path, volume)
        work: dict[str, Callable[[], Any]] = {
            "read the file (.nii.gz)": lambda: nifti.read(packed),
            "read the file (.nii)": lambda: nifti.read(flat),
            "one pass along each axis (mean change, whole volume)": lambda: [_pass(voxels, axis) for axis in range(3)],
            "window and head mask": lambda: head_mask(robust_unit(voxels)),
            "all metrics": lambda: measure(voxels, volume.voxel_size, checks),
        }
        best = dict.fromkeys(work, float("inf"))
        for _ in range(config.repeats):
            for name, task in work.items():
                best[name] = min(best[name], _seconds(task))
            ticker.advance(note="volgen")
        plain = _seconds(lambda: plain_metrics.everything(robust_unit(voxels), volume.voxel_size))
        ticker.advance(note="plain loop")
    read, *others = (Row(name, seconds, "CPU s") for name, seconds in best.items())
    metrics = others[-1]
    return [
        Row("voxels", voxels.size, ""), read, *(row(one.name, one.value, one.unit, read) for one in others),
        row("plain loop with scipy and scikit-image", plain, "CPU s", read, metrics),
    ]  # fmt: skip


def _pass(voxels: Any, axis: int) -> float:
    return float(np.abs(np.diff(voxels, axis=axis)).mean(dtype=np.float64))


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
