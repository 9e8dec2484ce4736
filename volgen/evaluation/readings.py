"""What readers said of generated and real volumes: how good structures are, whether readers agree, and whether they see which is which.

Intervals are of a bootstrap over volumes crossed with readers: both are drawn again, generated and real volumes each among themselves, so
that they hold for other volumes and for other readers (Owen 2007). With three readers intervals are wide, for a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.agreement import WEIGHTINGS, alpha, kappa
from volgen.evaluation.detection import Detection, detect

Floats = NDArray[np.float64]
MARKS = 5
"""The highest mark: 1 is wrong or missing, 5 is what a good scan has (Shibata et al. 2024)."""
LEAST_DRAWS = 20
"""Draws of a bootstrap that have a value, below which no interval is given."""


@dataclass(frozen=True)
class Readings:
    """Answers of a study, NaN where there is none.

    Attributes:
        readers: who gave them, R of them.
        generated_U: which of the U volumes were generated; the others are scans.
        marks: marks [R, U] of each structure, of when a volume was first seen.
        again: the same of when a volume was seen for the second time, without being told.
        confidence_RU: confidence that a volume is generated, 1 to 5, or minus the confidence that it is real.
        confidence_again_RU: the same of the second time.
        settled: marks [U] of each structure that readers agreed on afterwards, where they had differed (Krause et al. 2018).
    """

    readers: Sequence[str]
    generated_U: NDArray[np.bool_]
    marks: Mapping[str, Floats]
    again: Mapping[str, Floats]
    confidence_RU: Floats
    confidence_again_RU: Floats
    settled: Mapping[str, Floats]


@dataclass(frozen=True)
class Interval:
    """A number and where it lies.

    Attributes:
        value: the number; None where it is not defined.
        interval: 2.5th and 97.5th percentile of the bootstrap; None where there is no value or too few draws have one.
        draws: draws of the bootstrap that have one.
    """

    value: float | None
    interval: tuple[float, float] | None
    draws: int


class Bootstrap:
    """Draws of volumes crossed with readers.

    Attributes:
        weights: how often each reader and each volume counts, for each draw.
    """

    def __init__(self, readings: Readings, draws: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        groups = [np.flatnonzero(readings.generated_U), np.flatnonzero(~readings.generated_U)]
        self.weights: list[tuple[Floats, Floats]] = []
        for _ in range(draws):
            reader_R = _drawn(random, np.arange(len(readings.readers)), len(readings.readers))
            volume_U = sum((_drawn(random, group, len(readings.generated_U)) for group in groups), np.zeros(len(readings.generated_U)))
            self.weights.append((reader_R, volume_U))
        self._once = (np.ones(len(readings.readers)), np.ones(len(readings.generated_U)))

    def of(self, number: Callable[[Floats, Floats], float | None]) -> Interval:
        """A number, of readers and volumes that count so often, with its interval."""
        value = number(*self._once)
        values = self.values(number)
        return Interval(value, percentiles(values, 2.5, 97.5) if value is not None else None, len(values))

    def values(self, number: Callable[[Floats, Floats], float | None]) -> list[float]:
        """The number of every draw that has one: one reader alone, drawn again and again, agrees with nobody."""
        return [found for weights in self.weights if (found := number(*weights)) is not None]


def _drawn(random: np.random.Generator, members: NDArray[np.int_], length: int) -> Floats:
    """How often each of ``length`` is drawn when as many as there are members are drawn from these."""
    chosen = random.choice(members, size=len(members)) if len(members) else members
    return np.bincount(chosen, minlength=length).astype(np.float64)


def percentiles(values: Sequence[float], low: float, high: float) -> tuple[float, float] | None:
    """Two percentiles of draws; None where there are too few for that."""
    if len(values) < LEAST_DRAWS:
        return None
    found = np.percentile(values, [low, high])
    return float(found[0]), float(found[1])


def score(readings: Readings, *, margin: float = 0.5, gap: float = 2.0, draws: int = 2000, seed: int = 0) -> dict[str, Any]:
    """All numbers of a study.

    Args:
        readings: the answers.
        margin: difference of mean marks below which generated volumes count as equivalent (two one-sided tests at 5 %).
        gap: distance of two readers' marks from which on they should talk about a volume.
        draws: draws of the bootstrap.
        seed: seed of the draws.

    Returns:
        JSON: ``structures``, for each its means, the difference of generated and real volumes, whether that is inside the margin, and
        how readers agree; ``detection``, of each reader and of all; ``adjudicate``, which marks of which volumes differ by ``gap`` or more;
        ``reference``, how each reader agrees with what was settled, where something was.
    """
    bootstrap = Bootstrap(readings, draws, seed)
    return {
        "readers": list(readings.readers),
        "volumes": {"generated": int(readings.generated_U.sum()), "real": int((~readings.generated_U).sum())},
        "structures": {name: _structure(readings, name, bootstrap, margin) for name in readings.marks},
        "detection": _detection(readings, bootstrap),
        "adjudicate": [
            {"volume": volume, "structure": name} for name, marks_RU in readings.marks.items() for volume in _apart(marks_RU, gap)
        ],
        "reference": _reference(readings, gap) if readings.settled else None,
    }


def _structure(readings: Readings, name: str, bootstrap: Bootstrap, margin: float) -> dict[str, Any]:
    marks_RU, again_RU, generated_U = readings.marks[name], readings.again[name], readings.generated_U

    def difference(reader_R: Floats, volume_U: Floats) -> float | None:
        made, real = (_mean(marks_RU, reader_R, volume_U * kind) for kind in (generated_U, ~generated_U))
        return None if made is None or real is None else made - real

    def between(reader_R: Floats, volume_U: Floats) -> float | None:
        return alpha(marks_RU, MARKS, reader_R, volume_U)

    tested = percentiles(bootstrap.values(difference), 5.0, 95.0)
    return {
        "generated": _mean(marks_RU, *_once(marks_RU, generated_U)),
        "real": _mean(marks_RU, *_once(marks_RU, ~generated_U)),
        "difference": asdict(bootstrap.of(difference)),
        "equivalence": {
            "margin": margin, "interval": tested, "equivalent": None if tested is None else -margin < tested[0] and tested[1] < margin,
        },
        "alpha": asdict(bootstrap.of(between)),
        "same": _share(*_paired(marks_RU)),
        "kappa": {
            weighting: _average([kappa(one, other, MARKS, weighting) for one, other in combinations(marks_RU, 2)])
            for weighting in WEIGHTINGS
        },
        "repeats": {
            "volumes": int((np.isfinite(marks_RU) & np.isfinite(again_RU)).sum()),
            "same": _share(marks_RU.ravel(), again_RU.ravel()),
            "kappa": {weighting: kappa(marks_RU.ravel(), again_RU.ravel(), MARKS, weighting) for weighting in WEIGHTINGS},
        },
    }  # fmt: skip


def _detection(readings: Readings, bootstrap: Bootstrap) -> dict[str, Any]:
    confidence_RU, generated_U = readings.confidence_RU, readings.generated_U

    def together(reader_R: Floats, volume_U: Floats) -> Detection | None:
        return detect(confidence_RU.ravel(), np.tile(generated_U, len(reader_R)), np.outer(reader_R, volume_U).ravel())

    def number(name: str) -> dict[str, Any]:
        def one(reader_R: Floats, volume_U: Floats) -> float | None:
            found = together(reader_R, volume_U)
            return None if found is None else float(getattr(found, name))

        return asdict(bootstrap.of(one))

    each = {reader: detect(row_U, generated_U) for reader, row_U in zip(readings.readers, confidence_RU, strict=True)}
    said_RU, again_RU = (
        np.where(np.isfinite(found), found > 0, np.nan) for found in (confidence_RU, readings.confidence_again_RU)
    )  # fmt: skip
    return {
        "all": {name: number(name) for name in ("hits", "false_alarms", "d_prime", "criterion", "area")},
        "readers": {reader: None if found is None else asdict(found) for reader, found in each.items()},
        "same": _share(*_paired(said_RU)),
        "kappa": _average([kappa(one + 1, other + 1, 2, "none") for one, other in combinations(said_RU, 2)]),
        "repeats": {
            "volumes": int((np.isfinite(said_RU) & np.isfinite(again_RU)).sum()),
            "same": _share(said_RU.ravel(), again_RU.ravel()),
        },
    }


def _reference(readings: Readings, gap: float) -> dict[str, dict[str, float | None]]:
    """Quadratic kappa of each reader with the reference: what was settled, and elsewhere the median of readers who did not differ."""
    found: dict[str, dict[str, float | None]] = {reader: {} for reader in readings.readers}
    for name, marks_RU in readings.marks.items():
        settled_U = readings.settled.get(name, np.full(marks_RU.shape[1], np.nan))
        open_U = np.isin(np.arange(marks_RU.shape[1]), _apart(marks_RU, gap))
        reference_U = np.where(np.isfinite(settled_U), settled_U, np.where(open_U, np.nan, _median(marks_RU)))
        for reader, row_U in zip(readings.readers, marks_RU, strict=True):
            found[reader][name] = kappa(row_U, reference_U, MARKS, "quadratic")
    return found


def _apart(marks_RU: Floats, gap: float) -> list[int]:
    """Volumes that two readers gave marks at least this far apart."""
    return [int(volume) for volume in np.flatnonzero(_highest(marks_RU) + _highest(-marks_RU) >= gap)]


def _highest(marks_RU: Floats) -> Floats:
    highest: Floats = np.where(np.isfinite(marks_RU), marks_RU, -np.inf).max(axis=0)
    return highest


def _median(marks_RU: Floats) -> Floats:
    """Medians of the marks of each volume, the lower one of two; NaN without a mark."""
    ordered_RU = np.sort(marks_RU, axis=0)  # NaN comes last
    middle_U = np.maximum(np.isfinite(marks_RU).sum(axis=0) - 1, 0) // 2
    found: Floats = np.take_along_axis(ordered_RU, middle_U[None], axis=0)[0]
    return found


def _once(marks_RU: Floats, kind_U: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    return np.ones(len(marks_RU)), kind_U.astype(np.float64)


def _mean(marks_RU: Floats, reader_R: Floats, volume_U: Floats) -> float | None:
    weights_RU = np.outer(reader_R, volume_U) * np.isfinite(marks_RU)
    total = float(weights_RU.sum())
    return float((weights_RU * np.nan_to_num(marks_RU)).sum()) / total if total else None


def _paired(values_RU: Floats) -> tuple[Floats, Floats]:
    """Answers of every two readers to the same volumes, one below the other."""
    if len(values_RU) < 2:
        return np.empty(0), np.empty(0)
    pairs = list(combinations(values_RU, 2))
    return np.concatenate([one for one, _ in pairs]), np.concatenate([other for _, other in pairs])


def _share(first: Floats, second: Floats) -> float | None:
    """Share of things answered twice with the same answer."""
    both = np.isfinite(first) & np.isfinite(second)
    return float((first[both] == second[both]).mean()) if both.any() else None


def _average(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def each_mark(readings: Readings) -> Iterator[tuple[str, int, bool, str, float]]:
    """Every mark: reader, number of the volume, whether it was the second time, structure, and the mark."""
    for again, found in ((False, readings.marks), (True, readings.again)):
        for name, marks_RU in found.items():
            for reader, volume in np.argwhere(np.isfinite(marks_RU)):
                yield readings.readers[reader], int(volume), again, name, float(marks_RU[reader, volume])
