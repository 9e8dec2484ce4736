"""The heads that were measured: one that a file holds, or the scans of a store, measured here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass

from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.protocols import Operator, Shape3
from volgen.images import nifti
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap
from volgen.images.volume import Volume
from volgen.runs import instrument
from volgen.runs.observed import SAME_SIZE, Field, header_start, observe
from volgen.runs.simulated import NOISE, MeasuredHead, in_mm

Centre = Literal["foreground", "grid", "header"]


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
            "noise": self._noise, "centre": centre, "window": None if window is None else window.to_dict(),
            **instrument.told_of_operator(operator),
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


def _times(volume: Volume, geometry: Geometry, where: str) -> Shape3:
    """How many voxels of the run one of the image is long, along each axis."""
    ratios = np.asarray(volume.voxel_size) / np.asarray(geometry.voxel_size)
    times = np.maximum(np.rint(ratios), 1.0)
    if (np.abs(ratios / times - 1.0) > SAME_SIZE).any():
        found, do = f"has voxels of {in_mm(volume.voxel_size)} mm", "resample the image first, or take a run whose voxels fit"
        expected = f"those of the run, {in_mm(geometry.voxel_size)} mm, or a whole number of them, up to {SAME_SIZE:.0%}"
        raise UserError(where, found, expected, do)
    x, y, z = (int(n) for n in times)
    return x, y, z


def _window(volume: Volume, where: str) -> IntensityMap:
    known = volume.voxels[np.isfinite(volume.voxels)]
    try:
        return IntensityMap.robust(known)
    except (ValueError, IndexError):
        raise UserError(where, "is constant, or holds nothing but NaN", "an image", "or give --window LOW HIGH") from None
