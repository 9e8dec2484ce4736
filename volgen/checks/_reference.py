"""What is normal: bands of every metric over real volumes, and the verdict on one volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from volgen.checks._measure import Measurement, checks_of
from volgen.core.check import AXES, Check, Metric, Triple
from volgen.core.errors import UserError

FALSE_ALARM = 0.05
"""Aimed-at probability that a real volume of an unseen person fails any check at all."""
FEWEST, FEW = 3, 8
FORMAT = 1
POSITIONS = 41
PERCENTILES = (2.5, 50.0, 97.5)
SMALLEST = 1e-9
Array = NDArray[np.float64]


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

    @property
    def metrics(self) -> list[tuple[str, Metric]]:
        """Kind of check and metric, in order."""
        return [(check.kind, metric) for check in self.checks for metric in check.metrics]

    @classmethod
    def fit(cls, measured: Sequence[Measurement], checks: Sequence[Check], voxel_size: Triple, shape: tuple[int, int, int]) -> Self:
        """Bands from real volumes; those in which something could not be measured are left out.

        The band of a metric is the wider of two intervals for the next volume. One is Student's prediction interval, mean +- k sd with
        k = t_{n-1}(1 - alpha / m) sqrt(1 + 1/n): alpha = 0.05 is shared by all m ends of all bands (Bonferroni), and the band widens by
        itself when there are few volumes. The other stretches the distances from the median to the 2.5th and the 97.5th percentile by
        k / 1.96, which follows a skewed distribution. Metrics with a log scale are handled as logarithms.

        Raises:
            UserError: fewer than 3 volumes could be measured.
        """
        whole = [m for m in measured if all(np.isfinite(v).all() for result in m.results.values() for v in result.values.values())]
        if len(whole) < FEWEST:
            found = f"{len(whole)} of {len(measured)} volumes can be measured"
            raise UserError("reference", found, f"at least {FEWEST}, better {FEW} or more", "use a larger store or --split all")
        raw = [{name: value for result in m.results.values() for name, value in result.values.items()} for m in whole]
        means = {name: _triple(np.maximum(np.mean([row[name] for row in raw], axis=0), SMALLEST)) for name in raw[0]}
        ends = 3 * sum(bool(metric.low) + bool(metric.high) for check in checks for metric in check.metrics)
        widening = float(stats.t.ppf(1 - FALSE_ALARM / ends, len(whole) - 1) * np.sqrt(1 + 1 / len(whole)))
        bands, percentiles = {}, {}
        for check in checks:
            related = [check.relate(m.results[check.kind].values, means) for m in whole]
            for metric in check.metrics:
                values = np.array([row[metric.name] for row in related])
                bands[metric.name] = _band(values, metric, widening).tolist()
                percentiles[metric.name] = np.percentile(values, PERCENTILES, axis=0).T.tolist()
        names = [name for result in whole[0].results.values() for name in result.curves]
        curves = {name: [_percentile_curve(whole, name, axis) for axis in range(3)] for name in names}
        return cls(len(whole), len(measured) - len(whole), voxel_size, shape, list(checks), means, bands, percentiles, curves)

    def thresholds(self) -> dict[str, Any]:
        """Label and band of every metric for ``report.json``; None for an end that is no fault."""
        return {
            metric.name: {
                "check": kind, "label": metric.label,
                "bands": {axis: [low if metric.low else None, high if metric.high else None]
                          for axis, (low, high) in zip(AXES, self.bands[metric.name], strict=True)},
            }
            for kind, metric in self.metrics
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Content of ``bands.json``."""
        metrics = {
            metric.name: {axis: {"low": self.bands[metric.name][i][0], "high": self.bands[metric.name][i][1],
                                 "percentiles": self.percentiles[metric.name][i], "raw_mean": self.means[metric.name][i]}
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
            names = [metric.name for check in checks for metric in check.metrics]
            of = {name: [content["metrics"][name][axis] for axis in AXES] for name in names}
            return cls(
                int(content["subjects"]), int(content["left_out"]), _triple(content["voxel_size"]), _shape(content["shape"]), checks,
                {name: _triple([row["raw_mean"] for row in rows]) for name, rows in of.items()},
                {name: [[float(row["low"]), float(row["high"])] for row in rows] for name, rows in of.items()},
                {name: [[float(p) for p in row["percentiles"]] for row in rows] for name, rows in of.items()},
                {name: [axes[axis] for axis in AXES] for name, axes in content["curves"].items()},
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, ModuleNotFoundError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(where, f"has another form ({type(error).__name__}: {error})", expected, do) from None


def _band(values: Array, metric: Metric, widening: float) -> Array:
    """[3, 2] low and high end per axis from values [volumes, 3]."""
    scaled = np.log(np.maximum(values, SMALLEST)) if metric.scale == "log" else values
    mean, deviation = scaled.mean(axis=0), scaled.std(axis=0, ddof=1)
    low, middle, high = np.percentile(scaled, PERCENTILES, axis=0)
    stretch = widening / 1.96
    band = np.stack([
        np.minimum(mean - widening * deviation, middle - stretch * (middle - low)),
        np.maximum(mean + widening * deviation, middle + stretch * (high - middle)),
    ], axis=1)  # fmt: skip
    return np.exp(band) if metric.scale == "log" else band


def _percentile_curve(measured: Sequence[Measurement], name: str, axis: int) -> list[list[float | None]]:
    """Percentiles [3][positions] of a curve along the head; None where fewer than half of the volumes have a value."""
    positions = np.linspace(0.0, 1.0, POSITIONS)
    rows = []
    for one in measured:
        curve = next(result.curves[name][axis] for result in one.results.values() if name in result.curves)
        ends = one.extents[axis]
        assert ends is not None
        known = np.flatnonzero(np.isfinite(curve))
        if known.size < 2:
            continue
        # A pair's place is half-way between its slices.
        place = (known + 0.5 - ends[0]) / max(ends[1] - ends[0], 1)
        rows.append(np.interp(positions, place, curve[known], left=np.nan, right=np.nan))
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
