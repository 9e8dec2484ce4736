"""``compare.html``: generators side by side, made from the other files of a comparison and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from volgen.core.files import read_json, write_text
from volgen.reporting import counts, page
from volgen.reporting.charts import Chart
from volgen.reporting.tables import SLICES

NAME, COMPARE, FOLDER = "compare.html", "compare.json", "generators"
COLOURS = 8
FEWEST = 5
"""Volumes from which on resampling says which of two generators comes first (``volgen/evaluation/compare.py``)."""
STEPS = 41
CHIPS = {"passes": "pass", "other": "other", "undecided": "unsure", "partly condemned": "fail", "condemned": "fail"}


def write_page(directory: Path) -> Path:
    """Builds the page of a comparison.

    Args:
        directory: holds ``compare.json``, ``bands.json`` and a report of each generator in ``generators/``.

    Returns:
        The file.

    Raises:
        UserError: a file is missing or damaged.
    """
    content = read_json(directory / COMPARE, "the findings of a comparison")
    bands = read_json(directory / page.BANDS, "the bands of a report")
    generators = []
    for index, entry in enumerate(content["generators"]):
        folder, middle = directory / FOLDER / entry["name"], entry["median_volume"]
        generators.append({
            **entry, "colour": f"g{index % COLOURS}{' dashed' if index >= COLOURS else ''}", "chip": CHIPS[entry["verdict"]],
            "link": f"{FOLDER}/{quote(entry['name'])}/{page.NAME}",
            "planes": page.planes(folder, middle),
            "curves": _curves(folder / SLICES),
        })  # fmt: skip
    html = page.template("compare.html.j2").render(
        content=content, generators=generators, charts=_charts(generators, bands["curves"]), rows=_rows(content),
        axes=page.SHOWN_ORDER, axis_names=page.AXIS_NAMES, measures=counts.rows, fewest=FEWEST,
        style=page.resource("style.css"), sorting=page.resource("sort.js"), side=page.resource("side.js"),
        script=page.resource("outline.js"),
    )  # fmt: skip
    write_text(directory / NAME, html)
    return directory / NAME


def _curves(path: Path) -> dict[str, dict[str, list[float | None]]]:
    """Median over a generator's volumes of every shown curve at 41 places from the first to the last slice of the head, by axis."""
    lines: dict[tuple[str, str], list[Any]] = {}
    for axes in page.read_slices(path).values():
        for axis, rows in axes.items():
            head = [int(row["slice"]) for row in rows if float(row["head_mm2"]) > 0]
            for curve in page.CURVES:
                # A value compares a slice with the next one: it stands between them.
                known = [(int(row["slice"]) + 0.5, float(row[curve])) for row in rows if row.get(curve)]
                if len(known) > 1 and len(head) > 1:
                    places, values = zip(*known, strict=True)
                    at = np.linspace(head[0], head[-1], STEPS)
                    lines.setdefault((curve, axis), []).append(np.interp(at, places, values, left=np.nan, right=np.nan))
    found: dict[str, dict[str, list[float | None]]] = {}
    for (curve, axis), several in lines.items():
        table = np.array(several)
        enough = 2 * np.isfinite(table).sum(axis=0) >= len(table)
        found.setdefault(curve, {})[axis] = [
            float(np.nanmedian(column)) if good else None for column, good in zip(table.T, enough, strict=True)
        ]
    return found


def _charts(generators: Sequence[Mapping[str, Any]], bands: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """SVG by curve title and axis, with a line for each generator."""
    charts: dict[str, dict[str, str]] = {}
    for curve, title in page.CURVES.items():
        if curve in bands:
            charts[title] = {
                axis: Chart(
                    f"{title}, {page.AXIS_NAMES[axis]}, all generators", [], 0, 100, bands[curve][axis],
                    lines=[(g["colour"], g["curves"][curve][axis]) for g in generators if axis in g["curves"].get(curve, {})],
                ).svg()
                for axis in page.SHOWN_ORDER
            }  # fmt: skip
    return charts


def _rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per metric and axis, what sets the generators most apart from real volumes first."""
    rows = [
        {
            "label": metric["label"], "check": metric["check"], "axis": "all" if metric["whole"] else axis, "band": metric["bands"][axis],
            "cells": [entry["metrics"][name][axis] for entry in content["generators"]],
        }
        for name, metric in content["metrics"].items() for axis in (page.SHOWN_ORDER[:1] if metric["whole"] else page.SHOWN_ORDER)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -max(cell["distance"]["value"] for cell in row["cells"]))
