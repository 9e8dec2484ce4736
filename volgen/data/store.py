"""Reading a store: Zarr v3 through tensorstore, which decodes without the interpreter lock and checks every chunk.

Legend: X Y Z voxels in RAS+; on disk the axes are z, y, x.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.core.manifest import NAME
from volgen.core.protocols import Shape3
from volgen.core.seal import KEY, fits
from volgen.data import levels
from volgen.data.bucket import in_words
from volgen.data.convert import codes_to_unit, contiguous
from volgen.data.covariates import UNKNOWN, Covariates
from volgen.data.ingest.discover import safe
from volgen.data.people import WAYS
from volgen.data.place import EXPECTED, Place, place, states_of
from volgen.data.quantise import decode
from volgen.data.record import SPLITS, Split, SubjectRecord, checksum, cohort_fingerprint
from volgen.images.box import BoxConfig
from volgen.images.volume import Volume

VERSION = 1
MAKERS = ("ingest", "distil")
"""Commands that make stores: of scans, and of volumes that a run drew with the states through which they came."""
ELSEWHERE = (
    "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE", "UNAUTHENTICATED", "DEADLINE_EXCEEDED", "retry attempts failed",
    "Too many open files", "Permission denied",
)  # fmt: skip
"""Words of tensorstore's messages by which the fault is not the file's."""
CACHE_LINE = 64
"""Bytes that a processor reads at once."""
AGAIN = "delete the subject's folder and run the same ingest again: it replaces what is missing"


class Store:
    """A finished cohort. Safe to share between threads; processes that read begin by spawn or forkserver: tensorstore ends a forked one.

    Attributes:
        path: where the Zarr group is.
        records: every scan, in the order of the manifest.
        fingerprint: checksum of all records: voxels, geometry, windows and splits.
        settings: what ``volgen ingest`` was told, as its manifest has it; empty if unknown.
        people: how people were told apart: ``bids`` (names with ``sub-``), ``table``, ``folders``, or ``files``, where each file counts as
            a person.
        fitted: whether its scans are in a frame that was made of its own people: then what it holds of a patient depends on others.
        covariates: what is known of its people beside their scans; every record has what is known of its own.
    """

    def __init__(
        self, path: Path | str | Place, records: Sequence[SubjectRecord], settings: Mapping[str, Any] | None = None,
        people: str | None = None, *, fitted: bool = False, covariates: Covariates = UNKNOWN,
    ) -> None:  # fmt: skip
        self.path = place(path) if isinstance(path, Path | str) else path
        self.records = tuple(covariates.of(record) for record in records) if covariates.columns else tuple(records)
        self.covariates = covariates
        self.fingerprint = cohort_fingerprint(records)
        self.settings = dict(settings or {})
        self.people = people if people in WAYS else _told_apart(self.records)
        self.fitted = fitted
        self._arrays: OrderedDict[tuple[str, int | None, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Opens a store that ``volgen ingest`` finished: a folder, or an address: ``s3://bucket/store``, or another that fsspec knows.

        Raises:
            UserError: not a store, an unfinished one, or one whose manifest does not fit its fingerprint.
        """
        where = place(path)
        content = where.manifest()
        manifest = f"{where}/{NAME}"
        stage, version = content.get("stage"), content.get("store_version")
        if isinstance(stage, str) and stage not in MAKERS:
            do = "volumes of a run are drawn with `volgen sample`" if stage in ("train", "release") else ""
            raise UserError(str(where), f"is no store: volgen {stage} made it", EXPECTED, do)
        if stage not in MAKERS or version != VERSION:
            raise UserError(manifest, f"is of a store of version {version}", f"{EXPECTED} of version {VERSION}", "ingest again")
        try:
            records = [SubjectRecord.from_dict(item) for item in content["subjects"]]
            fingerprint = cohort_fingerprint(records)
            covariates = Covariates.from_dict(content)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            do = f"it was changed: delete {NAME} and run the same ingest again"
            raise UserError(manifest, f"its subjects have another form ({error!r})", EXPECTED, do) from None
        if any(safe(record.id) != record.id for record in records) or fingerprint != content.get("fingerprint"):
            raise UserError(manifest, "was changed: its subjects do not fit its fingerprint", EXPECTED, "ingest again")
        if not records:
            raise UserError(manifest, "lists no scan", EXPECTED, "ingest again")
        if len({record.id for record in records}) < len(records):
            raise UserError(manifest, "lists a scan twice", EXPECTED, "ingest again")
        if len({(record.patient, record.split) for record in records}) > len({record.patient for record in records}):
            raise UserError(manifest, "has a person in two splits", EXPECTED, "ingest again")
        if KEY in content and not fits(content):  # how people were told, or what ingest was told: private training relies on both
            raise UserError(manifest, "was changed: its seal does not fit its content", EXPECTED, "ingest again")
        settings = content.get("config")
        frame = content.get("frame")
        fitted = bool(frame.get("of_cohort", True)) if isinstance(frame, dict) else frame is not None
        told = settings if isinstance(settings, dict) else None
        return cls(where, records, told, content.get("people"), fitted=fitted, covariates=covariates)

    @property
    def shape(self) -> Shape3 | None:
        """The shape that all scans share, or None if they differ."""
        shapes = {record.shape for record in self.records}
        return shapes.pop() if len(shapes) == 1 else None

    def split(self, name: Split) -> list[SubjectRecord]:
        """Scans of one split, in the order of the manifest.

        Raises:
            UserError: there is no such split.
        """
        if name not in SPLITS:
            raise UserError("split", f"'{name}' is none", "one of " + ", ".join(SPLITS))
        return [record for record in self.records if record.split == name]

    def read_codes(self, record: SubjectRecord, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Codes [X, Y, Z] in stored order, which is Fortran's: the transpose of what is on disk, not turned.

        Args:
            record: the scan.
            out: read into this and return it; right shape and dtype, quickest from :meth:`buffer`.

        Raises:
            UserError: the shard is missing or damaged; names the scan.
        """
        if out is None:
            return self._new(record, self._array(record))
        if out.shape != record.shape or out.dtype != np.dtype(record.dtype):
            raise ValueError(f"buffer is {out.dtype}{list(out.shape)}, {record.id} is {record.dtype}{list(record.shape)}")
        if not out.flags.writeable:
            raise ValueError(f"the buffer for {record.id} is read-only")
        if not out.flags.aligned:  # tensorstore would fill a copy of it
            raise ValueError(f"the buffer for {record.id} does not begin at a multiple of {out.dtype.itemsize} bytes")
        self._fill(record, out)
        return out

    def buffer(self, record: SubjectRecord) -> NDArray[Any]:
        """An empty array that a scan's codes fit in, in stored order. Reusing it spares memory, and the page faults of a new one.

        It begins on a cache line: chunks are copied in rows of 64 bytes, which would otherwise touch two lines each.
        """
        dtype = np.dtype(record.dtype)
        room = np.empty(math.prod(record.shape) * dtype.itemsize + CACHE_LINE, dtype=np.uint8)
        first = -room.ctypes.data % CACHE_LINE
        return room[first : first + room.size - CACHE_LINE].view(dtype).reshape(record.shape, order="F")

    def read(self, record: SubjectRecord) -> Volume:
        """The scan in scanner units, float32."""
        return Volume(decode(contiguous(self.read_codes(record)), record.slope, record.inter), record.affine)

    def read_unit(self, record: SubjectRecord) -> NDArray[np.float32]:
        """The scan in [0, 1], float32 [X, Y, Z], through its robust window."""
        return codes_to_unit(self.read_codes(record), record)

    def read_slices(self, record: SubjectRecord, axis: int, start: int, stop: int) -> NDArray[np.float32]:
        """Slices ``start`` ... ``stop - 1`` along a RAS+ axis, float32 in [0, 1]; the other axes stay whole. Only their chunks are read.

        Raises:
            UserError: the shard is missing or damaged; names the scan.
        """
        if not (0 <= axis < 3 and 0 <= start < stop <= record.shape[axis]):
            raise ValueError(f"slices {start}:{stop} of axis {axis} are outside {list(record.shape)}")
        window = [slice(start, stop) if a == axis else slice(0, size) for a, size in enumerate(record.shape)]
        return codes_to_unit(self.read_window(record, window), record)

    def read_block(self, record: SubjectRecord, start: Shape3, shape: Shape3) -> NDArray[np.float32]:
        """The block of ``shape`` whose first voxel is ``start``, float32 in [0, 1]. Only its chunks are read.

        Raises:
            UserError: the shard is missing or damaged; names the scan.
        """
        window = [slice(first, first + size) for first, size in zip(start, shape, strict=True)]
        return codes_to_unit(self.read_window(record, window), record)

    def read_window(self, record: SubjectRecord, window: Sequence[slice]) -> NDArray[Any]:
        """Codes of a window, one slice with both ends for each RAS+ axis, in stored order as :meth:`read_codes`. Only its chunks are read.

        Raises:
            UserError: the shard is missing or damaged; names the scan.
        """
        if not all(0 <= part.start < part.stop <= size for part, size in zip(window, record.shape, strict=True)):
            raise ValueError(f"window {[(part.start, part.stop) for part in window]} is outside {list(record.shape)}")
        return self._new(record, self._array(record)[tuple(window[::-1])])

    def read_means(self, record: SubjectRecord, level: int, box: BoxConfig) -> NDArray[Any]:
        """Means of a level (:mod:`volgen.data.levels`) in a box of its voxels, in stored order. Only its chunks are read.

        Args:
            record: the scan.
            level: from 1 to the record's ``levels``.
            box: counted in voxels of the level.

        Raises:
            UserError: the shard is missing or damaged; names the scan.
        """
        if not (0 < level <= record.levels and BoxConfig.whole(levels.shape_of(record.shape, level)).holds(box)):
            raise ValueError(f"level {level} of {record.id} has no voxels {box.start} to {box.stop}")
        return self._new(record, self._array(record, level=level)[tuple(box.place[:0:-1])], level)

    def read_states(self, record: SubjectRecord, shape: Shape3, level: int = 0) -> NDArray[np.float16]:
        """The states of a trajectory that the store keeps beside a volume, [T, X, Y, Z], highest noise first.

        Args:
            record: the volume.
            shape: voxels of a state.
            level: on which they were on their way; states of whole volumes are of level 0.

        Raises:
            UserError: there are none, they have another shape, or are damaged.
        """
        try:
            array = self.path.array(record.id, None, states_of(level))
        except Exception:
            found, expected = "keeps no states of a trajectory beside it", "a store that volgen distil made"
            raise UserError(self._where(record), found, expected) from None
        try:
            states_TZYX = array.read().result()
        except Exception as error:  # tensorstore reports every kind of damage as ValueError or RuntimeError
            raise self._damaged(record, error) from None
        if states_TZYX.shape[:0:-1] != shape:
            raise UserError(self._where(record), f"has states of {list(states_TZYX.shape[:0:-1])} voxels", f"{list(shape)}")
        return np.ascontiguousarray(states_TZYX.transpose(0, 3, 2, 1), dtype=np.float16)

    def verify(self, record: SubjectRecord) -> None:
        """Compares the stored codes with the manifest's checksum, and the levels with the codes.

        Raises:
            UserError: they differ, or cannot be read.
        """
        codes_ZYX = self.read_codes(record).T
        if checksum(codes_ZYX) != record.checksum:
            raise UserError(self._where(record), "its voxels are not those that were ingested", "the manifest's checksum", AGAIN)
        for level, means_ZYX in enumerate(levels.means_of(codes_ZYX, record), start=1):
            box = BoxConfig.whole(levels.shape_of(record.shape, level))
            if not np.array_equal(self.read_means(record, level, box).T, means_ZYX):
                raise UserError(self._where(record), f"its level {level} is not made of its voxels", "their means", AGAIN)

    def _array(self, record: SubjectRecord, copier: int | None = None, level: int = 0) -> Any:
        key = record.id, copier, level
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = self._open(record, copier, level)  # outside the lock: it may be fetched from far away
        with self._lock:
            self._arrays[key] = array
            while self.path.most is not None and len(self._arrays) > self.path.most:
                self._arrays.popitem(last=False)
        return array

    def _open(self, record: SubjectRecord, copier: int | None, level: int) -> Any:
        try:
            array = self.path.array(record.id, copier, level)
        except UserError:
            raise
        except Exception as error:  # tensorstore reports every kind of damage as ValueError or RuntimeError
            raise self._damaged(record, error, level) from None
        dtype = levels.DTYPES[record.dtype] if level else np.dtype(record.dtype)
        if array.shape != levels.shape_of(record.shape, level)[::-1] or array.dtype.numpy_dtype != dtype:
            raise UserError(self._where(record), f"the array is {array.dtype.name}{list(array.shape)} (z, y, x)", "what the manifest says")
        return array

    def _new(self, record: SubjectRecord, source_ZYX: Any, level: int = 0) -> NDArray[Any]:
        # Is there room under a `ulimit -v`? numpy says no by MemoryError, tensorstore would end the process.
        np.empty(source_ZYX.shape, source_ZYX.dtype.numpy_dtype)
        try:  # quicker than into memory of numpy's
            codes_ZYX: NDArray[Any] = source_ZYX.read().result()
        except Exception as error:
            raise self._damaged(record, error, level) from None
        return codes_ZYX.T

    def _fill(self, record: SubjectRecord, out: NDArray[Any]) -> None:
        # Not the same first copier for every scan: several threads may read, and a small scan has one part.
        turn = sum(record.id.encode()) % max(1, self.path.copiers)
        copiers: Sequence[int | None] = [*range(turn, self.path.copiers), *range(turn)] or [None]
        first = self._array(record, copiers[0])
        parts = _parts(record.shape[2], first.chunk_layout.read_chunk.shape[0], len(copiers))
        arrays = [first, *(self._array(record, copier) for copier in copiers[1 : len(parts)])]
        copies = [ts.array(out.T[part]).write(array[part]) for array, part in zip(arrays, parts, strict=True)]
        try:  # to wait for all of them: nobody may write into the caller's memory after this
            errors = [copy.exception() for copy in copies]
        except BaseException:
            for copy in copies:
                copy.exception()
            raise
        for error in filter(None, errors):
            raise self._damaged(record, error) from None

    def _where(self, record: SubjectRecord) -> str:
        return f"subject {record.id} of {self.path}"

    def _damaged(self, record: SubjectRecord, error: Exception, level: int = 0) -> UserError:
        said = in_words(error)
        if any(code in str(error) for code in ELSEWHERE):  # nothing is known of the data, so nobody must be told to delete it
            found, do = f"its data cannot be read ({said})", "mend that, and run the same command again"
            return UserError(self._where(record), found, self.path.readable, do)
        if self.path.gone():
            do = "put it back where it was, or mount it again; the same command then goes on from where it was"
            return UserError(str(self.path), "is no longer there: it was renamed, moved or unmounted meanwhile", "the store", do)
        reason = "is missing" if self.path.lacks(record.id, level) else f"is damaged ({said})"
        return UserError(self._where(record), f"its {f'level {level}' if level else 'data'} {reason}", "an intact shard", AGAIN)


def _parts(length: int, chunk: int, most: int) -> list[slice]:
    """Cuts an axis into at most ``most`` parts, between chunks, so that none is decoded twice."""
    chunks = math.ceil(length / chunk)
    count = min(most, chunks)
    return [slice(chunks * k // count * chunk, min(length, chunks * (k + 1) // count * chunk)) for k in range(count)]


def _told_apart(records: Sequence[SubjectRecord]) -> str:
    """How people of a store of volgen 0.1.0, which does not say it, were told apart: by their ids, and files in doubt."""
    if all(record.patient.startswith("sub-") for record in records):
        return "bids"
    # Who is called sub- and has several scans tells nothing of the rest.
    scans = Counter(record.patient for record in records if not record.patient.startswith("sub-"))
    return "folders" if max(scans.values(), default=0) > 1 else "files"
