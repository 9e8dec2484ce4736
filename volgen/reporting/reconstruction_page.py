"""``reconstruction.html``: mean, uncertainty and residual of every head, made from the other files of a directory and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from volgen.core.files import read_json, write_text
from volgen.core.protocols import Shape3
from volgen.reporting import page, previews
from volgen.reporting.figures import file_of, write_plane

NAME, RESULT = "reconstruction.html", "reconstruction.json"
FIGURES, PREVIEWS = "figures", "previews"
LARGEST_PART = 99.9
"""Percentile of a map of differences that is white."""
ORDER = ("mean", "sample", "truth", "std", "error", "residual", "p05", "p50", "p95")
PREVIEWED = ("mean", "sample", "truth", "std", "error", "residual")
"""Maps that the viewer of the page has; there is a file of each of the others."""


@dataclass(frozen=True)
class Shown:
    """A map to look at.

    Attributes:
        unit_XYZ: its values, in units of the intensity window.
        title: what it is called.
        text: what it is, in a sentence.
        scale: whether it has the grey of an image, of a difference above 0, or of one around 0.
    """

    unit_XYZ: NDArray[np.float32]
    title: str
    text: str
    scale: Literal["level", "above", "signed"]

    @property
    def white(self) -> float:
        """Value that is white."""
        if self.scale == "level":
            return 1.0
        return max(float(np.percentile(np.abs(self.unit_XYZ), LARGEST_PART)), 1e-6)

    @property
    def grey(self) -> NDArray[np.float32]:
        """Its values as grey, 0 to 1."""
        scaled = self.unit_XYZ / np.float32(self.white)
        grey: NDArray[np.float32] = np.clip(0.5 + 0.5 * scaled if self.scale == "signed" else scaled, 0.0, 1.0).astype(np.float32)
        return grey

    @property
    def legend(self) -> str:
        """What black and white are."""
        if self.scale == "level":
            return "black is air, white the brightest tissue"
        return f"black is {-self.white if self.scale == 'signed' else 0.0:.2g}, white {self.white:.2g} of the intensity window"


def write_pictures(directory: Path, name: str, maps: Mapping[str, Shown], voxel_size: tuple[float, float, float]) -> list[dict[str, Any]]:
    """Writes the pictures of a head's maps, and returns what ``reconstruction.json`` says of them, in the order of the page.

    Args:
        directory: directory of the reconstructions.
        name: what the head is called.
        maps: what there is to see.
        voxel_size: mm.
    """
    written = []
    for key in (key for key in ORDER if key in maps):
        shown = maps[key]
        grey = shown.grey
        picture = f"{name}.{key}"
        for axis in range(3):
            plane = np.take(grey, grey.shape[axis] // 2, axis=axis).T[::-1]
            write_plane(file_of(directory / FIGURES, picture, axis), plane, voxel_size, axis)
        if key in PREVIEWED:
            previews.write_preview(directory / PREVIEWS / f"{picture}.nii.gz", grey, voxel_size)
        written.append({"key": key, "picture": picture, "title": shown.title, "text": shown.text, "legend": shown.legend})
    return written


def write_page(directory: Path) -> Path:
    """Builds the page of a directory of reconstructions.

    Args:
        directory: holds ``reconstruction.json``, ``figures/`` and ``previews/``.

    Returns:
        The file.

    Raises:
        UserError: a file is missing or damaged.
    """
    result = read_json(directory / RESULT, "the result of volgen reconstruct")
    spent = 0
    heads = []
    for place, head in enumerate(result["heads"]):
        maps = []
        for shown in head["maps"]:
            path = directory / PREVIEWS / f"{shown['picture']}.nii.gz"
            preview = page.encoded(path) if spent < page.PREVIEW_BYTES else ""
            spent += len(preview)
            planes = page.planes(directory, shown["picture"], FIGURES)
            maps.append({**shown, "preview": preview, "planes": planes, "anchor": f"h{place}-{shown['key']}"})
        heads.append({**head, "maps": maps, "pit": _bars((head.get("calibration") or {}).get("pit"))})
    viewer = page.resource("vendor/niivue.umd.js") if spent else ""
    html = page.template("reconstruction.html.j2").render(
        result=result, heads=heads, viewer=viewer, pit=_bars((result["calibration"] or {}).get("pit")),
        style=page.resource("style.css"), side=page.resource("side.js"), script=page.resource("page.js"),
    )  # fmt: skip
    write_text(directory / NAME, html)
    return directory / NAME


def middle_of(shape: Shape3) -> str:
    """Where the viewer goes at first."""
    return " ".join(f"{share:.4f}" for share in previews.place_in_preview(shape, [None] * 3))


SIDE, HEIGHT = 220.0, 90.0


def _bars(shares: list[float] | None) -> list[dict[str, str]]:
    """The bars of a histogram in SVG coordinates; twice an even share is the whole height."""
    if not shares:
        return []
    width = SIDE / len(shares)
    heights = [min(HEIGHT, HEIGHT / 2 * share * len(shares)) for share in shares]
    return [
        {"x": f"{place * width:.1f}", "y": f"{HEIGHT - tall:.1f}", "width": f"{width - 1:.1f}", "height": f"{tall:.1f}"}
        for place, tall in enumerate(heights)
    ]
