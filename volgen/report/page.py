"""``report.html``: one self-contained page, made from the other files of a report and nothing else."""

from __future__ import annotations

import base64
import csv
from collections import defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from volgen.core.check import AXES
from volgen.core.files import read_json, write_text
from volgen.report import previews
from volgen.report.charts import Chart
from volgen.report.figures import FOLDER
from volgen.report.tables import SLICES

NAME, REPORT, BANDS = "report.html", "report.json", "bands.json"
CURVES = {
    "adjacent_ssim": "Likeness of neighbouring slices (SSIM)",
    "adjacent_l1": "Difference of neighbouring slices (L1)",
    "slice_bias": "Brightness step between slices",
}
AXIS_NAMES = {"S": "S: bottom to top (axial slices)", "A": "A: back to front (coronal slices)", "R": "R: left to right (sagittal slices)"}
SHOWN_ORDER = ("S", "A", "R")


def write_page(directory: Path) -> Path:
    """Builds the page of a report directory.

    Args:
        directory: holds ``report.json``, ``bands.json``, ``slices.csv`` and ``figures/``.

    Returns:
        The file.

    Raises:
        UserError: a file of the report is missing or damaged.
    """
    report = read_json(directory / REPORT, "the findings of a report")
    bands = read_json(directory / BANDS, "the bands of a report")
    slices = _slices(directory / SLICES)
    # What failed comes first, the worst of it at the top; names decide between equals.
    order = sorted(report["volumes"], key=lambda v: (v["verdict"] == "pass", v["score"], v["name"]))
    volumes = [
        {
            **volume, "anchor": f"v{index}", "picture": _picture(directory / FOLDER / f"{volume['name']}.png"),
            "charts": _charts(volume, slices[volume["name"]], bands["curves"]), "preview": _preview(directory, volume["name"]),
            "findings": [{**finding, "place": _place(volume, finding)} for finding in volume["findings"]],
        }
        for index, volume in enumerate(order)
    ]  # fmt: skip
    environment = Environment(
        loader=PackageLoader("volgen.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["short"] = _short
    viewer = _resource("vendor/niivue.umd.js") if any(volume["preview"] for volume in volumes) else ""
    page = environment.get_template("page.html.j2").render(
        report=report, volumes=volumes, axes=SHOWN_ORDER, axis_names=AXIS_NAMES, viewer=viewer, script=_resource("page.js")
    )
    write_text(directory / NAME, page)
    return directory / NAME


def _slices(path: Path) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Rows of ``slices.csv`` by volume and axis."""
    rows: dict[str, dict[str, list[dict[str, str]]]] = defaultdict(lambda: {axis: [] for axis in AXES})
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            rows[row["name"]][row["axis"]].append(row)
    return rows


def _resource(name: str) -> str:
    """A script of this package, so that it can stand in a page: in HTML these words would begin a comment, a script, or end one."""
    text = files("volgen.report").joinpath(name).read_text(encoding="utf-8")
    return text.replace("<!--", "<\\!--").replace("<script", "<\\script").replace("</script", "<\\/script")


def _preview(directory: Path, name: str) -> str:
    """Base64 of a volume's preview; empty if it has none."""
    path = directory / previews.FOLDER / f"{name}.nii.gz"
    return base64.b64encode(path.read_bytes()).decode("ascii") if path.is_file() else ""


def _place(volume: dict[str, Any], finding: dict[str, Any]) -> str:
    """Where the viewer goes for a finding: shares of the three edges; the middle for one that names no slices."""
    slices: list[int | None] = [None] * 3
    if finding["slices"]:
        slices[AXES.index(finding["axis"])] = sum(finding["slices"]) // 2
    return " ".join(f"{share:.4f}" for share in previews.place(volume.get("shape", [1, 1, 1]), slices))


def _picture(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _charts(volume: dict[str, Any], rows: dict[str, list[dict[str, str]]], bands: dict[str, Any]) -> dict[str, dict[str, str]]:
    """SVG by curve title and axis."""
    charts: dict[str, dict[str, str]] = {}
    for curve, title in CURVES.items():
        if curve not in bands:
            continue
        charts[title] = {}
        for axis in SHOWN_ORDER:
            head = [int(row["slice"]) for row in rows[axis] if float(row["head_mm2"]) > 0]
            marked = [tuple(f["slices"]) for f in volume["findings"] if f["axis"] == axis and f["slices"] and f["check"] == curve]
            chart = Chart(
                f"{title}, {AXIS_NAMES[axis]}, {volume['name']}",
                [float(row[curve]) if row[curve] else None for row in rows[axis]],
                head[0] if head else 0, head[-1] if head else 0, bands[curve][axis], sorted(set(marked)),
            )  # fmt: skip
            charts[title][axis] = chart.svg()
    return charts


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
