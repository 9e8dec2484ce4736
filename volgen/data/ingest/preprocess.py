"""From a scan's own grid to the cohort's: isotropic voxels, one shape, the affine exact throughout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from volgen.core.config import Config, three
from volgen.core.errors import UserError
from volgen.core.limits import GRID, grid_fits
from volgen.data.layout import Layout
from volgen.data.quantise import CodeType
from volgen.images.volume import Volume

SAME_SIZE = 1e-4
"""Voxel sizes closer than this (relative) are the same: headers hold float32. Such an image is not resampled; its own affine is kept."""


class IngestConfig(Config):
    """How scans become a cohort."""

    shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = (256, 256, 256)
    """Voxels along the RAS+ axes; ``256`` means all three, ``native`` keeps each scan's own."""
    voxel_size: PositiveFloat | None = 1.0
    """Edge of the isotropic voxels in mm; ``native`` keeps each scan's own."""
    centre: Literal["foreground", "grid"] = "foreground"
    """What the middle of the new grid is: the centre of mass of the foreground (voxels above the mean), or the middle of the old grid."""
    dtype: CodeType = "uint16"
    """Levels of the stored codes: uint8 halves the store, uint16 keeps scans of up to 65536 integer levels exactly."""
    layout: Layout = "slices"
    """What reading is to be quick for: ``slices`` in every orientation, blocks and volumes; or whole ``volumes`` alone, twice as quick."""
    suffix: str | None = Field(default=None, pattern=r"^[A-Za-z0-9]+$")
    """Last word of the names of images to take, such as T1w or t1n (default: T1w in a BIDS tree, one contrast of each visit elsewhere)"""
    glob: str | None = Field(default=None, min_length=1)
    """Pattern of the names of images to take, such as '*_T1.nii.gz'; with a slash in it, of their paths inside SOURCE."""
    space: str | None = Field(default=None, pattern=r"^[A-Za-z0-9]+$")
    """Space of images to take: the label of space-<label> in their names, or native for those without one (default: the most frequent)"""
    every: bool = False
    """Whether every image of a visit is taken instead of one, whatever tells them apart."""
    validation: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of people in the validation split."""
    test: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of people in the test split; the rest is for training."""

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

    @model_validator(mode="after")
    def _shares(self) -> IngestConfig:
        if self.validation + self.test >= 1.0:
            raise ValueError(f"validation ({self.validation}) and test ({self.test}) leave nobody to train on")
        return self


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


def conform(volume: Volume, config: IngestConfig) -> Volume:
    """Resamples to isotropic voxels along the image's own axes, then crops or pads to the shape; RAS+ in, RAS+ out.

    An oblique image stays oblique: direction cosines are kept, and only whole-voxel shifts follow the resampling, so the new affine is
    the old one with exact changes. Added voxels hold the image's minimum. Where nothing changes, voxels and affine come back as they were.

    Raises:
        UserError: the image is smaller than one new voxel, has one value everywhere on the new voxels, or would become too large.
    """
    resampled = _resample(volume, config.voxel_size)
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


def _resample(volume: Volume, size: float | None) -> Volume:
    sizes = np.asarray(volume.voxel_size)
    if size is None or bool((np.abs(sizes / size - 1.0) < SAME_SIZE).all()):
        return volume
    # As many whole voxels as fit inside the old field of view, about the same centre: nothing is extrapolated.
    shape = [int(n) for n in np.floor(np.asarray(volume.shape) * sizes / size + 1e-6)]
    if min(shape) < 1:
        extent = [round(float(n * s), 2) for n, s in zip(volume.shape, sizes, strict=True)]
        raise UserError("voxel_size", f"{size} mm is larger than the image ({extent} mm)", "a smaller voxel size")
    check_grid(shape, "voxel_size")
    affine = np.eye(4)
    affine[:3, :3] = volume.affine[:3, :3] / sizes * size
    middle = volume.affine[:3, :3] @ ((np.asarray(volume.shape) - 1) / 2) + volume.affine[:3, 3]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    # TorchIO's filter (Cardoso et al. 2015) is symmetric and keeps the mean; its recursive kernel has side lobes of 1e-3, hence the clip.
    image = tio.ScalarImage(tensor=_tensor(volume), affine=volume.affine)
    resampled = tio.Resample((tuple(shape), affine), antialias=True).apply_transform(tio.Subject(image=image))["image"].data[0].numpy()
    return Volume(np.clip(resampled, volume.voxels.min(), volume.voxels.max()), affine)


def _place(volume: Volume, config: IngestConfig) -> Volume:
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
