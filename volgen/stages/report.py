"""``volgen report``: volumes and real scans in, a verdict on every volume out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from volgen.checks._cohort_sample import CohortSample
from volgen.checks._measure import Measurement, default_checks, measure, to_unit
from volgen.checks._reference import FALSE_ALARM, FEW, Reference
from volgen.checks._verdict import judge, number
from volgen.core import manifest
from volgen.core.errors import UserError
from volgen.core.files import read_json, sha256, write_json
from volgen.core.manifest import Provenance
from volgen.core.progress import Ticker, progress, say
from volgen.core.volume import Volume
from volgen.data import nifti
from volgen.data.discover import discover
from volgen.data.record import SPLITS
from volgen.data.store import Store
from volgen.report import figures, page, previews, tables
from volgen.report.summary import summarise

VOXEL_TOLERANCE = 0.01


@dataclass(frozen=True)
class Outcome:
    """What a report found.

    Attributes:
        page: the HTML file.
        passed: number of volumes that pass.
        failed: number of volumes that do not pass: those that fail and those of another acquisition.
        unread: number of files that could not be read.
        strict: whether failures are the caller's failure too.
    """

    page: Path
    passed: int
    failed: int
    unread: int
    strict: bool

    @property
    def strict_failure(self) -> bool:
        """Whether ``--strict`` was asked for and a volume did not pass or a file could not be read."""
        return self.strict and self.failed + self.unread > 0


@dataclass(frozen=True)
class _Source:
    """One volume to judge: its name, where it is from, and how to read it."""

    name: str
    file: str
    fingerprint: Callable[[], str]
    read: Callable[[], Volume]


def report(samples: Path, reference: Path, out: Path, *, strict: bool = False, split: str = "all") -> Outcome:
    """Compares volumes with real ones, slice by slice along three axes, and writes a report directory.

    Args:
        samples: a NIfTI or MGH file, a folder of them, or a store.
        reference: a store of real scans, or the ``bands.json`` that an earlier report made from one.
        out: directory for ``report.html``, ``report.json``, ``volumes.csv``, ``slices.csv``, ``bands.json``, ``figures/`` and the manifest.
        strict: whether :attr:`Outcome.strict_failure` tells of failures.
        split: which people of a reference store the bands come from: ``all``, ``train``, ``validation`` or ``test``.

    Raises:
        UserError: nothing to judge, a voxel size that differs from the reference's, or a reference that cannot be used.
    """
    sources = _sources(samples)
    store = Store.open(reference) if reference.is_dir() else None
    identity = store.fingerprint if store else _sha256_of(reference)
    inputs = {"samples": {source.name: source.fingerprint() for source in sources}, "reference": identity}
    provenance = Provenance("report", {"samples": samples.name, "reference": reference.name, "split": split, "strict": strict}, inputs)
    _claim(out, provenance)

    sample = _cohort_sample(store) if store else None
    bands = _from_store(store, split, sample) if store else _from_bands(reference)
    write_json(out / page.BANDS, bands.to_json())
    volumes, unread = _judge_all(sources, bands, out, sample)
    if not volumes:
        raise UserError(str(samples), "none of its volumes can be read; the first one " + unread[0]["reason"], "images")

    cohort = sample.measure() if sample else None
    tables.write_volumes(out, volumes)
    labels = {metric.name: metric.label for _, metric in bands.metrics}
    summary = summarise(volumes, unread, labels, cohort)
    content = {
        "reference": _about(bands, reference, identity, split if store else None),
        "summary": summary,
        "volumes": volumes,
        "unread": unread,
        "metrics": bands.thresholds(),
        **({"cohort": cohort} if cohort else {}),
    }
    write_json(out / page.REPORT, content)
    _write_previews(sources, volumes, out)
    html = page.write_page(out)
    provenance.write(out, volumes=len(volumes))
    say(f"{summary['headline']}; see {html}")
    return Outcome(html, summary["passed"], summary["failed"] + summary["other"], len(unread), strict)


def _sha256_of(reference: Path) -> str:
    """Fingerprint of a bands file.

    Raises:
        UserError: there is no such file.
    """
    if not reference.is_file():
        raise UserError(str(reference), "there is no such store or file", "a store of real scans, or bands.json of an earlier report")
    return sha256(reference)


def _sources(samples: Path) -> list[_Source]:
    if samples.is_dir() and (samples / "zarr.json").exists():
        store = Store.open(samples)

        sources = [_Source(r.id, r.id, partial(str, r.checksum), partial(store.read, r)) for r in store.records]
    else:
        found = discover(samples)
        stems = [nifti.stem(item.path) for item in found]
        sources = [
            _Source(name if stems.count(name) == 1 else item.id, item.relative, partial(sha256, item.path), partial(nifti.read, item.path))
            for name, item in zip(stems, found, strict=True)
        ]
    if not sources:
        raise UserError(str(samples), "holds no volume", "at least one")
    return sources


def _claim(out: Path, provenance: Provenance) -> None:
    """Makes the directory, or checks that what it holds is a report on the same inputs, or one that was cut short."""
    if out.exists() and not out.is_dir():
        raise UserError(str(out), "is a file", "a folder for the report")
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.is_dir() else set()
    known = {page.NAME, page.REPORT, page.BANDS, tables.VOLUMES, tables.SLICES, figures.FOLDER, previews.FOLDER, manifest.NAME}
    if names - known:
        raise UserError(str(out), "holds other files", "an empty or new folder", "choose another --out")
    if manifest.NAME in names:
        before = read_json(out / manifest.NAME, "the manifest of a report")
        if before.get("inputs") != provenance.inputs or before.get("config", {}).get("split") != provenance.config["split"]:
            raise UserError(str(out), "holds a report on other volumes or another reference", "a new folder", "choose another --out")


def _from_store(store: Store, split: str, sample: CohortSample | None) -> Reference:
    if split != "all" and split not in SPLITS:
        raise UserError("--split", f"'{split}' is none", "all, " + ", ".join(SPLITS))
    chosen = {record.id for record in store.records if split in ("all", record.split)}
    records = [record for record in store.records if record.id in chosen or (sample and sample.wants(record.id))]
    if not chosen:
        raise UserError(str(store.path), f"holds nobody in split '{split}'", "people to compare with", "use --split all")
    first = next(record for record in records if record.id in chosen)
    checks, measured = default_checks(), []
    with progress("reference", len(records)) as ticker:
        for record in records:
            if record.id in chosen:
                _same_voxels(record.id, record.voxel_size, first.voxel_size)
            voxels = store.read(record).voxels
            if record.id in chosen:
                measured.append(measure(voxels, record.voxel_size, checks))
            if sample and sample.wants(record.id):
                sample.add_real(record.id, voxels)
            ticker.advance(note=record.id)
    return Reference.fit(measured, checks, first.voxel_size, first.shape)


def _from_bands(path: Path) -> Reference:
    return Reference.from_json(read_json(path, "a bands.json of a report"), str(path))


def _cohort_sample(store: Store) -> CohortSample:
    train, other = ([r.id for r in store.records if (r.split == "train") == side] for side in (True, False))
    return CohortSample(train, other, store.shape, store.records[0].voxel_size)


def _judge_all(
    sources: Sequence[_Source], bands: Reference, out: Path, sample: CohortSample | None
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
            _same_voxels(source.file, volume.voxel_size, bands.voxel_size)
            measured = measure(volume.voxels, volume.voxel_size, bands.checks)
            volumes.append({**judge(source.name, measured, bands), "file": source.file, "shape": list(volume.shape)})
            figures.write_slices(out / figures.FOLDER / f"{source.name}.png", measured.middle, volume.voxel_size)
            if sample:
                sample.add_generated(volume.voxels)
            yield from _slice_rows(source.name, measured, volumes[-1]["findings"])

    with progress("report", len(sources)) as ticker:
        tables.write_slices(out, rows(ticker))
    return volumes, unread


def _write_previews(sources: Sequence[_Source], volumes: Sequence[dict[str, Any]], out: Path) -> None:
    """Small copies of the worst volumes for the page; they are read again, because who is worst is known only now."""
    worst = {volume["name"] for volume in sorted(volumes, key=lambda v: (v["verdict"] == "pass", v["score"], v["name"]))[: previews.MOST]}
    for source in sources:
        if source.name in worst:
            volume = source.read()
            unit = to_unit(np.nan_to_num(volume.voxels, nan=0.0, posinf=0.0, neginf=0.0))
            previews.write_preview(out / previews.FOLDER / f"{source.name}.nii.gz", unit, volume.voxel_size)


def _slice_rows(name: str, measured: Measurement, findings: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    places = [(finding["axis"], *finding["slices"]) for finding in findings if finding["slices"]]
    for row in measured.slice_rows():
        at_fault = any(row["axis"] == axis and first <= row["slice"] <= last for axis, first, last in places)
        yield {"name": name, **row, "at_fault": int(at_fault)}


def _same_voxels(name: str, size: Sequence[float], expected: Sequence[float]) -> None:
    if not np.allclose(size, expected, rtol=VOXEL_TOLERANCE):
        found, wanted = (" x ".join(f"{edge:.3g}" for edge in edges) + " mm" for edges in (size, expected))
        do = "resample it (`volgen ingest --voxel-size`), or take a reference with its voxel size"
        raise UserError(name, f"its voxels are {found}", f"{wanted} as in the reference (change between slices grows with them)", do)


def _about(bands: Reference, path: Path, identity: str, split: str | None) -> dict[str, Any]:
    warnings = []
    if bands.subjects < FEW:
        warnings.append(
            f"The reference is small ({bands.subjects} volumes): its bands are wide, and faults may hide in them. {FEW} or more are better."
        )
    if bands.left_out:
        everyone = bands.subjects + bands.left_out
        warnings.append(
            f"{bands.left_out} of {everyone} reference volumes could not be measured (no head was found, or too little of one)."
        )
    for warning in warnings:
        say(f"warning: {warning}")
    return {
        "kind": "bands" if split is None else "store", "name": path.name, "fingerprint": identity,
        "subjects": bands.subjects, "left_out": bands.left_out, "split": split, "shape": list(bands.shape),
        "voxel_size": [number(size) for size in bands.voxel_size],
        "false_alarm": FALSE_ALARM, "warnings": warnings,
    }  # fmt: skip
