"""What is normal: bands of every metric over real volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.core.protocols import AXES
from volgen.evaluation import bands as banding
from volgen.evaluation.bands import FALSE_ALARM, FEW, PERCENTILES, SMALLEST
from volgen.evaluation.check import Check, Metric, Triple
from volgen.evaluation.measure import Measures, checks_of, default_checks
from volgen.evaluation.placement import POSITIONS, Entries, Placement
from volgen.evaluation.stripping import SKULL

__all__ = ["FALSE_ALARM", "FEW", "Reference"]

FEWEST = 3
IN_BAND = ("outline_loss", "outline_drift", "step")
FORMAT = 1
KEYS = {
    "format", "subjects", "left_out", "voxel_size", "shape", "intensity", "false_alarm", "percentiles", "checks", "metrics", "curves",
    "placements", "stretch", "head",
}  # fmt: skip
"""Keys of ``bands.json``, beside the seal that volgen 0.1.0 did not put on it."""
Array = NDArray[np.float64]
Placements = dict[str, list[Placement]]


@dataclass(frozen=True)
class Reference:
    """Bands of real volumes on one grid.

    Attributes:
        subjects: number of volumes behind it.
        left_out: number of volumes in which something could not be measured.
        voxel_size: mm.
        shape: voxels.
        checks: the checks with the parameters that the bands hold for.
        means: mean of each raw value, by metric.
        bands: low and high end per axis, by metric.
        percentiles: 2.5th, 50th and 97.5th percentile per axis, by metric.
        curves: percentiles [3, positions] per axis, by curve, along the head from its first slice (0) to its last (1).
        placements: usual course and spread per axis, by curve, of those that a metric is placed on.
        stretch: factor on the widths of all bands at which real volumes pass.
        intervals: [low, high] end of the 95 % interval of each percentile per axis, by metric, from resampling the volumes.
        head: ``litres``, percentiles of the volume of the head, and ``skulls``, in how many volumes a skull shows; empty for bands of an
            earlier volgen.
    """

    subjects: int
    left_out: int
    voxel_size: Triple
    shape: tuple[int, int, int]
    checks: list[Check]
    means: dict[str, Triple]
    bands: dict[str, list[list[float]]]
    percentiles: dict[str, list[list[float]]]
    curves: dict[str, list[list[list[float | None]]]]
    placements: Placements = field(default_factory=dict)
    stretch: float = 1.0
    intervals: dict[str, list[list[list[float]]]] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> list[tuple[str, Metric]]:
        """Kind of check and metric, in order; without those that bands of an earlier volgen do not hold."""
        return [(check.kind, metric) for check in self.checks for metric in check.metrics if self._holds(metric)]

    @property
    def unknown(self) -> list[str]:
        """Labels of the metrics of this version that bands of an earlier volgen do not hold, and which are not judged."""
        whole_heads = mostly_whole_heads(self.head, self.subjects)
        metrics = (metric for check in default_checks() for metric in check.metrics if not (metric.brain and whole_heads))
        return [metric.label for metric in metrics if not self._holds(metric)]

    def judged(self, skull: float) -> list[tuple[str, Metric]]:
        """:attr:`metrics` that a volume is judged by: where it shows a skull, none of the tissues of a brain.

        Args:
            skull: sign of a skull in the volume, see :func:`volgen.evaluation.stripping.skull_sign`.
        """
        return [(kind, metric) for kind, metric in self.metrics if not (metric.brain and skull >= SKULL)]

    def _holds(self, metric: Metric) -> bool:
        return metric.name in self.bands and (not metric.placed or metric.curve in self.placements)

    @classmethod
    def fit(cls, measured: Sequence[Measures], checks: Sequence[Check], voxel_size: Triple, shape: tuple[int, int, int]) -> Self:
        """Bands from real volumes; those in which something could not be measured are left out.

        Most of them being whole heads, there are none for what is measured of the tissues of a brain.
        How the bands come about is told in :func:`volgen.evaluation.bands.bands` and :func:`volgen.evaluation.bands.family_stretch`.
        Numbers that are placed on a curve are those of people whom the curve's usual course was not made from (5 groups in turn).

        Raises:
            UserError: fewer than 3 volumes could be measured.
        """
        whole = [m for m in measured if all(np.isfinite(v).all() for result in m.results.values() for v in result.values.values())]
        if len(whole) < FEWEST:
            found = f"{len(whole)} of {len(measured)} volumes can be measured"
            raise UserError("reference", found, f"at least {FEWEST}, better {FEW} or more", "use a larger store or --split all")
        raw = [{name: value for result in m.results.values() for name, value in result.values.items()} for m in whole]
        means = {name: _triple(np.maximum(np.mean([row[name] for row in raw], axis=0), SMALLEST)) for name in raw[0]}
        head = _head(whole)
        bare = not mostly_whole_heads(head, len(whole))
        metrics = [metric for check in checks for metric in check.metrics if bare or not metric.brain]
        rows = [{} for _ in whole]  # type: list[dict[str, Triple]]
        group = np.arange(len(whole)) % min(banding.FOLDS, len(whole))
        for fold in range(group.max() + 1):
            others = _placements([m for m, g in zip(whole, group, strict=True) if g != fold], checks)
            for index in np.flatnonzero(group == fold):
                rows[index] = _values(whole[index], checks, means, others)
        values = {metric.name: np.array([row[metric.name] for row in rows]) for metric in metrics}
        stretch = banding.family_stretch(values, metrics)
        made = banding.bands(values, metrics, stretch)
        bands = {metric.name: _limited(banding.unscaled(made[metric.name], metric), metric, values[metric.name]) for metric in metrics}
        percentiles = {metric.name: np.percentile(values[metric.name], PERCENTILES, axis=0).T.tolist() for metric in metrics}
        names = [name for result in whole[0].results.values() for name in result.curves]
        curves = {name: [_percentile_curve(whole, name, axis) for axis in range(3)] for name in names}
        left_out = len(measured) - len(whole)
        intervals = {metric.name: banding.percentile_intervals(values[metric.name]) for metric in metrics}
        placements = _placements(whole, checks)
        return cls(
            len(whole), left_out, voxel_size, shape, list(checks), means, bands, percentiles, curves, placements, stretch, intervals,
            head,
        )  # fmt: skip

    def values(self, measured: Measures) -> dict[str, Triple]:
        """Every metric of a volume per axis, as it is reported."""
        return _values(measured, self.checks, self.means, self.placements)

    def in_band(self, measured: Measures) -> dict[str, float | None]:
        """Metric 5, per axis: the share of slice pairs that are as usual; about 0.9 for a real volume.

        Usual is what lies between the 5th and the 95th percentile of real volumes at the same place: outline, its centre's move, and L1.
        None without a head, or for bands that do not hold these curves.
        """
        shares: dict[str, float | None] = {}
        for axis, label in enumerate(AXES):
            of = [(self.placements[name][axis], _entries(measured, name, axis)) for name in IN_BAND if name in self.placements]
            inside = [placement.usual(entries) for placement, entries in of]
            total = sum(part.size for part in inside)
            shares[label] = round(sum(int(part.sum()) for part in inside) / total, 4) if total else None
        return shares

    def standing_out(self, measured: Measures, curve: str, axis: int) -> Array:
        """How far each entry of a curve stands out, see :meth:`Placement.standing_out`."""
        return self.placements[curve][axis].standing_out(_entries(measured, curve, axis))

    def thresholds(self) -> dict[str, Any]:
        """Label and band of every metric for ``report.json``; None for an end that is no fault."""
        return {
            metric.name: {
                "check": kind, "label": metric.label, "whole": metric.whole,
                "bands": {axis: [low if metric.low else None, high if metric.high else None]
                          for axis, (low, high) in zip(AXES, self.bands[metric.name], strict=True)},
            }
            for kind, metric in self.metrics
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Content of ``bands.json``."""
        metrics = {
            metric.name: {axis: {"low": self.bands[metric.name][i][0], "high": self.bands[metric.name][i][1],
                                 "percentiles": self.percentiles[metric.name][i],
                                 **({"raw_mean": self.means[metric.name][i]} if metric.name in self.means else {}),
                                 **({"intervals": self.intervals[metric.name][i]} if metric.name in self.intervals else {})}
                          for i, axis in enumerate(AXES)}
            for _, metric in self.metrics
        }  # fmt: skip
        return {
            "format": FORMAT, "subjects": self.subjects, "left_out": self.left_out,
            "voxel_size": list(self.voxel_size), "shape": list(self.shape),
            "intensity": "robust window of each volume", "false_alarm": FALSE_ALARM, "percentiles": list(PERCENTILES),
            "checks": [check.model_dump(mode="json") for check in self.checks],  # type: ignore[attr-defined]
            "metrics": metrics,
            "curves": {name: dict(zip(AXES, axes, strict=True)) for name, axes in self.curves.items()},
            "placements": {
                name: {axis: one.to_json() for axis, one in zip(AXES, axes, strict=True)} for name, axes in self.placements.items()
            },
            "stretch": self.stretch, "head": self.head,
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> Self:
        """Inverse of :meth:`to_json`.

        Raises:
            UserError: the content is not that of a ``bands.json`` that this version can use.
        """
        expected, do = f"bands.json of a report (format {FORMAT})", "make it again: volgen report with a store as --reference"
        try:
            if content["format"] != FORMAT:
                raise UserError(where, f"has format {content['format']}", expected, do)
            checks = checks_of(content["checks"], where)
            names = [metric.name for check in checks for metric in check.metrics if metric.name in content["metrics"]]
            of = {name: [content["metrics"][name][axis] for axis in AXES] for name in names}
            return cls(
                int(content["subjects"]), int(content["left_out"]), _triple(content["voxel_size"]), _shape(content["shape"]), checks,
                {name: _triple([row["raw_mean"] for row in rows]) for name, rows in of.items() if "raw_mean" in rows[0]},
                {name: [[float(row["low"]), float(row["high"])] for row in rows] for name, rows in of.items()},
                {name: [[float(p) for p in row["percentiles"]] for row in rows] for name, rows in of.items()},
                {name: [axes[axis] for axis in AXES] for name, axes in content["curves"].items()},
                {name: [Placement.from_json(axes[axis]) for axis in AXES] for name, axes in content.get("placements", {}).items()},
                float(content.get("stretch", 1.0)),
                {name: [row["intervals"] for row in rows] for name, rows in of.items() if "intervals" in rows[0]},
                dict(content.get("head", {})),
            )  # fmt: skip
        except (KeyError, OverflowError, TypeError, ValueError, AttributeError, ModuleNotFoundError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(where, f"has another form ({type(error).__name__}: {error})", expected, do) from None


def _values(measured: Measures, checks: Sequence[Check], means: Mapping[str, Triple], placements: Placements) -> dict[str, Triple]:
    values: dict[str, Triple] = {}
    for check in checks:
        raw = measured.results[check.kind].values
        # Bands of an earlier volgen may lack a metric: whatever it is related to, nobody asks for it.
        values.update(check.relate(raw, {**dict.fromkeys(raw, (1.0, 1.0, 1.0)), **means}))
        for metric in check.metrics:
            if metric.placed and metric.curve in placements:
                values[metric.name] = _triple([
                    placements[metric.curve][axis].extreme(_entries(measured, metric.curve, axis), metric.placed)
                    if measured.extents[axis] else float("nan") for axis in range(3)
                ])  # fmt: skip
    return values


def _limited(ends: Array, metric: Metric, values: Array) -> list[list[float]]:
    """Low and high end per axis [3, 2], drawn in to the limits of a metric, but past no real volume."""
    least, most = metric.limits
    low = ends[:, 0] if least is None else np.maximum(ends[:, 0], np.minimum(least, values.min(axis=0)))
    high = ends[:, 1] if most is None else np.minimum(ends[:, 1], np.maximum(most, values.max(axis=0)))
    drawn: list[list[float]] = np.stack([low, high], axis=1).tolist()
    return drawn


def mostly_whole_heads(head: Mapping[str, Any], subjects: int) -> bool:
    """Whether more than half of the people of a reference show a skull; of bands that do not say so, not."""
    return int(head.get("skulls", 0)) * 2 > subjects


def _head(measured: Sequence[Measures]) -> dict[str, Any]:
    litres = np.percentile([one.litres for one in measured], PERCENTILES)
    return {"litres": [float(f"{value:.6g}") for value in litres], "skulls": sum(one.skull >= SKULL for one in measured)}


def _placements(measured: Sequence[Measures], checks: Sequence[Check]) -> Placements:
    names = dict.fromkeys(metric.curve for check in checks for metric in check.metrics if metric.placed)
    return {name: [Placement.fit([_entries(one, name, axis) for one in measured]) for axis in range(3)] for name in names}


def _entries(measured: Measures, name: str, axis: int) -> Entries:
    curve = next(result.curves[name][axis] for result in measured.results.values() if name in result.curves)
    return Entries.of(curve, measured.extents[axis], len(measured.areas[axis]))


def _percentile_curve(measured: Sequence[Measures], name: str, axis: int) -> list[list[float | None]]:
    """Percentiles [3][positions] of a curve along the head; None where fewer than half of the volumes have a value."""
    positions = np.linspace(0.0, 1.0, POSITIONS)
    rows = []
    for one in measured:
        entries = _entries(one, name, axis)
        if entries.values.size > 1:
            rows.append(np.interp(positions, entries.places, entries.values, left=np.nan, right=np.nan))
    table = np.array(rows).reshape(-1, POSITIONS)
    enough = np.isfinite(table).sum(axis=0) * 2 >= max(len(measured), 1)
    result: list[list[float | None]] = [[None] * POSITIONS for _ in PERCENTILES]
    for position in np.flatnonzero(enough):
        for row, value in zip(result, np.nanpercentile(table[:, position], PERCENTILES), strict=True):
            row[position] = float(value)
    return result


def _triple(values: Sequence[float] | Array) -> Triple:
    r, a, s = (float(value) for value in values)
    return r, a, s


def _shape(values: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (int(value) for value in values)
    return x, y, z
