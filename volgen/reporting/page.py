"""``report.html``: one self-contained page, made from the other files of a report and nothing else."""

from __future__ import annotations

import base64
import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from volgen.core.files import read_json, write_text
from volgen.core.protocols import AXES
from volgen.reporting import counts, previews
from volgen.reporting.charts import Chart
from volgen.reporting.figures import BESIDE, FOLDER, OUTLINES, WORST, file_of
from volgen.reporting.tables import SLICES, as_given

NAME, REPORT, BANDS = "report.html", "report.json", "bands.json"
PREVIEW_BYTES = 14_000_000
"""Bytes of base64 for the viewer in one page: 20 volumes as a rule; previews of grainy whole heads are larger."""
CURVES = {
    "adjacent_ssim": "Likeness of neighbouring slices (SSIM)",
    "adjacent_l1": "Difference of neighbouring slices (L1)",
    "slice_bias": "Brightness step between slices",
}
PLANES = {"S": "axial", "A": "coronal", "R": "sagittal"}
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
    slices = read_slices(directory / SLICES)
    volumes = [
        {
            **volume, "anchor": f"v{index}", "chip": chip(volume), "planes": planes(directory, volume["name"]),
            "charts": _charts(volume, slices[volume["name"]], bands["curves"]),
            "preview": encoded(directory / previews.FOLDER / f"{volume['name']}.nii.gz"),
            "mask": encoded(directory / previews.MASKS / f"{volume['name']}.nii.gz"),
            "findings": [{**finding, "place": _place(volume, finding["axis"], finding["slices"])} for finding in volume["findings"]],
            **_worst(directory, volume),
        }
        for index, volume in enumerate(worst_first(report["volumes"]))
    ]  # fmt: skip
    _within_budget(volumes)
    viewer = resource("vendor/niivue.umd.js") if any(volume["preview"] for volume in volumes) else ""
    html = template("page.html.j2").render(
        report=report, volumes=volumes, axes=SHOWN_ORDER, axis_names=AXIS_NAMES, planes=PLANES, viewer=viewer,
        beside=_beside(directory, report.get("beside"), volumes), rows=counts.rows,
        style=resource("style.css"), sorting=resource("sort.js"), side=resource("side.js"), script=resource("page.js"),
    )  # fmt: skip
    write_text(directory / NAME, html)
    return directory / NAME


def _within_budget(volumes: Sequence[dict[str, Any]]) -> None:
    """Takes previews away, from the best volume upwards, until what stays can be sent by mail and opens at once."""
    spent = 0
    for volume in volumes:
        spent += len(volume["preview"]) + len(volume["mask"])
        if spent > PREVIEW_BYTES:
            volume["preview"] = volume["mask"] = ""


def worst_first(volumes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What failed comes first, the worst of it at the top; names decide between equals."""
    return sorted(volumes, key=lambda v: (v["verdict"] == "pass", v["score"], v["name"]))


def template(name: str) -> Template:
    """A page of this package; what stands in it is escaped, and what it names has to exist."""
    environment = Environment(
        loader=PackageLoader("volgen.reporting", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["short"] = _short
    return environment.get_template(name)


def read_slices(path: Path) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Rows of ``slices.csv`` by volume and axis."""
    rows: dict[str, dict[str, list[dict[str, str]]]] = defaultdict(lambda: {axis: [] for axis in AXES})
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            rows[as_given(row["name"])][row["axis"]].append(row)
    return rows


def resource(name: str) -> str:
    """A script or style of this package, fit for a page: in HTML these words would begin a comment or a script, or end one."""
    text = files("volgen.reporting").joinpath(name).read_text(encoding="utf-8")
    return text.replace("<!--", "<\\!--").replace("<script", "<\\script").replace("</script", "<\\/script")


def picture(path: Path) -> dict[str, Any] | None:
    """A PNG as an address that holds it, with its width in pixels; None if there is none."""
    content = encoded(path)
    return {"source": f"data:image/png;base64,{content}", "width": _width(path)} if content else None


def planes(directory: Path, name: str, folder: str = FOLDER, place: int | None = None) -> list[dict[str, Any]]:
    """Axial, coronal and sagittal picture of a volume that are there, each with the outline of the head if there is one."""
    found = []
    for axis in (2, 1, 0):
        shown = picture(file_of(directory / folder, name, axis, place))
        if shown:
            outline = picture(file_of(directory / OUTLINES, name, axis)) if folder == FOLDER else None
            found.append({**shown, "plane": PLANES[AXES[axis]], "outline": outline["source"] if outline else ""})
    return found


def chip(volume: Mapping[str, Any]) -> str:
    """The verdict in a word or two: of ``other``, what is other."""
    if volume["verdict"] != "other":
        return str(volume["verdict"])
    finding = next((f for f in volume["findings"] if f["value"] is not None and None not in f["band"]), None)
    softer = finding is not None and (finding["value"] < finding["band"][0]) == (
        finding["metric"] not in ("adjacent_ssim_mean", "order_mean")
    )
    return "other: softer" if softer else "other: harsher"


def _beside(directory: Path, content: Mapping[str, Any] | None, volumes: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The pictures of the first screen: generated volumes and real ones at the same places in the head."""
    if not content:
        return None
    of = {volume["name"]: volume for volume in volumes}
    places = range(len(content["places"]))

    def rows(name: str) -> list[list[dict[str, Any]]]:
        return [planes(directory, name, BESIDE, place) for place in places]

    return {
        **content,
        "generated": [{"volume": of[name], "rows": rows(name)} for name in content["generated"]],
        "real": [{**one, "rows": rows(one["picture"])} for one in content["real"]],
    }


def _width(path: Path) -> int:
    """The width of a PNG in pixels, which stands in the first chunk."""
    with path.open("rb") as stream:
        return int.from_bytes(stream.read(20)[16:], "big")


def encoded(path: Path) -> str:
    """Base64 of a file; empty if there is none."""
    return base64.b64encode(path.read_bytes()).decode("ascii") if path.is_file() else ""


def _worst(directory: Path, volume: Mapping[str, Any]) -> dict[str, Any]:
    """The picture of the worst slice between its neighbours, which slices those are, and where the viewer goes."""
    worst = volume.get("worst")
    if not worst:
        return {"worst": None, "worst_slices": [], "worst_place": _place(volume, "S", None)}
    slices, count = worst["slice"], volume["shape"][AXES.index(worst["axis"])]
    return {
        "worst_slices": [
            {"slice": z, **shown}
            for z in range(slices - 1, slices + 2)
            if 0 <= z < count and (shown := picture(file_of(directory / WORST, volume["name"], AXES.index(worst["axis"]), z)))
        ],
        "worst_place": _place(volume, worst["axis"], [slices, slices]),
    }


def _place(volume: Mapping[str, Any], axis: str, slices: Sequence[int] | None) -> str:
    """Where the viewer goes: shares of the three edges; the middle if no slices are named."""
    planes: list[int | None] = [None] * 3
    if slices:
        planes[AXES.index(axis)] = sum(slices) // 2
    return " ".join(f"{share:.4f}" for share in previews.place_in_preview(volume.get("shape", [1, 1, 1]), planes))


def _charts(volume: Mapping[str, Any], rows: dict[str, list[dict[str, str]]], bands: dict[str, Any]) -> dict[str, dict[str, str]]:
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
