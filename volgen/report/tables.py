"""``volumes.csv`` and ``slices.csv``: the numbers of a report for other programs."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from volgen.core.files import atomic_path

VOLUMES, SLICES = "volumes.csv", "slices.csv"


def write_volumes(directory: Path, volumes: Sequence[Mapping[str, Any]]) -> None:
    """One row per volume: verdict, score, number of findings, and every metric along every axis (``tv_ratio_S``)."""
    rows = [
        {
            "name": volume["name"], "verdict": volume["verdict"], "score": volume["score"], "findings": len(volume["findings"]),
            **{f"{metric}_{axis}": value for metric, axes in volume["metrics"].items() for axis, value in axes.items()},
        }
        for volume in volumes
    ]  # fmt: skip
    _write(directory / VOLUMES, rows)


def write_slices(directory: Path, slices: Iterable[Mapping[str, Any]]) -> None:
    """One row per volume, axis and slice, as it comes: a report of 256^3 volumes has 768 of them for each."""
    _write(directory / SLICES, slices)


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(stream, list(row))
                writer.writeheader()
            writer.writerow({key: _cell(value) for key, value in row.items()})


def _cell(value: Any) -> Any:
    """Six significant digits; empty for what could not be measured."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
