"""From a scan's own grid to the cohort's: isotropic voxels, one shape, the affine exact throughout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt, field_validator
from scipy.sparse import csr_array

from volgen.core.config import Config, three
from volgen.core.errors import UserError
from volgen.core.limits import GRID, grid_fits
from volgen.data.ingest.lines import along, linear, sinc
from volgen.images.volume import Volume

SAME_SIZE = 1e-4
"""Voxel sizes closer than this (relative) are the same: headers hold float32. Such an image is not resampled; its own affine is kept."""
UNSPLIT = 0.25
"""Share by which a new voxel may exceed a whole number of old ones before it is split once more: what is beyond its grid folds back."""
Resampling = Literal["sharp", "linear"]


class GridConfig(Config):
    """The grid that scans are brought to."""

    shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = (256, 256, 256)
    """Voxels along the RAS+ axes; ``256`` means all three, ``native`` keeps each scan's own."""
    voxel_size: PositiveFloat | None = 1.0
    """Edge of the isotropic voxels in mm; ``native`` keeps each scan's own."""
    centre: Literal["foreground", "grid"] = "foreground"
    """What the middle of the new grid is: the centre of mass of the foreground (voxels above the mean; of a template the middle of the box
    around it), or the middle of the old grid."""
    resampling: Resampling | None = None
    """How a new voxel is made of old ones: ``sharp``, the mean over it of a windowed sinc (over whole voxels: their mean), or ``linear``
    after TorchIO's filter, as up to 0.2.0 (default: sharp, or what the store was begun with)"""

    @field_validator("shape", mode="before")
    @classmethod
    def _cube(cls, value: Any) -> Any:
        if value in ("native", ["native"]):
            return None
        return three(value)

    @field_validator("voxel_size", mode="before")
    @classmethod
    def _native(cls, value: Any) -> Any:
        return None if value == "native" else value


def check(volume: Volume, where: str) -> None:
    """Refuses voxels that cannot be learnt from.

    Raises:
        UserError: NaN or infinite voxels, or one value everywhere.
    """
    bad = int(volume.voxels.size - np.isfinite(volume.voxels).sum())
    if bad:
        raise UserError(where, f"holds {bad} NaN or infinite voxels", "finite voxels")
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    if low == high:
        raise UserError(where, "is empty: every voxel is 0" if low == 0 else f"is constant: every voxel is {low:g}", "an image")


def conform(volume: Volume, config: GridConfig) -> Volume:
    """Resamples to isotropic voxels along the image's own axes, then crops or pads to the shape; RAS+ in, RAS+ out.

    An oblique image stays oblique: direction cosines are kept, and only whole-voxel shifts follow the resampling, so the new affine is
    the old one with exact changes. Added voxels hold the image's minimum. Where nothing changes, voxels and affine come back as they were.

    Raises:
        UserError: the image is smaller than one new voxel, has one value everywhere on the new voxels, or would become too large.
    """
    resampled = _resample(volume, config)
    check_grid(config.shape or resampled.shape, "shape")
    if resampled is volume:
        return _place(volume, config)
    try:
        check(resampled, "voxel_size")  # before placing: without a foreground there is no centre
    except UserError as error:
        raise UserError("voxel_size", f"{error.found}, at {config.voxel_size} mm", "an image", "choose a smaller voxel size") from None
    return _place(resampled, config)


def check_grid(shape: Sequence[int], where: str) -> None:
    """Refuses a grid that no machine or header can hold.

    Raises:
        UserError: more than 1024^3 voxels, or an axis of more than 32767.
    """
    if not grid_fits(shape):
        grid = " x ".join(f"{n:.4g}" if n > 10**6 else str(n) for n in shape)
        raise UserError(where, f"would need a grid of {grid} voxels", GRID)


def kept(before: Volume, after: Volume) -> float:
    """Share of the foreground's volume that is still inside the grid after cropping: 1 where nothing of the head was cut."""
    foreground = before.voxels > before.voxels.mean()
    corner = np.linalg.solve(after.affine, before.affine)
    inside = np.ones(before.shape, dtype=bool)
    for axis in range(3):  # axes are parallel, so each can be tested alone
        centres = np.arange(before.shape[axis]) * corner[axis, axis] + corner[axis, 3]
        line = (centres >= -0.5) & (centres <= after.shape[axis] - 0.5)
        inside &= line.reshape([-1 if a == axis else 1 for a in range(3)])
    return float((foreground & inside).sum() / foreground.sum())


def _resample(volume: Volume, config: GridConfig) -> Volume:
    size = config.voxel_size
    sizes = np.asarray(volume.voxel_size)
    if size is None or bool((np.abs(sizes / size - 1.0) < SAME_SIZE).all()):
        return volume
    # As many whole voxels as fit inside the old field of view, about the same centre: nothing is extrapolated.
    shape = [int(n) for n in np.floor(np.asarray(volume.shape) * sizes / size + 1e-6)]
    if min(shape) < 1:
        extent = [round(float(n * s), 2) for n, s in zip(volume.shape, sizes, strict=True)]
        raise UserError("voxel_size", f"{size} mm is larger than the image ({extent} mm)", "a smaller voxel size")
    check_grid(shape, "voxel_size")
    return _linear(volume, size, shape) if config.resampling == "linear" else _sharp(volume, size, shape)


def _linear(volume: Volume, size: float, shape: Sequence[int]) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = volume.affine[:3, :3] / np.asarray(volume.voxel_size) * size
    middle = volume.affine[:3, :3] @ ((np.asarray(volume.shape) - 1) / 2) + volume.affine[:3, 3]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    # TorchIO's filter (Cardoso et al. 2015) is symmetric and keeps the mean; its recursive kernel has side lobes of 1e-3, hence the clip.
    image = tio.ScalarImage(tensor=_tensor(volume), affine=volume.affine)
    resampled = tio.Resample((tuple(shape), affine), antialias=True).apply_transform(tio.Subject(image=image))["image"].data[0].numpy()
    return Volume(np.clip(resampled, volume.voxels.min(), volume.voxels.max()), affine)


def splits(ratio: float) -> int:
    """Into how many parts a new voxel is cut along an axis on which it is ``ratio`` old ones long: its value is the mean of theirs."""
    return max(1, math.ceil(ratio - UNSPLIT))


def bounded(values: NDArray[np.float32], inside: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """What a kernel with side lobes made of an image whose values lie in [low, high].

    Args:
        values: on the new grid.
        inside: above 0 where linear interpolation finds anything but ``low``: ripples do not go out into air that was cut off.
        low: the image's lowest value.
        high: its highest.
    """
    found: NDArray[np.float32] = np.clip(values, low, high)
    found[inside <= 0] = low
    return found


def _sharp(volume: Volume, size: float, shape: Sequence[int]) -> Volume:
    """Means over new voxels of a windowed sinc; where a new voxel is a whole number of old ones, the mean of those."""
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    values, inside = volume.voxels, (volume.voxels > low).astype(np.float32)
    step, first = np.ones(3), np.zeros(3)
    for axis, (old, new) in enumerate(zip(volume.shape, shape, strict=True)):
        ratio = size / volume.voxel_size[axis]
        nearest = max(1, round(ratio))
        whole = abs(ratio / nearest - 1.0) < SAME_SIZE
        ratio = nearest if whole else ratio
        # Whole blocks begin where a voxel does, half a voxel off the middle if they must.
        before = (old - new * ratio) // 2 if whole else (old - new * ratio) / 2
        step[axis], first[axis] = ratio, before + (ratio - 1) / 2
        if (ratio, before, new) == (1, 0, old):
            continue
        parts = splits(ratio)
        places = before + (np.arange(new * parts) + 0.5) / parts * ratio - 0.5
        mean = csr_array((np.full(new * parts, 1 / parts), (np.arange(new * parts) // parts, np.arange(new * parts))))
        values = along(values, axis, mean @ sinc(places, old))
        inside = along(inside, axis, mean @ linear(places, old))
    affine = volume.affine.copy()
    affine[:3, 3] += volume.affine[:3, :3] @ first
    affine[:3, :3] *= step
    return Volume(bounded(values, inside, low, high), affine)


def _place(volume: Volume, config: GridConfig) -> Volume:
    if config.shape is None or (config.shape == volume.shape and config.centre == "grid"):
        return volume
    target = np.asarray(config.shape)
    if config.centre == "grid":
        start = (np.asarray(volume.shape) - target) // 2
    else:
        start = np.rint(_centre_of_mass(volume.voxels)).astype(int) - target // 2
    end = np.asarray(volume.shape) - start - target
    if not start.any() and not end.any():
        return volume
    image = tio.Subject(image=tio.ScalarImage(tensor=_tensor(volume), affine=volume.affine))
    crop = [max(0, int(n)) for pair in zip(start, end, strict=True) for n in pair]
    pad = [max(0, -int(n)) for pair in zip(start, end, strict=True) for n in pair]
    if any(pad):
        image = tio.Pad(_six(pad), padding_mode=float(volume.voxels.min())).apply_transform(image)
    if any(crop):
        image = tio.Crop(_six(crop)).apply_transform(image)
    affine = volume.affine.copy()
    affine[:3, 3] += volume.affine[:3, :3] @ start
    return Volume(np.ascontiguousarray(image["image"].data[0].numpy()), affine)


def _centre_of_mass(voxels: NDArray[Any]) -> NDArray[np.float64]:
    """Voxel coordinates of the foreground's centre of mass, from the three marginals."""
    foreground = voxels > voxels.mean()
    marginals = [foreground.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64) for axis in range(3)]
    return np.array([(line * np.arange(line.size)).sum() / line.sum() for line in marginals])


def _six(values: list[int]) -> tuple[int, int, int, int, int, int]:
    a, b, c, d, e, f = values
    return a, b, c, d, e, f


def _tensor(volume: Volume) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(volume.voxels, dtype=np.float32))[None]
