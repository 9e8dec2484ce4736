"""``volumes.csv`` and ``slices.csv``: the numbers of a report for other programs."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from volgen.core.files import atomic_path

VOLUMES, SLICES = "volumes.csv", "slices.csv"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""What spreadsheets take for the beginning of a formula, and the apostrophe that says that it is none."""


def write_volumes(directory: Path, volumes: Sequence[Mapping[str, Any]]) -> None:
    """One row per volume: verdict, score, number of findings, and every metric along every axis (``tv_ratio_S``)."""
    rows = [
        {
            "name": volume["name"], "verdict": volume["verdict"], "score": volume["score"], "findings": len(volume["findings"]),
            **{f"{metric}_{axis}": value for metric, axes in volume["metrics"].items() for axis, value in axes.items()},
        }
        for volume in volumes
    ]  # fmt: skip
    write_rows(directory / VOLUMES, rows)


def write_slices(directory: Path, slices: Iterable[Mapping[str, Any]]) -> None:
    """One row per volume, axis and slice, as it comes: a report of 256^3 volumes has 768 of them for each."""
    write_rows(directory / SLICES, slices)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A table of rows that all have the keys of the first one."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(stream, list(row))
                writer.writeheader()
            writer.writerow({key: _cell(value) for key, value in row.items()})


def harmless(text: str) -> str:
    """Text that no spreadsheet takes for a formula: with an apostrophe in front if it begins like one. :func:`as_given` takes it away."""
    return f"'{text}" if text.startswith(FORMULA) else text


def as_given(cell: str) -> str:
    """The text that :func:`harmless` was given."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def _cell(value: Any) -> Any:
    """Six significant digits; empty for what could not be measured; text that is no formula."""
    if isinstance(value, str):
        return harmless(value)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
