"""Export: scans of a store -> NIfTI files, for other tools and for checking what a store holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from volgen.core.errors import UserError, nearest_word
from volgen.core.files import synced_together, write_json
from volgen.core.folder import claim
from volgen.core.manifest import NAME as MANIFEST
from volgen.core.manifest import Provenance
from volgen.core.progress import progress, say
from volgen.data import derivative
from volgen.data.derivative import write_description
from volgen.data.record import SubjectRecord
from volgen.data.store import Store
from volgen.images import nifti
from volgen.images.contrasts import UNSAID
from volgen.images.geometry import LARGEST_BRAIN_LITRES, litres
from volgen.images.volume import Volume

Orientation = Literal["source", "RAS"]
README = f"""# Scans exported from a volgen store

The images of this folder are scans of people, on the grid of a store that `volgen ingest` made. `{MANIFEST}` says which store; the
sidecar of each image has its id there.
"""
_NAME = re.compile(
    r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?(_task-[A-Za-z0-9]+)?(_acq-[A-Za-z0-9]+)?(_ce-[A-Za-z0-9]+)?(_rec-[A-Za-z0-9]+)?(_run-[0-9]+)?"
    r"(_echo-[0-9]+)?(_part-(mag|phase|real|imag))?(_chunk-[0-9]+)?(_desc-[A-Za-z0-9]+$)?(?=_|$)"
)
"""What BIDS has words for in the name of a derived anatomical image, in its order; ``space`` and ``res`` need sidecars of their own."""


def export(
    store: Path | str,
    out: Path,
    ids: Sequence[str] | None = None,
    orientation: Orientation = "source",
    dtype: Literal["float32", "int16"] = "float32",
) -> list[Path]:
    """Writes scans of a store as a BIDS derivative: ``sub-<label>/[ses-<label>/]anat/*_<contrast>.nii.gz``, each with a sidecar.

    The contrast is what ingest read in a scan's name; ``T1w`` where nobody said.

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
    options = {"ids": None if ids is None else list(ids), "orientation": orientation, "dtype": dtype}
    provenance = Provenance("export", options, {"store": cohort.fingerprint})
    names: list[str] = []
    # An export that fails leaves the folder as it was, so that the same command can be given again.
    with claim(
        out,
        provenance,
        "scans",
        writes=_writes,
        differs=lambda before: f"is not empty: it holds the output of volgen {before.get('stage')}",
    ) as folder:
        folder.begin()
        with synced_together(), progress("export", len(records)) as ticker:
            for record in records:
                volume = cohort.read(record)
                name = bids_path(record)
                turned = volume.reoriented(record.source_orientation if orientation == "source" else "RAS")
                nifti.write(out / f"{name}.nii.gz", turned, dtype=dtype)
                write_json(out / f"{name}.json", _sidecar(record, cohort, volume))
                names.append(f"{name}.nii.gz")
                ticker.advance(note=record.id)
            write_description(out, "Scans exported from a volgen store", README)
        folder.finish(volumes=names)
    say(f"{out}: {len(names)} scans")
    return [out / name for name in names]


def _writes(name: str) -> bool:
    """Whether an export has a file or a folder of this name."""
    return name in derivative.DESCRIPTION or name.startswith("sub-")


def bids_name(identity: str) -> str:
    """File name, without suffix, of the scan with an id.

    As much of the id as BIDS has words for stays (``sub-01_ses-1_run-2``); letters and digits of the rest are its ``desc``
    (``sub-01_space-MNI`` is no name without a sidecar about that space: ``sub-01_desc-spaceMNI``). An id that names no subject is a
    subject: ``sub-<its letters and digits>``.
    """
    known = _NAME.match(identity)
    if known is None:
        return "sub-" + _plain(identity.removeprefix("sub-"))
    rest = _plain(identity[known.end() :])
    return known.group() + (f"_desc-{rest}" if rest else "")


def bids_path(record: SubjectRecord) -> str:
    """Path of a scan, relative to the data set and without ending: ``sub-01/ses-1/anat/sub-01_ses-1_run-2_T1w``.

    Ids end in the contrast where a store has several: it is said once.
    """
    suffix = record.contrast or UNSAID
    name = f"{bids_name(record.id.removesuffix(f'_{record.contrast}') if record.contrast else record.id)}_{suffix}"
    folders = [part for part in name.split("_")[:2] if part.startswith(("sub-", "ses-"))]
    return "/".join([*folders, "anat", name])


def _plain(words: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", words)


def _chosen(cohort: Store, ids: Sequence[str] | None) -> list[SubjectRecord]:
    known = {record.id: record for record in cohort.records}
    names = list(known) if ids is None else list(ids)
    for name in names:
        if name not in known:
            raise UserError(str(cohort.path), f"has no scan '{name}'", "the id of one of its scans", nearest_word(name, known))
    labels = [bids_path(known[name]).rpartition("/")[2] for name in names]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(str(cohort.path), f"more than one scan would be written as {twice}", "ids that differ in letters and digits")
    return [known[name] for name in names]


def _sidecar(record: SubjectRecord, cohort: Store, volume: Volume) -> dict[str, object]:
    """No patient data: the id, what is needed to repeat the export, and whether it seems to be a brain without a skull."""
    x, y, z = record.voxel_size
    return {
        "Description": "Scan from a volgen store, in scanner units",
        "SkullStripped": litres(record.intensity.to_unit(volume.voxels), (x, y, z)) < LARGEST_BRAIN_LITRES,
        "StoreFingerprint": cohort.fingerprint,
        "ScanId": record.id,
        "IntensityQuantum": record.slope,
        "IntensityWindow": [record.intensity.low, record.intensity.high],
    }
