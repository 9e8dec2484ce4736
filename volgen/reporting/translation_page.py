"""``translation.html``: a scan, what it was translated into and what changes, made from the other files of a directory and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from volgen.core.files import read_json, write_text
from volgen.reporting import page
from volgen.reporting.figures import file_of, write_plane
from volgen.reporting.reconstruction_page import Shown

NAME, RESULT = "translation.html", "translation.json"
FIGURES = "figures"


def write_maps(directory: Path, maps: Mapping[str, Shown], voxel_size: tuple[float, float, float]) -> list[dict[str, Any]]:
    """Writes middle slices of maps, and returns what ``translation.json`` says of them, in their order.

    Args:
        directory: directory of the translation.
        maps: what there is to see.
        voxel_size: mm.
    """
    written = []
    for key, shown in maps.items():
        grey = shown.grey
        for axis in range(3):
            plane = np.take(grey, grey.shape[axis] // 2, axis=axis).T[::-1]
            write_plane(file_of(directory / FIGURES, key, axis), plane, voxel_size, axis)
        written.append({"key": key, "title": shown.title, "text": shown.text, "legend": shown.legend})
    return written


def write_translation(directory: Path) -> Path:
    """Builds the page of a directory that holds ``translation.json`` and ``figures/``.

    Raises:
        UserError: a file is missing or damaged.
    """
    result = read_json(directory / RESULT, "the result of volgen translate")
    maps = [{**shown, "planes": page.planes(directory, shown["key"], FIGURES)} for shown in result["maps"]]
    html = page.template("translation.html.j2").render(
        result=result, maps=maps, style=page.resource("style.css"), side=page.resource("side.js")
    )
    write_text(directory / NAME, html)
    return directory / NAME
