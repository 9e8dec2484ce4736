"""Pass or fail, and why, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.core.protocols import AXES
from volgen.evaluation.bands import SMALLEST
from volgen.evaluation.check import Metric, Triple
from volgen.evaluation.measure import Measures
from volgen.evaluation.reference import Reference

PLANES = {"R": "sagittal", "A": "coronal", "S": "axial"}
DIRECTIONS = {"R": "left to right", "A": "back to front", "S": "bottom to top"}
MOST_PLACES = 3
SHADOW = 1.5
ALIKE = 0.45


@dataclass(frozen=True)
class _Departure:
    """A metric outside its band along one axis; ``distance`` is in widths of the band, ``above`` whether it is above it."""

    check: str
    metric: Metric
    axis: int
    value: float | None
    distance: float
    above: bool = True


def judge(name: str, measured: Measures, reference: Reference) -> dict[str, Any]:
    """The entry of one volume in ``report.json``.

    A volume passes if every metric lies inside its band along every axis and every voxel is a number. It is ``other`` if its sharpness,
    contrast or noise lies outside the same way along all three axes (another acquisition than the reference, or blur or noise everywhere)
    and nothing else is wrong that another acquisition would not explain; what that is, :attr:`Metric.transfer` says. Otherwise it fails.
    ``score`` is the share of metrics and axes inside their bands. A metric that could not be measured counts as outside (the check of the
    head's extent says why).
    """
    values = reference.values(measured)
    judged = reference.judged(measured.skull)
    outside = [
        d for kind, metric in judged for axis in range(3)
        if (d := _departure(kind, metric, axis, values[metric.name][axis], reference)) is not None
    ]  # fmt: skip
    general = _all_axes_alike(outside, values, reference)
    faults = outside
    if general:
        faults = [further for d in outside if d not in general and (further := _beyond(d, reference))]
    faults = _sorted(faults)
    findings = list(_not_finite(measured))
    for departure in faults:
        findings += _findings(departure, measured, reference)
    if faults and not findings:  # the band of a small reference can be so wide that a head of no length lies in it
        findings += [_unmeasured(departure, reference) for departure in faults[:3]]
    wrong = len(findings)
    for departure in _sorted(general):
        findings += _findings(departure, measured, reference)
    levels = ["fail"] * wrong + ["other"] * (len(findings) - wrong)
    total = 3 * len(judged)

    def worst(key: str, value: str) -> str:
        """The severest level of the findings of a check or an axis."""
        of = (level for f, level in zip(findings, levels, strict=True) if f[key] == value or (key == "axis" and f["whole"]))
        return min(of, default="pass")  # "fail" < "other"

    return {
        "name": name,
        "verdict": min(levels, default="pass"),
        "score": round((total - len(outside)) / total, 4),
        "checks": {check.kind: worst("check", check.kind) for check in reference.checks},
        "metrics": {m.name: {axis: number(values[m.name][i]) for i, axis in enumerate(AXES)} for _, m in reference.metrics},
        "axes": {axis: worst("axis", axis) for axis in AXES},
        "in_band": reference.in_band(measured),
        "findings": [{**finding, "level": level} for finding, level in zip(findings, levels, strict=True)],
    }


def number(value: float) -> float | None:
    """Six significant digits for JSON; None for what is not a number."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _departure(kind: str, metric: Metric, axis: int, value: float, reference: Reference, allowance: float = 0.0) -> _Departure | None:
    """How far a value lies outside its band, widened by an allowance on the metric's own scale; None inside."""
    low, high = reference.bands[metric.name][axis]
    if not math.isfinite(value):
        return _Departure(kind, metric, axis, None, math.inf)
    place = value
    if metric.scale == "log":
        place, low, high = (math.log(max(x, SMALLEST)) for x in (value, low, high))
    below, above = (low - place if metric.low else -math.inf), (place - high if metric.high else -math.inf)
    beyond = max(below, above) - allowance
    return _Departure(kind, metric, axis, value, beyond / max(high - low, SMALLEST), above > below) if beyond > 0 else None


def _all_axes_alike(departures: Sequence[_Departure], values: Mapping[str, Triple], reference: Reference) -> list[_Departure]:
    """Departures of numbers that tell acquisitions apart, where the other two axes lie the same way from the middle of their bands.

    At least 0.45 as far, in widths of their bands: blur along one axis moves the others a little too.
    """
    found = []
    for departure in departures:
        metric = departure.metric
        if metric.acquisition and departure.value is not None:
            ends, numbers = np.array(reference.bands[metric.name]), np.array(values[metric.name])
            if metric.scale == "log":
                ends, numbers = (np.log(np.maximum(x, SMALLEST)) for x in (ends, numbers))
            reach = (numbers - ends.mean(axis=1)) / np.maximum(np.ptp(ends, axis=1), SMALLEST) * (1 if departure.above else -1)
            if reach.min() >= ALIKE * reach.max():
                found.append(departure)
    return found


def _sorted(departures: Sequence[_Departure]) -> list[_Departure]:
    """Farthest first; of contrasts between the axes only the farthest of each metric, of the whole volume's numbers the last axis alone."""
    order = sorted(departures, key=lambda d: -d.distance)
    first = {d.metric.name: d for d in reversed(order)}
    last = {d.metric.name: d for d in order}

    def told(d: _Departure) -> bool:
        return first[d.metric.name] is d if d.metric.contrast else last[d.metric.name] is d if d.metric.whole else True

    return [d for d in order if told(d)]


def _beyond(departure: _Departure, reference: Reference) -> _Departure | None:
    """The departure from what another acquisition explains; None if it lies within."""
    metric, value = departure.metric, departure.value
    if metric.transfer is None:
        return None
    if value is None:
        return departure
    further = _departure(departure.check, metric, departure.axis, value, reference, metric.transfer)
    return replace(further, value=departure.value) if further else None


def _findings(departure: _Departure, measured: Measures, reference: Reference) -> Iterator[dict[str, Any]]:
    metric, axis = departure.metric, AXES[departure.axis]
    if departure.value is None:
        return  # nothing was there to measure; the extent of the head is the finding
    low, high = reference.bands[metric.name][departure.axis]
    below = not departure.above
    places: Sequence[tuple[int, int] | None] = _places(departure, measured, reference, low if below else high, below)
    for place in places or [None]:
        where = "" if metric.whole else _along(axis) if place is None else f"{PLANES[axis].capitalize()} {_slices(*place)}: "
        words = metric.low if below else metric.high
        usual = f"{low:.3g} to {high:.3g}" if metric.low and metric.high else f"up to {high:.3g}" if metric.high else f"from {low:.3g}"
        unit = " sd" if metric.placed else ""
        numbers = f"{metric.label[0].upper()}{metric.label[1:]}: {departure.value:.3g}{unit}; real volumes: {usual}{unit}."
        yield {
            "check": departure.check, "metric": metric.name, "axis": axis, "whole": metric.whole,
            "slices": None if place is None else list(place), "value": number(departure.value), "band": [number(low), number(high)],
            "text": f"{where}{'The' if metric.whole else 'the'} volume {words}. {numbers}",
        }  # fmt: skip


def _unmeasured(departure: _Departure, reference: Reference) -> dict[str, Any]:
    axis, metric = AXES[departure.axis], departure.metric
    low, high = reference.bands[metric.name][departure.axis]
    text = f"{'' if metric.whole else _along(axis)}{metric.label} could not be measured: there is no head, or too little of one."
    return {
        "check": departure.check, "metric": metric.name, "axis": axis, "whole": metric.whole, "slices": None, "value": None,
        "band": [number(low), number(high)], "text": text[0].upper() + text[1:],
    }  # fmt: skip


def _along(axis: str) -> str:
    return f"Along {axis} ({DIRECTIONS[axis]}): "


def _slices(first: int, last: int) -> str:
    return f"slice {first}" if first == last else f"slices {first}-{last}"


def _places(departure: _Departure, measured: Measures, reference: Reference, limit: float, below: bool) -> list[tuple[int, int]]:
    """Slices at fault, worst place first. Two neighbouring pairs at fault share one slice, and that one is it."""
    if not departure.metric.curve:
        return []
    name, axis = departure.metric.curve, departure.axis
    curve: NDArray[np.float64] = measured.results[departure.check].curves[name][axis]
    pairs = len(curve) < len(measured.areas[axis])
    if departure.metric.placed:
        curve = reference.standing_out(measured, name, axis) * (1 if departure.metric.placed == "high" else -1)
    with np.errstate(invalid="ignore"):
        at_fault = np.flatnonzero((curve < limit) if below else (curve > limit))
    if departure.metric.placed == "high" and not pairs:
        at_fault = at_fault[~_shadows(measured.results[departure.check].curves[name][axis])[at_fault]]
    runs = np.split(at_fault, np.flatnonzero(np.diff(at_fault) > 1) + 1) if at_fault.size else []
    runs.sort(key=lambda run: float(curve[run].min() if below else -curve[run].max()))
    if not pairs:
        return [(int(run[0]), int(run[-1])) for run in runs[:MOST_PLACES]]
    return [(int(run[0]) + (run.size > 1), int(run[-1]) + (run.size == 1)) for run in runs[:MOST_PLACES]]


def _shadows(curve: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Slices that stand out only because the next one does: one wrong slice is half of what its neighbours are compared with."""
    beside = np.nan_to_num(np.pad(curve, 1))
    shadows: NDArray[np.bool_] = np.maximum(beside[:-2], beside[2:]) > SHADOW * np.nan_to_num(curve)
    return shadows


def _not_finite(measured: Measures) -> Iterator[dict[str, Any]]:
    if measured.not_finite is None:
        return
    first, last = measured.not_finite
    yield {
        "check": "finite", "metric": "not_finite_share", "axis": "S", "whole": False, "slices": [first, last],
        "value": number(measured.not_finite_share), "band": [0.0, 0.0],
        "text": f"Axial {_slices(first, last)}: some voxels are NaN or infinite; they were taken as background.",
    }  # fmt: skip
