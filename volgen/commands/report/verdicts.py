"""The verdicts of a slice report without its files: for a loop that looks at its own volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from volgen.commands.report.reference import Against
from volgen.core.errors import UserError
from volgen.core.progress import progress
from volgen.core.protocols import AXES
from volgen.data.sources import same_voxels
from volgen.evaluation.measure import measure
from volgen.evaluation.reference import Reference
from volgen.evaluation.verdict import judge, number
from volgen.images.volume import Volume


def verdicts(samples: Mapping[str, Callable[[], Volume]], reference: Path | str, split: str) -> dict[str, Any]:
    """Judges volumes by the bands of real ones.

    Args:
        samples: reads each of them, by name.
        reference: a store of real people, or the ``bands.json`` of a report.
        split: people of a store to compare with.

    Returns:
        What :func:`volgen.verdicts` does.

    Raises:
        UserError: a volume or the reference cannot be read, voxels differ, or there is no volume.
    """
    if not samples:
        raise UserError("samples", "holds no volume", "at least one")
    bands, _, _ = Against.find(reference, split, samples.values()).load(pictures=False)
    entries = []
    with progress("report", len(samples)) as ticker:
        for name, read in samples.items():
            volume = read()
            same_voxels(name, volume.voxel_size, bands.voxel_size)
            entries.append(judge(name, measure(volume.voxels, volume.voxel_size, bands.checks), bands))
            ticker.advance(note=name)
    counts = {level: sum(entry["verdict"] == level for entry in entries) for level in ("pass", "other", "fail")}
    return {**counts, "metrics": _beside_real(entries, bands), "volumes": entries}


def _beside_real(entries: Sequence[Mapping[str, Any]], bands: Reference) -> dict[str, Any]:
    """Figures of each metric: in how many volumes it is a finding, its median per axis, and the percentiles of real volumes."""
    found: dict[str, Any] = {}
    for _, metric in bands.metrics:
        outside = sum(any(finding["metric"] == metric.name for finding in entry["findings"]) for entry in entries)
        axes = {}
        for index, axis in enumerate(AXES):
            known = [value for entry in entries if (value := entry["metrics"][metric.name][axis]) is not None]
            median = number(float(np.median(known))) if known else None
            axes[axis] = {"median": median, "real": [number(one) for one in bands.percentiles[metric.name][index]]}
        found[metric.name] = {"label": metric.label, "outside": outside, "axes": axes}
    return found
