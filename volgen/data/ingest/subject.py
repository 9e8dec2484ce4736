"""One scan on its way into a store: read, check, conform, quantise, write, rename. Runs in worker processes."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from volgen.core.errors import UserError
from volgen.core.files import atomic_folder, open_plain, read_bytes, sha256
from volgen.core.progress import say
from volgen.data import field_of_view
from volgen.data.ingest.content import no_scan, without_padding
from volgen.data.ingest.discover import Found
from volgen.data.ingest.frame import open_frame
from volgen.data.ingest.grid import check
from volgen.data.ingest.names import is_label_word, parse
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.layout import ATTRIBUTE, FILES, SEAL, changed, write_group
from volgen.data.levels import LEVELS
from volgen.data.place import open_array
from volgen.data.quantise import encode
from volgen.data.record import SubjectRecord, checksum, finest_level, split_of
from volgen.images import nifti
from volgen.images.contrasts import suffix_of
from volgen.images.intensity import IntensityMap
from volgen.images.nifti import read_scan
from volgen.images.volume import Volume

ROOT = "zarr.json"
HEADER = "nifti/c/0"
PARTS = (ROOT, "0/zarr.json", "0/c/0/0/0", "nifti/zarr.json", HEADER)
"""Files of every group."""
COARSER = tuple(f"{level}/{part}" for level in range(1, LEVELS + 1) for part in ("zarr.json", "c/0/0/0"))
"""Files of a group that has levels."""
LARGEST_ATTRIBUTES = 2**24
"""Bytes of a group's metadata that make sense."""
BEGINNING = 64
"""Bytes that are looked at."""
_STORE_FAILS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""The disk's fault, not the scan's: leaving out every scan from here on would make a store that looks finished."""


@dataclass(frozen=True)
class SubjectOutcome:
    """What became of one scan: a record, or the reason why there is none.

    Attributes:
        found: the scan.
        record: None if the scan was left out.
        reason: why it was left out, else "".
        file: SHA-256 of the source file, "" if it cannot be opened.
        voxels: SHA-256 of the scan's voxels in RAS+, before resampling: equal for copies under another name, format or axis order.
        kept: share of the foreground that the new grid holds.
        resumed: whether the group was there already.
        notes: what is odd about the scan and was dealt with.
    """

    found: Found
    record: SubjectRecord | None = None
    reason: str = ""
    file: str = ""
    voxels: str = ""
    kept: float = 1.0
    resumed: bool = False
    notes: tuple[str, ...] = ()


def ingest_one(found: Found, store: Path, config: IngestConfig) -> SubjectOutcome:
    """Ingests one scan, or finds that this was done before.

    The group is written under a temporary name and renamed, so that a group with its final name is always whole.

    Whatever goes wrong with a scan is that scan's outcome: one odd file must not end the ingest of the others.

    Raises:
        UserError: the store has this scan's id from a file with other content, or cannot be written to.
    """
    try:
        file = sha256(found.path, follow=True)
    except OSError as error:
        if found.path.is_symlink() and not found.path.exists():
            return SubjectOutcome(found, reason="is a link to a file that is not there (a DataLad data set needs `datalad get` first)")
        return SubjectOutcome(found, reason=f"cannot be opened ({error.strerror or error})")
    if torn(store / found.id, file):
        say(f"subject {found.id} was left half-written when the machine stopped; it is made again.")
        shutil.rmtree(store / found.id)
    before = finished(store / found.id)
    if before is not None:
        if before["file"] != file:
            what = f"its group was made from another file than {found.relative}"
            raise UserError(f"subject {found.id} of {store}", what, "the same file", "ingest into a new store")
        record = before["record"]
        split = split_of(found.patient, config.validation, config.test)
        if (record.patient, record.split) != (found.patient, split):
            what = f"was of {record.patient} ({record.split}), and is of {found.patient} ({split}) now"
            raise UserError(f"subject {found.id} of {store}", what, "the same people", "ingest into a new store")
        return SubjectOutcome(found, record, "", file, before["voxels"], before["kept"], True, before["notes"])
    try:
        return _fresh(found, store, config, file)
    except UserError as error:
        reason = error.found
    except Exception as error:  # the libraries raise anything on foreign data
        if isinstance(error, OSError) and (error.errno in _STORE_FAILS or str(error.filename).startswith(str(store))):
            do = "mend that and run again: it will resume"
            raise UserError(str(store), f"cannot be written to ({error.strerror})", "room and permission to write", do) from None
        text = " ".join(str(error).split())[:200]
        reason = f"cannot be ingested ({type(error).__name__}{': ' if text else ''}{text})"
    return SubjectOutcome(found, reason=reason, file=file)


def torn(group: Path, file: str) -> bool:
    """Whether a group is one that was made from a file and lost a part of it when the machine stopped, as file systems lose it.

    Args:
        group: the group of a scan.
        file: SHA-256 of the scan's file.

    Returns:
        Whether it holds nothing but what a group holds, and some of that is missing, empty or zeros.
    """
    if not group.is_dir() or not {path.name for path in group.iterdir()} <= {Path(part).parts[0] for part in (*PARTS, *COARSER)}:
        return False
    if torn_file(group / ROOT):
        return True
    try:
        content = json.loads(read_bytes(group / ROOT, limit=LARGEST_ATTRIBUTES))["attributes"][ATTRIBUTE]
        parts = (*PARTS, *(part for part in COARSER if part in content.get(FILES, ())))
        return bool(content["file"] == file) and any(torn_file(group / part) for part in parts)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def torn_file(path: Path) -> bool:
    """Whether a file is missing, empty or begins with zeros, as none of a store does."""
    try:
        with open_plain(path) as stream:
            return stream.read(BEGINNING).strip(b"\0") == b""
    except FileNotFoundError:
        return True
    except OSError:
        return False


def finished(group: Path) -> dict[str, Any] | None:
    """What a finished group says of itself (``record`` as a :class:`SubjectRecord`), or None if there is no such group.

    Raises:
        UserError: the group was changed by another hand, or is damaged.
    """
    why = ""
    try:
        attributes: dict[str, Any] = json.loads(read_bytes(group / ROOT, limit=LARGEST_ATTRIBUTES))["attributes"]
        content = attributes[ATTRIBUTE]
        record = SubjectRecord.from_dict(content["record"])
        if record.id != group.name:
            raise ValueError("the group was renamed")
        why = changed(group, attributes) if SEAL in content else _unlike(group, record)
        if not why:
            notes = tuple(str(note) for note in content.get("notes", ()))
            about = {"file": str(content["file"]), "voxels": str(content["voxels"]), "kept": float(content["kept"])}
            return {"record": record, **about, "notes": notes}
    except FileNotFoundError:
        if not group.exists():
            return None
    except (AttributeError, OSError, ValueError, KeyError, TypeError, OverflowError):
        pass
    do = "delete this folder and run the same ingest again: it replaces what is missing"
    what = "is not a whole group of this store, or was changed" + (f": {why}" if why else "")
    raise UserError(str(group), what, "a group that `volgen ingest` wrote", do)


def _unlike(group: Path, record: SubjectRecord) -> str:
    """How the files of a group of 0.1.0, which has no checksums of files, do not fit its record, in words; empty if they do."""
    try:
        codes_ZYX = open_array(group).read().result()
    except Exception:  # tensorstore reports every kind of damage as ValueError or RuntimeError
        return "its voxels are damaged or missing"
    if codes_ZYX.shape != record.shape[::-1] or checksum(codes_ZYX) != record.checksum:
        return "its voxels are not those that were ingested"
    header = nifti.header(record.shape, record.affine, codes_ZYX.dtype, record.slope, record.inter)
    return "" if read_bytes(group / HEADER, limit=LARGEST_ATTRIBUTES) == header else "its affine or scaling is not that of its NIfTI header"


def prepare_worker(environment: Mapping[str, str]) -> None:
    """Set-up of a worker process: the parent's environment, one thread each, ctrl-C left to the parent, and no survival of the parent.

    Args:
        environment: the parent's environment as it is now; the server that workers are forked from has that of when it began.
    """
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # read by ITK at its first filter
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _fresh(found: Found, store: Path, config: IngestConfig, file: str) -> SubjectOutcome:
    scan = read_scan(found.path)
    check(scan.volume, found.relative)
    if not is_label_word(config.suffix or "") and (why := no_scan(scan.volume.voxels, scan.intent)) is not None:
        raise UserError(found.relative, why, "an MRI volume")
    voxels = _voxel_hash(scan.volume)
    whole, note = without_padding(scan.volume)
    notes = scan.notes if note is None else (*scan.notes, note)
    corrected = config.bias.corrected(whole)
    taken = open_frame(store, config).take(corrected)
    volume = taken.volume
    check(volume, found.relative)
    try:
        intensity: IntensityMap = config.window.of(corrected, volume)
    except ValueError as error:
        raise UserError(found.relative, f"has no usable intensity window ({error})") from None
    codes = encode(volume.voxels, config.dtype, scan.quantum)
    codes_ZYX = np.ascontiguousarray(codes.codes.T)
    record = SubjectRecord(
        id=found.id,
        patient=found.patient,
        split=split_of(found.patient, config.validation, config.test),
        shape=volume.shape,
        affine=volume.affine,
        intensity=intensity,
        slope=codes.slope,
        inter=codes.inter,
        dtype=config.dtype,
        source_orientation=scan.orientation,
        source_shape=scan.shape,
        checksum=checksum(codes_ZYX),
        foreground=field_of_view.of_codes(codes.codes, codes.slope, codes.inter, intensity),
        source_affine=taken.source,
        finest=finest_level(whole.voxel_size, volume.voxel_size),
        levels=LEVELS,
        contrast=suffix_of(parse(Path(found.relative).name).contrast),
    )
    share = round(taken.kept, 6)
    with atomic_folder(store / found.id) as temporary:
        write_group(temporary, record, codes_ZYX, {"file": file, "voxels": voxels, "kept": share, "notes": list(notes)}, config.layout)
    return SubjectOutcome(found, record, file=file, voxels=voxels, kept=share, notes=notes)


def _voxel_hash(volume: Volume) -> str:
    digest = hashlib.sha256(repr(volume.shape).encode())
    digest.update(np.ascontiguousarray(volume.voxels).data)
    return digest.hexdigest()
