"""Faults planted in real volumes: how many the slice report catches, along the right axis and at the right slice, and its false alarms.

Bands come from the train split of a store; false alarms are counted on its test split, and faults are planted in people of that split, the
axis, the place and the signs drawn for each case. With ``--other``, bands come from both cohorts' train splits, faults are planted in
the test people of both, and the table also says what bands of the first cohort alone make of the other one. A fault counts as *found* if
the volume fails, the first finding names its axis (blur along all axes: all three are named), and, for a fault of a few slices,
the first finding that names slices names those, give or take one. The tables in docs/report.md come from here:
``volgen bench faults STORE --other STORE2 --out FILE.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import NonNegativeInt, PositiveInt
from scipy import stats

from volgen.bench._faults import FAULTS, STRENGTHS, Fault, Slices, plant
from volgen.bench._result import Row
from volgen.checks._measure import Measurement, default_checks, measure
from volgen.checks._reference import Reference
from volgen.checks._verdict import judge
from volgen.core.check import AXES
from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.options import Positional
from volgen.core.progress import progress
from volgen.data.record import Split, SubjectRecord
from volgen.data.store import Store

NEAR = 1  # slices that a place may be off


class Config(BaseConfig):
    """Which people, and how many cases."""

    store: Annotated[Path, Positional("STORE")]
    """Finished store of real scans on one grid, with train and test people."""
    other: Path | None = None
    """Store of another cohort with the same voxel size."""
    cases: PositiveInt = 16
    """Volumes for each fault and strength; test people take turns."""
    seed: NonNegativeInt = 0
    """Seed of the axes, places and signs."""


@dataclass(frozen=True)
class _Case:
    fault: str
    strength: int
    caught: bool
    axis: bool
    place: bool | None


def run(config: Config) -> list[Row]:
    """Shares of volumes with their 95 % intervals (Clopper and Pearson 1934).

    Raises:
        UserError: no such store, or one without train or test people; stores of different voxel sizes.
    """
    stores = [Store.open(path) for path in (config.store, config.other) if path is not None]
    sides: dict[Split, list[list[SubjectRecord]]] = {"train": [], "test": []}
    for store in stores:
        for split, found in sides.items():
            found.append(store.split(split))
            if not found[-1]:
                raise UserError(str(store.path), f"has nobody in its {split} split", "people", "ingest with --test 0.3")
    sizes = [store.records[0].voxel_size for store in stores]
    for first, second in pairwise(sizes):
        if not np.allclose(first, second, rtol=0.01):
            raise UserError("--other", f"has voxels of {second} mm", f"{first} mm as in STORE")
    checks = default_checks()
    people = sum(len(side) for found in sides.values() for side in found)
    with progress("bench", people + len(FAULTS) * len(STRENGTHS) * config.cases) as ticker:

        def measured(store: Store, record: SubjectRecord) -> Measurement:
            ticker.advance(note=record.id)
            return measure(store.read(record).voxels, record.voxel_size, checks)

        known, unseen = ([[measured(store, r) for r in side] for store, side in zip(stores, sides[s], strict=True)] for s in sides)
        shape = stores[0].records[0].shape
        own = Reference.fit(known[0], checks, sizes[0], shape)
        both = Reference.fit([one for side in known for one in side], checks, sizes[0], shape) if config.other else own
        rows = [Row("people behind the bands", both.subjects, ""), _alarms("false alarms", both, [m for side in unseen for m in side])]
        if config.other:
            rows += [
                _alarms("false alarms, STORE", both, unseen[0]), _alarms("false alarms, other cohort", both, unseen[1]),
                _alarms("false alarms, STORE, bands of STORE alone", own, unseen[0]),
                _alarms("false alarms, other cohort, bands of STORE alone", own, unseen[1]),
            ]  # fmt: skip
        held = [(store, record) for store, side in zip(stores, sides["test"], strict=True) for record in side]
        cases = []
        for number, (name, fault, strength) in enumerate(
            (name, fault, strength) for name, fault in FAULTS.items() for strength in range(len(STRENGTHS)) for _ in range(config.cases)
        ):
            generator = np.random.default_rng((config.seed, number))
            store, record = held[number * 7 % len(held)]  # turns that visit both cohorts within a few cases
            axis = int(generator.choice(fault.axes))
            broken, places = plant(fault, store.read_unit(record), axis, strength, generator)
            entry = judge(record.id, measure(broken, record.voxel_size, checks), both)
            cases.append(_Case(name, strength, entry["verdict"] == "fail", _right_axis(entry, fault, axis), _right_place(entry, places)))
            ticker.advance(note=name)
    for name in FAULTS:
        for strength, word in enumerate(STRENGTHS):
            some = [case for case in cases if case.fault == name and case.strength == strength]
            rows.append(_share(f"{name}, {word}: caught", [case.caught for case in some]))
            rows.append(_share(f"{name}, {word}: found", [case.axis and case.place is not False for case in some]))
    for strength, word in enumerate(STRENGTHS):
        some = [case for case in cases if case.strength == strength]
        rows.append(_share(f"all, {word}: caught", [case.caught for case in some]))
        rows.append(_share(f"all, {word}: found", [case.axis and case.place is not False for case in some]))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: false alarms, then a line per fault with its sizes, and the percentages caught and found at each strength."""
    by_name = {row.name: row for row in rows}
    lines = ["| real volumes | fail | 95 % |", "|---|---|---|"]
    for row in rows:
        if row.name.startswith("false alarms") and row.interval:
            lines.append(f"| {row.name} | {100 * row.value:.1f} % | {100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f} % |")
    lines += ["", f"Caught / found of the planted faults in %; bands from {by_name['people behind the bands'].value:.0f} people.", ""]
    lines += ["| fault | weak, medium, strong | " + " | ".join(STRENGTHS) + " |", "|---|---|" + "---|" * len(STRENGTHS)]
    for name in (*FAULTS, "all"):
        sizes = f"{', '.join(f'{s:g}' for s in FAULTS[name].sizes)} {FAULTS[name].unit}" if name in FAULTS else ""
        cells = [f"{100 * by_name[f'{name}, {w}: caught'].value:.0f} / {100 * by_name[f'{name}, {w}: found'].value:.0f}" for w in STRENGTHS]
        lines.append(f"| {name} | {sizes} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _right_axis(entry: dict[str, Any], fault: Fault, axis: int) -> bool:
    findings = entry["findings"]
    if not fault.directed:
        return {finding["axis"] for finding in findings} == set(AXES)
    return bool(findings) and findings[0]["axis"] == AXES[axis]


def _right_place(entry: dict[str, Any], places: Slices | None) -> bool | None:
    """None for a fault that is everywhere."""
    if places is None:
        return None
    named = next((finding["slices"] for finding in entry["findings"] if finding["slices"]), None)
    return named is not None and places[0] - NEAR <= named[0] and named[1] <= places[1] + NEAR


def _alarms(name: str, reference: Reference, real: Sequence[Measurement]) -> Row:
    return _share(name, [judge("", one, reference)["verdict"] == "fail" for one in real])


def _share(name: str, outcomes: Sequence[bool]) -> Row:
    count, total = sum(outcomes), len(outcomes)
    low = float(stats.beta.ppf(0.025, count, total - count + 1)) if count else 0.0
    high = float(stats.beta.ppf(0.975, count + 1, total - count)) if count < total else 1.0
    return Row(name, count / total, "", interval=(low, high))
