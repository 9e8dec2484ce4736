"""The heads that were measured: one that a file holds, or the scans of a store, measured here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.protocols import Operator, Shape3
from volgen.core.rng import normal
from volgen.data.record import SubjectRecord
from volgen.data.store import Store
from volgen.images import nifti
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap
from volgen.images.volume import Volume
from volgen.runs.observed import SAME_SIZE, Field, Observation, header_start, observe

Centre = Literal["foreground", "grid", "header"]
NOISE = 0.02
"""Standard deviation of the noise where nobody says it, in units of the model range: a signal-to-noise ratio of 50 or so."""


@dataclass(frozen=True)
class MeasuredHead:
    """One head and what was measured of it.

    Attributes:
        seen: what was measured.
        truth: the scan, [X, Y, Z] in [0, 1], where it is known.
    """

    seen: Observation
    truth: NDArray[np.float32] | None = None


class Measurements(Protocol):
    """Whoever has measurements.

    Attributes:
        text: what it is, in words, without names.
        labels: what its heads are called.
        settings: what decides the measurements, for the manifest.
        inputs: fingerprints of what it reads.
        known: whether the truth is known.
    """

    text: str
    labels: tuple[str, ...]
    settings: dict[str, Any]
    inputs: dict[str, str]
    known: bool

    def read(self, label: str, geometry: Geometry, device: torch.device) -> MeasuredHead:
        """What was measured of one head.

        Raises:
            UserError: it cannot be read, or does not fit the run.
        """
        ...


class SimulatedScans:
    """Scans of a store, measured by an operator: the truth is known.

    Args:
        store: the store, in the run's frame.
        split: which scans.
        people: how many of them; all if None.
        operator: configuration of the operator.
        noise: standard deviation of the noise, in units of the model range.
        seed: seed of the noise.
    """

    known: bool = True

    def __init__(self, store: str, split: Any, people: int | None, operator: Any, noise: float | None, seed: int) -> None:
        self._store, self._operator, self._seed = Store.open(store), operator, seed
        self._noise = NOISE if noise is None else noise
        records = list(self._store.records) if split == "all" else self._store.split(split)
        if not records:
            raise UserError("--split", f"the store has no scan of '{split}'", "a split with scans")
        records = records[:people]
        self._records: dict[str, SubjectRecord] = {f"{number + 1:04d}": record for number, record in enumerate(records)}
        self.labels = tuple(self._records)
        self.text = f"simulated measurements of {len(records)} scans"
        self.settings = {
            "simulate": {"split": split}, "operator": operator.model_dump(mode="json"), "noise": self._noise, **files_of(operator)
        }  # fmt: skip
        self.inputs = {"store": self._store.fingerprint}

    def read(self, label: str, geometry: Geometry, device: torch.device) -> MeasuredHead:
        """One scan of the store; its noise is a function of the seed and of the scan."""
        record = self._records[label]
        if record.shape != geometry.shape or not np.allclose(record.voxel_size, geometry.voxel_size, rtol=SAME_SIZE):
            found = f"has scans of {list(record.shape)} voxels of {_edges(record.voxel_size)} mm"
            raise UserError("--simulate", found, f"the run's {list(geometry.shape)} of {_edges(geometry.voxel_size)} mm")
        unit = np.ascontiguousarray(self._store.read_unit(record))
        window = record.intensity
        operator = self._operator.build(geometry.shape, device)
        clean = operator.apply(torch.from_numpy(window.from_unit(unit))[None, None].to(device))
        noise = self._noise * (window.high - window.low) / 2
        data = clean + noise * _noise_like(clean, self._seed, "measurement", record.checksum)
        field = Field(geometry.shape, (0, 0, 0), record.affine, "run")
        return MeasuredHead(observe(operator, data, noise, window, field, geometry), unit)


class MeasuredImage:
    """A NIfTI image that an operator measured: of its own shape, such as an image with a hole, or of other voxels, such as thick slices.

    Args:
        path: the image.
        operator: configuration of the operator.
        noise: standard deviation of the noise, in units of the model range.
        window: intensities that are air and the brightest tissue; found in the image if None.
        centre: how it is placed.
    """

    known: bool = False
    labels: tuple[str, ...] = ("0001",)
    text = "an image"

    def __init__(self, path: Path, operator: Any, noise: float | None, window: IntensityMap | None, centre: Centre | None) -> None:
        self._path, self._operator, self._window, self._centre = path, operator, window, centre
        self._noise = NOISE if noise is None else noise
        if not path.is_file():
            raise UserError(str(path), "there is no such file", "an image")
        self.settings = {
            "operator": operator.model_dump(mode="json"), "noise": self._noise, "centre": centre,
            "window": None if window is None else window.to_dict(), **files_of(operator),
        }  # fmt: skip
        self.inputs = {"data": sha256(path, follow=True)}

    def read(self, label: str, geometry: Geometry, device: torch.device) -> MeasuredHead:
        """The image, on the grid of the run where its voxels are those of the run, or a whole number of them."""
        volume = nifti.read(self._path).reoriented("RAS")
        where = str(self._path)
        window = self._window or _window(volume, where)
        voxels = np.where(np.isfinite(volume.voxels), np.clip(volume.voxels, window.low, window.high), np.nan)
        times = _times(volume, geometry, where)
        field = placed_field(voxels, volume.affine, times, geometry, self._centre, where)
        operator: Operator = self._operator.build(field.shape, device)
        # Beyond its window no volume of the run has intensities; where nothing was measured, the image may hold anything.
        data = torch.from_numpy(voxels.astype(np.float32))[None, None].to(device)
        noise = self._noise * (window.high - window.low) / 2
        return MeasuredHead(observe(operator, data, noise, window, field, geometry))


def placed_field(
    voxels: NDArray[Any], affine: NDArray[np.float64], times: Shape3, geometry: Geometry, centre: Centre | None, where: str
) -> Field:
    """Where the field of an image lies whose voxels are some of the run's along each axis.

    Args:
        voxels: the image, [X, Y, Z]; NaN where nothing is known.
        affine: 4 x 4, its voxels -> RAS+ mm.
        times: voxels of the run in one of the image, along each axis.
        geometry: the run's.
        centre: what decides; the header where it fits exactly, else the foreground, if None.
        where: names the image, for messages.

    Raises:
        UserError: it cannot be placed.
    """
    x, y, z = (size * n for size, n in zip(voxels.shape, times, strict=True))
    fine = affine.copy()
    fine[:3, :3] = affine[:3, :3] / np.asarray(times)
    fine[:3, 3] -= fine[:3, :3] @ ((np.asarray(times) - 1) / 2)  # the middle of an image's first voxel is not that of its first part
    if centre is None:
        centre = "foreground" if header_start(fine, geometry) is None else "header"
    middle = np.full(3, np.nan)
    if centre == "grid":
        middle = (np.asarray((x, y, z)) - 1) / 2
    elif centre == "foreground":
        known = np.nan_to_num(voxels, nan=float(np.nanmin(voxels)))
        found = np.asarray(center_of_mass(known > known.mean()))
        middle = (found + 0.5) * np.asarray(times) - 0.5
    field = Field.of_data((x, y, z), fine, geometry, middle, where)
    return replace(field, placed=centre)


def files_of(operator: Any) -> dict[str, Any]:
    """SHA-256 of the files that an operator reads, by its keys; nothing if there are none."""
    files = {name: sha256(value, follow=True) for name, value in operator or () if isinstance(value, Path) and value.is_file()}
    return {"operator_files": files} if files else {}


def _times(volume: Volume, geometry: Geometry, where: str) -> Shape3:
    """How many voxels of the run one of the image is long, along each axis."""
    ratios = np.asarray(volume.voxel_size) / np.asarray(geometry.voxel_size)
    times = np.maximum(np.rint(ratios), 1.0)
    if (np.abs(ratios / times - 1.0) > SAME_SIZE).any():
        found, do = f"has voxels of {_edges(volume.voxel_size)} mm", "resample the image first, or take a run whose voxels fit"
        expected = f"those of the run, {_edges(geometry.voxel_size)} mm, or a whole number of them, up to {SAME_SIZE:.0%}"
        raise UserError(where, found, expected, do)
    x, y, z = (int(n) for n in times)
    return x, y, z


def _window(volume: Volume, where: str) -> IntensityMap:
    known = volume.voxels[np.isfinite(volume.voxels)]
    try:
        return IntensityMap.robust(known)
    except (ValueError, IndexError):
        raise UserError(where, "is constant, or holds nothing but NaN", "an image", "or give --window LOW HIGH") from None


def _noise_like(data: Tensor, seed: int, *key: int | str) -> Tensor:
    """Standard normal noise shaped like data, in both parts of a complex number."""
    if data.is_complex():
        return torch.view_as_complex(normal((*data.shape, 2), seed, *key)).to(data.device)
    return normal(data.shape, seed, *key).to(data.device)


def _edges(sizes: Any) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
