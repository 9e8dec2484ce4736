"""Faults planted in real volumes: how many the slice report catches, along the right axis and at the right slice, and its false alarms.

Bands come from the train split of a store; false alarms are counted on its test split, and again with everyone judged in turn by bands of
others (5 groups, drawn), because a few test people say little. Faults are planted in people of the test split, the axis, the place and the
signs drawn for each case. With ``--other`` there are five more settings: the other cohort's bands on its own people, bands of each on those
of the other (all of whom are unseen and are counted), and of both together on those of both. A fault is *caught* if the volume does not
pass; on the other cohort, where an honest scan is ``other``, only if it fails. It is *found* if besides the first finding names its
axis (blur along all axes: all three), and, for a fault of a few slices, the first finding that names slices names those, give or take one.
The tables in docs/report.md come from here: ``volgen bench faults STORE --other STORE2 --cases 12 --out FILE.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import NonNegativeInt, PositiveInt
from scipy import stats

from volgen.bench.faults.damage import FAULTS, STRENGTHS, Fault, Slices, plant
from volgen.commands.bench.result import Row
from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.options import Positional
from volgen.core.progress import progress
from volgen.core.protocols import AXES
from volgen.data.record import Split, SubjectRecord
from volgen.data.store import Store
from volgen.evaluation.measure import Measures, default_checks, measure
from volgen.evaluation.reference import Reference
from volgen.evaluation.verdict import judge

NEAR = 1  # slices that a place may be off
GROUPS = 5


class Config(BaseConfig):
    """Which people, and how many cases."""

    store: Annotated[Path, Positional("STORE")]
    """Finished store of real scans on one grid, with train and test people."""
    other: Path | None = None
    """Store of another cohort with the same voxel size."""
    cases: PositiveInt = 16
    """Volumes for each fault, strength and cohort; test people take turns."""
    seed: NonNegativeInt = 0
    """Seed of the axes, places and signs."""


@dataclass(frozen=True)
class _Case:
    fault: str
    strength: int
    cohort: int
    axis: int
    places: Slices | None
    measured: Measures


@dataclass(frozen=True)
class _Setting:
    """Bands of cohorts, and the one that they are tried on; ``own`` if the bands know its acquisition."""

    name: str
    bands: Reference
    of: tuple[int, ...]
    cohort: int

    @property
    def own(self) -> bool:
        return self.cohort in self.of


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
    with progress("bench", people + len(FAULTS) * len(STRENGTHS) * config.cases * len(stores)) as ticker:

        def measured(store: Store, record: SubjectRecord) -> Measures:
            ticker.advance(note=record.id)
            return measure(store.read(record).voxels, record.voxel_size, checks)

        known, unseen = ([[measured(store, r) for r in side] for store, side in zip(stores, sides[s], strict=True)] for s in sides)
        cases = []
        for number, (name, strength, cohort) in enumerate(
            (name, strength, cohort)
            for name in FAULTS for strength in range(len(STRENGTHS)) for _ in range(config.cases) for cohort in range(len(stores))
        ):  # fmt: skip
            generator = np.random.default_rng((config.seed, number))
            held = sides["test"][cohort]
            record = held[number // len(stores) * 7 % len(held)]
            axis = int(generator.choice(FAULTS[name].axes))
            broken, places = plant(FAULTS[name], stores[cohort].read_unit(record), axis, strength, generator)
            cases.append(_Case(name, strength, cohort, axis, places, measure(broken, record.voxel_size, checks)))
            ticker.advance(note=name)
    shape = stores[0].records[0].shape

    def fit(some: Sequence[Measures]) -> Reference:
        return Reference.fit(some, checks, sizes[0], shape)

    bands = [fit(side) for side in known]
    settings = [_Setting("STORE on STORE", bands[0], (0,), 0)]
    if config.other:
        both = fit([one for side in known for one in side])
        settings += [
            _Setting("other on other", bands[1], (1,), 1), _Setting("STORE on other", bands[0], (0,), 1),
            _Setting("other on STORE", bands[1], (1,), 0), _Setting("both on STORE", both, (0, 1), 0),
            _Setting("both on other", both, (0, 1), 1),
        ]  # fmt: skip
    rows = [row for setting in settings for row in _rows(setting, known, unseen, cases)]
    everyone = [[*first, *second] for first, second in zip(known, unseen, strict=True)]
    for setting in settings:
        if setting.own:
            verdicts = _in_turn([everyone[cohort] for cohort in setting.of], setting.of.index(setting.cohort), config.seed, fit)
            rows.append(_share(f"{setting.name}: real, everyone in turn, fail", [verdict == "fail" for verdict in verdicts]))
    return rows


def _in_turn(cohorts: Sequence[Sequence[Measures]], judged: int, seed: int, fit: Callable[[Sequence[Measures]], Reference]) -> list[str]:
    """Verdicts of all people of one cohort, each by bands of the other groups of all cohorts."""
    group = [np.random.default_rng((seed, i)).permutation(np.arange(len(cohort)) % GROUPS) for i, cohort in enumerate(cohorts)]
    verdicts = []
    for out in range(GROUPS):
        bands = fit([one for cohort, of in zip(cohorts, group, strict=True) for one, g in zip(cohort, of, strict=True) if g != out])
        verdicts += [judge("", one, bands)["verdict"] for one, g in zip(cohorts[judged], group[judged], strict=True) if g == out]
    return verdicts


def _rows(
    setting: _Setting, known: Sequence[Sequence[Measures]], unseen: Sequence[Sequence[Measures]], cases: Sequence[_Case]
) -> Iterator[Row]:
    people = [*unseen[setting.cohort], *([] if setting.own else known[setting.cohort])]
    real = [judge("", one, setting.bands)["verdict"] for one in people]
    yield Row(f"{setting.name}: people behind the bands", setting.bands.subjects, "")
    yield _share(f"{setting.name}: real, fail", [verdict == "fail" for verdict in real])
    yield _share(f"{setting.name}: real, other", [verdict == "other" for verdict in real])
    outcomes: dict[tuple[str, int], list[tuple[bool, bool]]] = {}
    for case in cases:
        if case.cohort == setting.cohort:
            entry = judge("", case.measured, setting.bands)
            caught = entry["verdict"] == "fail" or (setting.own and entry["verdict"] == "other")
            found = caught and _right_axis(entry, FAULTS[case.fault], case.axis) and _right_place(entry, case.places) is not False
            outcomes.setdefault((case.fault, case.strength), []).append((caught, found))
    for name in (*FAULTS, "all"):
        for strength, word in enumerate(STRENGTHS):
            some = [pair for (fault, size), pairs in outcomes.items() if size == strength and name in (fault, "all") for pair in pairs]
            yield _share(f"{setting.name}: {name}, {word}: caught", [caught for caught, _ in some])
            yield _share(f"{setting.name}: {name}, {word}: found", [found for _, found in some])


def table(rows: Sequence[Row]) -> str:
    """Markdown: false alarms of each setting, then for each a line per fault: percentages caught and found at each strength."""
    by_name = {row.name: row for row in rows}
    settings = [row.name.partition(":")[0] for row in rows if row.name.endswith("people behind the bands")]
    lines = [
        "| bands on people of | people behind the bands | real: fail | real: other | everyone in turn: fail |",
        "|---|---|---|---|---|",
    ]
    for setting in settings:
        found = [by_name.get(f"{setting}: real, {level}") for level in ("fail", "other", "everyone in turn, fail")]
        cells = [_percent(row) if row else "" for row in found]
        lines.append(f"| {setting} | {by_name[f'{setting}: people behind the bands'].value:.0f} | " + " | ".join(cells) + " |")
    for setting in settings:
        lines += ["", f"{setting}: caught / found, %", ""]
        lines += ["| fault | weak, medium, strong | " + " | ".join(STRENGTHS) + " |", "|---|---|" + "---|" * len(STRENGTHS)]
        for name in (*FAULTS, "all"):
            sizes = f"{', '.join(f'{s:g}' for s in FAULTS[name].sizes)} {FAULTS[name].unit}" if name in FAULTS else ""
            shares = ([100 * by_name[f"{setting}: {name}, {w}: {what}"].value for what in ("caught", "found")] for w in STRENGTHS)
            lines.append(f"| {name} | {sizes} | " + " | ".join(f"{caught:.0f} / {right:.0f}" for caught, right in shares) + " |")
    return "\n".join(lines)


def _percent(row: Row) -> str:
    low, high = row.interval or (0.0, 1.0)
    return f"{100 * row.value:.1f} % ({100 * low:.0f} to {100 * high:.0f})"


def _right_axis(entry: dict[str, Any], fault: Fault, axis: int) -> bool:
    findings = [finding for finding in entry["findings"] if not finding["whole"]]
    if not fault.directed:
        return {finding["axis"] for finding in findings} == set(AXES)
    return bool(findings) and findings[0]["axis"] == AXES[axis]


def _right_place(entry: dict[str, Any], places: Slices | None) -> bool | None:
    """None for a fault that is everywhere."""
    if places is None:
        return None
    named = next((finding["slices"] for finding in entry["findings"] if finding["slices"]), None)
    return named is not None and places[0] - NEAR <= named[0] and named[1] <= places[1] + NEAR


def _share(name: str, outcomes: Sequence[bool]) -> Row:
    count, total = sum(outcomes), len(outcomes)
    low = float(stats.beta.ppf(0.025, count, total - count + 1)) if count else 0.0
    high = float(stats.beta.ppf(0.975, count + 1, total - count)) if count < total else 1.0
    return Row(name, count / total, "", interval=(low, high))
