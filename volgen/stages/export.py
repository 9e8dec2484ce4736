"""Export: scans of a store -> NIfTI files, for other tools and for checking what a store holds."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import volgen
from volgen.core.errors import UserError, nearest
from volgen.core.files import write_json
from volgen.core.manifest import Provenance
from volgen.core.progress import progress, say
from volgen.data import nifti
from volgen.data.derivative import BIDS_VERSION
from volgen.data.record import SubjectRecord
from volgen.data.store import Store

Orientation = Literal["source", "RAS"]
PARTIAL = ".export-"
"""Begins the name of the folder in which an export is made."""


def export(
    store: Path,
    out: Path,
    ids: Sequence[str] | None = None,
    orientation: Orientation = "source",
    dtype: Literal["float32", "int16"] = "float32",
) -> list[Path]:
    """Writes scans of a store as ``sub-<label>_T1w.nii.gz``, each with a sidecar, in one folder with a data-set description.

    Voxels are in scanner units and on the store's grid; nothing is interpolated. A scan ingested on its own grid (``--shape native
    --voxel-size native``) comes back as it was: the same voxels within half a quantum, in the same order, with the same affine.

    Args:
        store: a finished store.
        out: a new or empty folder.
        ids: scans to export; all of them without it.
        orientation: ``source`` restores the axis order of the ingested file (such as LIA), ``RAS`` keeps the store's.
        dtype: how voxels are stored; int16 has a slope.

    Returns:
        The image files, in the order of ``ids``.

    Raises:
        UserError: no such store or scan, damaged data, or a folder that is not empty.
    """
    cohort = Store.open(store)
    records = _chosen(cohort, ids)
    if out.exists() and (not out.is_dir() or any(not path.name.startswith(PARTIAL) for path in out.iterdir())):
        raise UserError(str(out), "exists and is not empty", "a new folder")
    options = {"ids": None if ids is None else list(ids), "orientation": orientation, "dtype": dtype}
    provenance = Provenance("export", options, {"store": cohort.fingerprint})
    names: list[str] = []
    out.mkdir(parents=True, exist_ok=True)
    for killed in out.glob(f"{PARTIAL}*"):
        if killed.is_dir() and not killed.is_symlink():
            shutil.rmtree(killed)
    # An export that is interrupted leaves the folder as it was, so that the same command can be given again.
    with tempfile.TemporaryDirectory(dir=out, prefix=PARTIAL) as scratch, progress("export", len(records)) as ticker:
        for record in records:
            volume = cohort.read(record)
            image = Path(scratch) / f"{bids_name(record.id)}_T1w.nii.gz"
            nifti.write(image, volume.reoriented(record.source_orientation if orientation == "source" else "RAS"), dtype=dtype)
            write_json(image.with_name(f"{bids_name(record.id)}_T1w.json"), _sidecar(record, cohort))
            names.append(image.name)
            ticker.advance(note=record.id)
        for path in sorted(Path(scratch).iterdir()):
            os.replace(path, out / path.name)
    description = {
        "Name": "Scans exported from a volgen store",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "volgen", "Version": volgen.__version__}],
    }
    write_json(out / "dataset_description.json", description)
    provenance.write(out, volumes=names)
    say(f"{out}: {len(names)} scans")
    return [out / name for name in names]


def bids_name(identity: str) -> str:
    """A scan's id if it is a BIDS name already (``sub-01_ses-1``), else ``sub-<its letters and digits>``."""
    return (
        identity if re.fullmatch(r"sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9]+)*", identity) else "sub-" + re.sub(r"[^A-Za-z0-9]", "", identity)
    )


def _chosen(cohort: Store, ids: Sequence[str] | None) -> list[SubjectRecord]:
    known = {record.id: record for record in cohort.records}
    names = list(known) if ids is None else list(ids)
    for name in names:
        if name not in known:
            raise UserError(str(cohort.path), f"has no scan '{name}'", "the id of one of its scans", nearest(name, known))
    labels = [bids_name(name) for name in names]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(str(cohort.path), f"more than one scan would be written as {twice}", "ids that differ in letters and digits")
    return [known[name] for name in names]


def _sidecar(record: SubjectRecord, cohort: Store) -> dict[str, object]:
    """No patient data: the id, and what is needed to repeat the export."""
    return {
        "Description": "Scan from a volgen store, in scanner units",
        "StoreFingerprint": cohort.fingerprint,
        "ScanId": record.id,
        "IntensityQuantum": record.slope,
        "IntensityWindow": [record.intensity.low, record.intensity.high],
    }
