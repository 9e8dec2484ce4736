"""Pictures for the first screen of a report: generated volumes beside real scans, at the same places in the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from volgen.evaluation.measure import seen
from volgen.evaluation.scan import HeadScan
from volgen.images.volume import Volume
from volgen.reporting import figures
from volgen.reporting.page import worst_first

PLACES = (0.35, 0.5, 0.65)
"""Shares of the way from the first to the last slice of the head: the same anatomy, whatever the size of the head and where it lies."""
MOST = 6
"""Generated volumes that are shown."""
REAL = ((0.5, "a scan with a head of median size"), (0.25, "a scan with a smaller head"), (0.75, "a scan with a larger head"))


@dataclass(frozen=True)
class RealScans:
    """Real scans that a report may show.

    Attributes:
        scans: what to call each of them, which is not who it is of, and how to read it.
        note: what the page says of them, or why there are none.
    """

    scans: list[tuple[str, Callable[[], Volume]]] = field(default_factory=list)
    note: str = ""


def of_store(name: str, litres: Sequence[float], read: Sequence[Callable[[], Volume]], wanted: bool) -> RealScans:
    """Scans of a store whose heads are of median, smaller and larger size.

    Args:
        name: what the store is called.
        litres: size of each head.
        read: reads each scan.
        wanted: whether real people may be shown.
    """
    if not wanted:
        return RealScans(note="Real scans are left out of this page, as was asked for (--no-real-pictures).")
    order = np.argsort(litres, kind="stable")
    chosen = {int(order[round(share * (len(order) - 1))]): text for share, text in reversed(REAL)}
    scans = [(text, read[index]) for index, text in reversed(chosen.items())]
    note = (
        f"This page shows slices of {len(scans)} real people of {name}. If scans of that cohort are private, so is this page: "
        "--no-real-pictures makes one without them."
    )
    return RealScans(scans, note)


def of_bands() -> RealScans:
    """None: bands hold no scans."""
    return RealScans(
        note="No real scan can be shown beside these: the reference is bands.json, which holds no scans. Give the store instead."
    )


def write_beside(
    out: Path, volumes: Sequence[Mapping[str, Any]], read: Mapping[str, Callable[[], Volume]], real: RealScans
) -> dict[str, Any]:
    """Writes the pictures.

    Args:
        out: the report directory.
        volumes: entries of the report.
        read: reads a volume by its name.
        real: scans to show beside them.

    Returns:
        ``beside`` of ``report.json``: places, names of the volumes from the worst to the best and which comes first (the one in the
        middle), the real scans' pictures and what they are called, and a note.
    """
    order = worst_first(volumes)
    chosen = [order[place]["name"] for place in np.unique(np.linspace(0, len(order) - 1, min(MOST, len(order))).round().astype(int))]
    for name in chosen:
        _write(out, name, read[name]())
    folder = out / figures.BESIDE
    shown = {f"real {number}": one for number, one in enumerate(real.scans, 1)}
    for old in folder.glob("real *.png"):  # of an earlier report that was allowed to show people
        if old.name.partition(".")[0] not in shown:
            old.unlink()
    for picture, (_, scan) in shown.items():
        _write(out, picture, scan())
    return {
        "places": list(PLACES), "middle": len(PLACES) // 2, "generated": chosen, "first": len(chosen) // 2,
        "real": [{"picture": picture, "text": text} for picture, (text, _) in shown.items()], "note": real.note,
    }  # fmt: skip


def _write(out: Path, name: str, volume: Volume) -> None:
    """Three planes of a volume at each place."""
    unit, mask = seen(volume.voxels)
    ends = HeadScan(unit, mask, volume.voxel_size).ends
    for axis in range(3):
        first, last = ends[axis] or (0, unit.shape[axis] - 1)
        for index, place in enumerate(PLACES):
            plane = np.take(unit, round(first + place * (last - first)), axis=axis).T[::-1]
            figures.write_plane(figures.file_of(out / figures.BESIDE, name, axis, index), plane, volume.voxel_size, axis)
