"""The files of one report: volumes judged by bands that are there already."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from volgen.commands.report.beside import RealScans, write_beside
from volgen.commands.report.reference import mismatches, tell
from volgen.core import folder as folders
from volgen.core import manifest
from volgen.core.errors import UserError
from volgen.core.files import synced_together, write_json
from volgen.core.folder import Folder
from volgen.core.manifest import Provenance
from volgen.core.progress import Ticker, progress, say
from volgen.core.protocols import AXES
from volgen.core.seal import sealed
from volgen.data.sources import Source, same_voxels
from volgen.evaluation.cohort_sample import CohortSample
from volgen.evaluation.measure import Measures, measure, seen
from volgen.evaluation.reference import Reference
from volgen.evaluation.verdict import judge, number
from volgen.reporting import figures, page, previews, tables
from volgen.reporting.summary import summarise

FILES = {
    page.NAME, page.REPORT, page.BANDS, tables.VOLUMES, tables.SLICES, manifest.NAME,
    figures.BESIDE, figures.FOLDER, figures.OUTLINES, figures.WORST, previews.FOLDER, previews.MASKS,
}  # fmt: skip


def claim(out: Path, provenance: Provenance, known: Collection[str] = FILES) -> AbstractContextManager[Folder]:
    """Claims a folder that is empty, holds a report on the same inputs, or half of any report.

    Raises:
        UserError: it holds something else, or another process is writing to it.
    """

    def differs(before: Mapping[str, Any]) -> str:
        same = before.get("inputs") == provenance.inputs and before.get("config", {}).get("split") == provenance.config["split"]
        return "" if same else "holds a report on other volumes or another reference"

    return folders.claim(out, provenance, "the report", writes=lambda name: name in known, differs=differs)


def write_report(
    where: str, sources: Sequence[Source], bands: Reference, about: Mapping[str, Any], sample: CohortSample | None, folder: Folder,
    real: RealScans,
) -> dict[str, Any]:  # fmt: skip
    """Judges volumes and writes a report directory.

    Args:
        where: what the volumes are from, for messages.
        sources: the volumes.
        bands: the reference.
        about: ``reference`` of ``report.json``; warnings about these volumes are added.
        sample: takes the volumes in for the measures of the cohort; None if there is nothing to compare a cohort with.
        folder: the directory, claimed; gets its manifest last.
        real: scans to show beside the volumes.

    Returns:
        The content of ``report.json``.

    Raises:
        UserError: no volume can be read, or one has another voxel size.
    """
    folder.begin()
    with synced_together():
        content = _write_all(where, sources, bands, about, sample, folder.path, real)
    folder.finish(volumes=len(content["volumes"]))
    return content


def _write_all(
    where: str, sources: Sequence[Source], bands: Reference, about: Mapping[str, Any], sample: CohortSample | None, out: Path,
    real: RealScans,
) -> dict[str, Any]:  # fmt: skip
    """Everything but the manifest; returns the content of ``report.json``."""
    write_json(out / page.BANDS, sealed(bands.to_json()))
    volumes, unread = _judge_all(sources, bands, out, sample)
    if not volumes:
        raise UserError(where, "none of its volumes can be read; the first one " + unread[0]["reason"], "images")
    warnings = mismatches(volumes, bands)
    tell(warnings)
    cohort = sample.measure() if sample else None
    tables.write_volumes(out, volumes)
    labels = {metric.name: metric.label for _, metric in bands.metrics}
    summary = summarise(volumes, unread, labels, cohort)
    tell(summary["few"])
    content: dict[str, Any] = {
        "reference": {**about, "warnings": [*about["warnings"], *warnings]},
        "summary": summary,
        "beside": write_beside(out, volumes, {source.name: source.read for source in sources}, real),
        "volumes": volumes,
        "unread": unread,
        "metrics": bands.thresholds(),
        **({"cohort": cohort} if cohort else {}),
    }
    write_json(out / page.REPORT, content)
    _write_worst(sources, volumes, out)
    page.write_page(out)
    return content


def _judge_all(
    sources: Sequence[Source], bands: Reference, out: Path, sample: CohortSample | None
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Entries of the report, and files that could not be read; writes pictures and ``slices.csv`` on the way."""
    volumes: list[dict[str, Any]] = []
    unread: list[dict[str, str]] = []

    def rows(ticker: Ticker) -> Iterator[dict[str, Any]]:
        for source in sources:
            ticker.advance(note=source.name)
            try:
                volume = source.read()
            except UserError as error:
                unread.append({"name": source.file, "reason": error.found})
                say(f"{source.file}: {error.found}")
                continue
            same_voxels(source.file, volume.voxel_size, bands.voxel_size)
            measured = measure(volume.voxels, volume.voxel_size, bands.checks)
            entry = judge(source.name, measured, bands)
            volumes.append({
                **entry, "file": source.file, "shape": list(volume.shape), "worst": _worst(entry["findings"], measured, bands),
                "head": {"litres": number(measured.litres), "skull": number(measured.skull)},
            })  # fmt: skip
            for edge, (plane, inside) in enumerate(zip(measured.middle, measured.middle_mask, strict=True)):
                figures.write_plane(figures.file_of(out / figures.FOLDER, source.name, edge), plane, volume.voxel_size, edge)
                figures.write_outline(figures.file_of(out / figures.OUTLINES, source.name, edge), inside, volume.voxel_size, edge)
            if sample:
                sample.add_generated(volume.voxels)
            yield from _slice_rows(source.name, measured, volumes[-1]["findings"])

    with progress("report", len(sources)) as ticker:
        tables.write_slices(out, rows(ticker))
    return volumes, unread


def _worst(findings: Sequence[Mapping[str, Any]], measured: Measures, bands: Reference) -> dict[str, Any] | None:
    """The slice to look at first: the farthest out of the first finding that names slices, else the middle of the head along its axis."""
    if not findings:
        return None
    finding = next((one for one in findings if one["slices"]), findings[0])
    axis = AXES.index(finding["axis"])
    if finding["slices"]:
        place = _farthest(finding, axis, measured, bands)
    else:
        first, last = measured.extents[axis] or (0, len(measured.areas[axis]) - 1)
        place = (first + last) // 2
    return {"axis": finding["axis"], "slice": place, "placed": bool(finding["slices"]), "text": finding["text"]}


def _farthest(finding: Mapping[str, Any], axis: int, measured: Measures, bands: Reference) -> int:
    """The slice whose number lies farthest out, of those that a finding names."""
    first, last = finding["slices"]
    metric = next((metric for _, metric in bands.metrics if metric.name == finding["metric"]), None)
    if metric is None:  # voxels that are not numbers have no curve
        return int(first + last) // 2
    if metric.placed:
        curve, low = bands.standing_out(measured, metric.curve, axis), metric.placed == "low"
    else:
        curve, low = measured.results[finding["check"]].curves[metric.curve][axis], finding["value"] < finding["band"][0]
    named = np.nan_to_num(-curve if low else curve, nan=-np.inf)[first : last + 1]
    return int(first) + (int(named.argmax()) if named.size else 0)


def _write_worst(sources: Sequence[Source], volumes: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Previews and worst slices of the worst volumes; they are read again, because who is worst is known only now."""
    worst = {volume["name"]: volume["worst"] for volume in page.worst_first(volumes)[: previews.MOST]}
    for source in sources:
        if source.name not in worst:
            continue
        volume = source.read()
        unit, mask = seen(volume.voxels)
        previews.write_preview(out / previews.FOLDER / f"{source.name}.nii.gz", unit, volume.voxel_size)
        previews.write_mask(out / previews.MASKS / f"{source.name}.nii.gz", mask, volume.voxel_size)
        place = worst[source.name]
        if place:
            axis = AXES.index(place["axis"])
            beside = [z for z in range(place["slice"] - 1, place["slice"] + 2) if 0 <= z < unit.shape[axis]]
            for z in beside:
                path = figures.file_of(out / figures.WORST, source.name, axis, z)
                figures.write_plane(path, np.take(unit, z, axis=axis).T[::-1], volume.voxel_size, axis)


def _slice_rows(name: str, measured: Measures, findings: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    places = [(finding["axis"], *finding["slices"]) for finding in findings if finding["slices"]]
    for row in measured.slice_rows():
        at_fault = any(row["axis"] == axis and first <= row["slice"] <= last for axis, first, last in places)
        yield {"name": name, **row, "at_fault": int(at_fault)}
