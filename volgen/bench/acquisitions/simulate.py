"""Other acquisitions of the same person, simulated: another scanner, protocol, resampling or skull stripping. None is a fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volgen.evaluation.mask import head_mask

Brain = NDArray[np.float32]
STEP = 0.5  # voxels, sd of the blur that sharpening adds back
THICKNESS = 0.35  # voxels, sd: a profile a third wider for slices of a voxel
NOISE = 0.02  # of the range
FIELD = 0.3  # log: the brightness differs by a third from one end to the middle


def resampled(v: Brain, degrees: tuple[float, float, float] = (0, 0, 0), zoom: float = 1.0, shift: float = 0.0, order: int = 1) -> Brain:
    """Turned, scaled and moved about the middle, by linear (1) or cubic (3) interpolation, as registration does."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        one, two = (other for other in range(3) if other != axis)
        part = np.eye(3)
        part[[one, two], [one, two]] = np.cos(angle)
        part[one, two], part[two, one] = -np.sin(angle), np.sin(angle)
        turn = turn @ part
    matrix, middle = turn / zoom, (np.array(v.shape) - 1) / 2
    found: Brain = ndimage.affine_transform(v, matrix, middle - matrix @ middle + shift, order=order)
    return np.clip(found, 0, 1)


def sharper(v: Brain, size: float = STEP, axis: int | None = None) -> Brain:
    """Unsharp masking of the tissue, along all axes or one."""
    blurred = ndimage.gaussian_filter(v, size) if axis is None else ndimage.gaussian_filter1d(v, size, axis=axis)
    found: Brain = np.maximum(2 * v - blurred, 0) * (v > 0)
    return found


def thicker(v: Brain, axis: int) -> Brain:
    """Thicker slices along an axis."""
    found: Brain = ndimage.gaussian_filter1d(v, THICKNESS, axis=axis)
    return found


def noisier(v: Brain) -> Brain:
    """Noise in the tissue, of the magnitude kind."""
    noise = np.random.default_rng(0).normal(0, NOISE, v.shape).astype(np.float32)
    return np.where(v > 0, np.abs(v + noise), 0).astype(np.float32)


def shaded(v: Brain, axis: int) -> Brain:
    """A smooth field of a coil along an axis."""
    place = np.linspace(-1, 1, v.shape[axis], dtype=np.float32)
    field = np.exp(FIELD / 1.3 * (place + place**2 - 1 / 3)).astype(np.float32)
    found: Brain = v * field.reshape([-1 if other == axis else 1 for other in range(3)])
    return found


def stripped(v: Brain) -> Brain:
    """A skull stripping that takes one voxel more."""
    found: Brain = v * ndimage.binary_erosion(head_mask(v))
    return found


def contrasted(v: Brain, power: float) -> Brain:
    """Another contrast: grey values to a power."""
    found: Brain = np.power(v, np.float32(power))
    return found


def one_after_the_other(*steps: Callable[[Brain], Brain]) -> Callable[[Brain], Brain]:
    """One simulation after the other."""

    def composed(v: Brain) -> Brain:
        for step in steps:
            v = step(v)
        return v.astype(np.float32, copy=False)

    return composed


_then = one_after_the_other
ACQUISITIONS: Mapping[str, Callable[[Brain], Brain]] = {
    "turned, linear": partial(resampled, degrees=(4.0, -3.0, 3.0)),
    "half a voxel, linear; contrast": _then(partial(resampled, shift=0.5), partial(contrasted, power=0.8)),
    "sharper; contrast": _then(sharper, partial(contrasted, power=1.25)),
    "thicker R; shaded A": _then(partial(thicker, axis=0), partial(shaded, axis=1)),
    "thicker A; noise": _then(partial(thicker, axis=1), noisier),
    "thicker S; shaded S": _then(partial(thicker, axis=2), partial(shaded, axis=2)),
    **{f"thinner {name}": partial(sharper, size=THICKNESS, axis=axis) for axis, name in enumerate("RAS")},
    "sharper; noise; scaled, cubic": _then(sharper, noisier, partial(resampled, zoom=0.97, order=3)),
    "stripped closer; shaded R": _then(stripped, partial(shaded, axis=0)),
    "sharper; scaled, linear": _then(sharper, partial(resampled, zoom=0.95)),
    "blurred; turned, linear": _then(partial(ndimage.gaussian_filter, sigma=STEP), partial(resampled, degrees=(-3.0, 4.0, -2.0))),
}
