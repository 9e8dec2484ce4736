"""What a store knows of one scan."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from volgen.core.files import fingerprint
from volgen.core.limits import MAX_LEVELS, MAX_VOXELS
from volgen.core.protocols import Shape3
from volgen.data.quantise import CodeType
from volgen.images.box import BoxConfig
from volgen.images.contrasts import SUFFIXES
from volgen.images.intensity import IntensityMap
from volgen.images.volume import edges, shear

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
ALMOST, ROUNDING = 1.25, 1e-4
"""A scan teaches experts whose voxels are finer than its own by this factor at most; headers hold float32."""
COARSEST = MAX_LEVELS + 1
"""Finest level of a scan that can teach no expert at all."""
AXES = ("RL", "AP", "SI")
UNCOUNTED = {"foreground", "levels", "contrast"}
"""Keys of a record that change nothing of what is trained: functions of the voxels, which have a checksum, and what files are called."""
SHEAR = 1e-3
"""Cosine between axes above which no ingest wrote an affine; wider than ``nifti.SHEAR``, the limit for files."""


@dataclass(frozen=True)
class SubjectRecord:
    """One scan of a store.

    Attributes:
        id: name of the scan and of its group in the store.
        patient: whose scan it is.
        split: all scans of a patient share it.
        shape: voxels along the RAS+ axes.
        affine: 4 x 4, voxel -> mm, float64.
        intensity: window, scanner units -> [0, 1].
        slope: factor of the codes; ``value = slope * code + inter`` in scanner units.
        inter: value of code 0, in scanner units.
        dtype: NumPy's name for the type of the codes.
        source_orientation: axis codes of the file that was ingested, so that export can restore its order.
        source_shape: voxels along the file's own axes.
        checksum: SHA-256 of the codes (C order z, y, x; little-endian): independent of chunks and compression.
        foreground: box around the head; None in stores that are older than this.
        source_affine: 4 x 4, voxel -> mm of the scan's own frame, where it was brought into another one; None where ``affine`` says it.
        finest: finest level that the scan can teach; 0 unless its own voxels were coarser than the store's.
        levels: coarser arrays beside the voxels (:mod:`volgen.data.levels`); 0 in stores that are older than these.
        covariates: what is known of the person beside the scan, by name, as a table has it (:mod:`volgen.data.covariates`). It is no part
            of :meth:`to_dict`: a store keeps it beside its records, where a table may come later.
        contrast: what the scan shows, by its file's name, as a suffix of BIDS (:mod:`volgen.images.contrasts`); "" where nobody said.
    """

    id: str
    patient: str
    split: Split
    shape: Shape3
    affine: NDArray[np.float64]
    intensity: IntensityMap
    slope: float
    inter: float
    dtype: CodeType
    source_orientation: str
    source_shape: Shape3
    checksum: str
    foreground: BoxConfig | None = None
    source_affine: NDArray[np.float64] | None = None
    finest: int = 0
    levels: int = 0
    covariates: Mapping[str, str] = field(default_factory=dict)
    contrast: str = ""

    @property
    def about(self) -> dict[str, Any]:
        """What conditions may look at: :meth:`to_dict`, and :attr:`covariates` under that name."""
        return {**self.to_dict(), "covariates": dict(self.covariates)}

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel in mm along the RAS+ axes."""
        return edges(self.affine)

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping for JSON."""
        return {
            "id": self.id,
            "patient": self.patient,
            "split": self.split,
            "shape": list(self.shape),
            "voxel_size": list(self.voxel_size),
            "affine": self.affine.tolist(),
            "intensity": self.intensity.to_dict(),
            "codes": {"dtype": self.dtype, "slope": self.slope, "inter": self.inter},
            "source": {
                "orientation": self.source_orientation,
                "shape": list(self.source_shape),
                **({} if self.source_affine is None else {"affine": self.source_affine.tolist()}),
            },
            "checksum": self.checksum,
            **({} if self.foreground is None else {"foreground": self.foreground.model_dump(mode="json")}),
            **({"finest": self.finest} if self.finest else {}),
            **({"levels": self.levels} if self.levels else {}),
            **({"contrast": self.contrast} if self.contrast else {}),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SubjectRecord:
        """Inverse of :meth:`to_dict`.

        Raises:
            KeyError, TypeError, ValueError: the mapping has another form.
        """
        affine = np.array(content["affine"], dtype=np.float64)
        if affine.shape != (4, 4) or content["split"] not in SPLITS or content["codes"]["dtype"] not in get_args(CodeType):
            raise ValueError("affine, split or dtype has another form")
        intensity = IntensityMap(**{key: float(value) for key, value in content["intensity"].items()})
        numbers = (*affine.flat, intensity.low, intensity.high, float(content["codes"]["slope"]), float(content["codes"]["inter"]))
        if not np.isfinite(numbers).all():
            raise ValueError("a number is NaN or infinite")
        with np.errstate(over="ignore"):
            sizes = np.linalg.norm(affine[:3, :3], axis=0)
        if not (sizes.min() > 1e-6 and sizes.max() < 1e6 and (affine[3] == [0, 0, 0, 1]).all()):
            raise ValueError("an affine maps no voxel to millimetres")
        if shear(affine) > SHEAR:
            raise ValueError("an affine is sheared")
        own = content["source"].get("affine")
        source_affine = None if own is None else np.array(own, dtype=np.float64)
        if source_affine is not None and not (source_affine.shape == (4, 4) and abs(np.linalg.det(source_affine)) > 1e-18):  # NaN too
            raise ValueError("a matrix into a scan's own frame has another form")
        orientation = str(content["source"]["orientation"])
        if sorted(axis for code in orientation for axis, pair in enumerate(AXES) if code in pair) != [0, 1, 2] or len(orientation) != 3:
            raise ValueError(f"there is no orientation '{orientation[:9]}'")
        shape, foreground = _three(content["shape"]), content.get("foreground")
        box = None if foreground is None else BoxConfig.model_validate(foreground)
        if box is not None and not BoxConfig.whole(shape).holds(box):
            raise ValueError("a foreground is outside of its volume")
        finest, levels = (int(content.get(key, 0)) for key in ("finest", "levels"))
        if not (0 <= finest <= COARSEST and 0 <= levels <= MAX_LEVELS):
            raise ValueError(f"there is no level {finest}, or there are no {levels} levels")
        contrast = str(content.get("contrast", ""))
        if contrast and contrast not in SUFFIXES:
            raise ValueError(f"there is no contrast '{contrast[:20]}'")
        return cls(
            id=str(content["id"]),
            patient=str(content["patient"]),
            split=content["split"],
            shape=shape,
            affine=affine,
            intensity=intensity,
            slope=float(content["codes"]["slope"]),
            inter=float(content["codes"]["inter"]),
            dtype=content["codes"]["dtype"],
            source_orientation=orientation,
            source_shape=_three(content["source"]["shape"], most=math.inf),  # what was resampled may have been finer
            checksum=str(content["checksum"]),
            foreground=box,
            source_affine=source_affine,
            finest=finest,
            levels=levels,
            contrast=contrast,
        )


def finest_level(source_mm: Sequence[float], stored_mm: Sequence[float]) -> int:
    """The finest level whose voxels are not finer than a scan's own, but for a factor of :data:`ALMOST`, along any axis.

    Args:
        source_mm: edges of the scan's voxels.
        stored_mm: those of the store's, along the same axes.
    """
    ratio = max(own / stored for own, stored in zip(source_mm, stored_mm, strict=True))
    return next((level for level in range(COARSEST) if ratio <= ALMOST * 2**level * (1 + ROUNDING)), COARSEST)


def split_of(patient: str, validation: float, test: float) -> Split:
    """The split of a patient: a hash (BLAKE2b) of the id alone, so adding people moves nobody and all scans of one stay together."""
    digest = hashlib.blake2b(patient.encode(), digest_size=8, person=b"volgen split").digest()
    position = int.from_bytes(digest, "little") / 2**64
    return "test" if position < test else "validation" if position < test + validation else "train"


def by_patient(records: Iterable[SubjectRecord]) -> dict[str, list[SubjectRecord]]:
    """Scans by patient: patients in the order in which they first appear, and the scans of each in theirs."""
    found: dict[str, list[SubjectRecord]] = {}
    for record in records:
        found.setdefault(record.patient, []).append(record)
    return found


def checksum(codes_ZYX: NDArray[Any]) -> str:
    """SHA-256 of codes in C order, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(codes_ZYX, dtype=codes_ZYX.dtype.newbyteorder("<")).data).hexdigest()


def cohort_fingerprint(records: Sequence[SubjectRecord]) -> str:
    """One number for everything that training sees; :data:`UNCOUNTED` is left out, so stores from before it was noted agree."""
    return fingerprint([{key: value for key, value in record.to_dict().items() if key not in UNCOUNTED} for record in records])


def _three(values: Any, most: float = MAX_VOXELS) -> Shape3:
    x, y, z = (int(value) for value in values)
    if min(x, y, z) < 1 or x * y * z > most:
        raise ValueError(f"there is no grid of {x} x {y} x {z} voxels")
    return x, y, z
