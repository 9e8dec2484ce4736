"""All checks on one volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from volgen.core.config import validate
from volgen.core.protocols import AXES
from volgen.core.registry import config_class, kinds
from volgen.evaluation.check import Check, CheckResult, Triple
from volgen.evaluation.mask import head_mask
from volgen.evaluation.scan import HeadScan
from volgen.evaluation.slices import extent
from volgen.evaluation.stripping import skull_sign
from volgen.images.intensity import IntensityMap

PACKAGE = "volgen.evaluation.volumes"
V = TypeVar("V", bound=np.generic)


def default_checks() -> list[Check]:
    """Every check of the folder with its default parameters."""
    return checks_of([{"kind": kind} for kind in kinds(PACKAGE)], PACKAGE)


def checks_of(configs: Sequence[dict[str, Any]], where: str) -> list[Check]:
    """Checks from their configurations.

    Raises:
        UserError: a parameter is wrong.
        ModuleNotFoundError: there is no such check.
    """
    found: list[Any] = [validate(config_class(PACKAGE, str(config.get("kind"))), config, where) for config in configs]
    return found


@dataclass(frozen=True)
class Measures:
    """What all checks say of one volume.

    Attributes:
        results: what each kind of check measured.
        extents: first and last slice with head, per axis; None without any head.
        not_finite: first and last axial slice that hold NaN or infinity, if any do.
        not_finite_share: share of such voxels.
        areas: head in mm^2 per slice and axis.
        means: mean of the unit volume inside the head per slice and axis; NaN outside.
        middle: the middle slices of the head, one image [rows, columns] in [0, 1] per axis, as a viewer shows them: upright, and the
            person's left on the left.
        middle_mask: the head on the same slices.
        litres: volume of the head.
        skull: sign of a skull, see :func:`volgen.evaluation.stripping.skull_sign`.
    """

    results: dict[str, CheckResult]
    extents: tuple[tuple[int, int] | None, ...]
    not_finite: tuple[int, int] | None
    not_finite_share: float
    areas: tuple[NDArray[np.float64], ...]
    means: tuple[NDArray[np.float64], ...]
    middle: tuple[NDArray[np.float32], ...]
    middle_mask: tuple[NDArray[np.bool_], ...] = ()
    litres: float = 0.0
    skull: float = 0.0

    def slice_rows(self) -> Iterator[dict[str, Any]]:
        """One row per axis and slice: head area, mean, and each curve's value between the slice and the next one."""
        curves = {name: curve for result in self.results.values() for name, curve in result.curves.items()}
        for axis, label in enumerate(AXES):
            for z in range(len(self.areas[axis])):
                row: dict[str, Any] = {"axis": label, "slice": z, "head_mm2": self.areas[axis][z], "mean": self.means[axis][z]}
                row.update({name: c[axis][z] if z < len(c[axis]) else float("nan") for name, c in curves.items()})
                yield row


def measure(voxels: NDArray[Any], voxel_size: Triple, checks: Sequence[Check]) -> Measures:
    """Maps a volume [X, Y, Z] (RAS+, any intensity unit) robustly to [0, 1], finds the head, and runs the checks.

    NaN and infinity count as the smallest finite value, and are remembered.
    """
    raw = np.asarray(voxels, dtype=np.float32)
    finite = np.isfinite(raw)
    bad = None if finite.all() else extent(~finite, 2)
    unit = robust_unit(_mended(raw, finite))
    mask = head_mask(unit)
    scan = HeadScan(unit, mask, voxel_size)
    areas, means = [], []
    for axis in range(3):
        stack = scan.stack(axis)
        count = stack.on_axis(stack.area)
        pixel = float(np.prod([voxel_size[other] for other in range(3) if other != axis]))
        areas.append(count * pixel)
        means.append(np.where(count > 0, stack.on_axis(stack.sums) / np.maximum(count, 1), np.nan))
    results = {check.kind: check.measure(scan) for check in checks}
    middle = tuple(_middle(unit, scan.ends, axis) for axis in range(3))
    middle_mask = tuple(_middle(mask, scan.ends, axis) for axis in range(3))
    litres = float(np.count_nonzero(mask)) * float(np.prod(voxel_size)) / 1e6
    skull = skull_sign(unit, mask, voxel_size)
    share = 1.0 - float(finite.mean())
    return Measures(results, scan.ends, bad, share, tuple(areas), tuple(means), middle, middle_mask, litres, skull)


def seen(voxels: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The volume in [0, 1] and its head, as :func:`measure` sees them."""
    raw = np.asarray(voxels, dtype=np.float32)
    unit = robust_unit(_mended(raw, np.isfinite(raw)))
    return unit, head_mask(unit)


def _mended(raw: NDArray[np.float32], finite: NDArray[np.bool_]) -> NDArray[np.float32]:
    if finite.all():
        return raw
    return np.where(finite, raw, raw[finite].min() if finite.any() else np.float32(0))


def robust_unit(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The robust window of the volume itself -> [0, 1]; all 0 for a constant volume, which has no window."""
    try:
        return IntensityMap.robust(voxels).to_unit(voxels)
    except ValueError:
        return np.zeros(voxels.shape, dtype=np.float32)


def _middle(unit: NDArray[V], extents: Sequence[tuple[int, int] | None], axis: int) -> NDArray[V]:
    ends = extents[axis] or (0, unit.shape[axis] - 1)
    plane = np.take(unit, (ends[0] + ends[1]) // 2, axis=axis)
    return np.ascontiguousarray(plane.T[::-1])
