"""How far other acquisitions move each metric of the slice report: what bands have to forgive scans of another scanner.

Scans of training people are resampled, sharpened, blurred, shaded, made noisy, of thicker slices, another contrast, or stripped
closer, as no fault would.
A metric's ``transfer`` (``volgen/evaluation/check.py``) is about twice the largest median move over all acquisitions and axes:
``volgen bench acquisitions STORE --out FILE.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import PositiveInt

from volgen.bench.acquisitions.simulate import ACQUISITIONS
from volgen.commands.bench.result import Row
from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.options import Positional
from volgen.core.progress import progress
from volgen.data.store import Store
from volgen.evaluation.bands import scaled
from volgen.evaluation.measure import default_checks, measure
from volgen.evaluation.reference import Reference


class Config(BaseConfig):
    """Which people are acquired anew."""

    store: Annotated[Path, Positional("STORE")]
    """Finished store of real scans on one grid; its training people are used."""
    people: PositiveInt = 8
    """How many of them are acquired anew."""


def run(config: Config) -> list[Row]:
    """The largest median move of each metric that another acquisition may move only so far, on the metric's own scale.

    Raises:
        UserError: no such store, or one with fewer than 3 training people.
    """
    store = Store.open(config.store)
    records = store.split("train")
    if not records:
        raise UserError(str(store.path), "has nobody in its train split", "people")
    checks = default_checks()
    chosen = records[:: max(len(records) // config.people, 1)][: config.people]
    with progress("bench", len(records) + len(chosen) * len(ACQUISITIONS)) as ticker:
        known = []
        for record in records:
            known.append(measure(store.read(record).voxels, record.voxel_size, checks))
            ticker.advance(note=record.id)
        reference = Reference.fit(known, checks, records[0].voxel_size, records[0].shape)
        moves: dict[str, list[list[np.ndarray]]] = {metric.name: [[] for _ in ACQUISITIONS] for _, metric in reference.metrics}
        for record in chosen:
            unit = store.read_unit(record)
            before = reference.values(measure(unit, record.voxel_size, checks))
            for index, acquire in enumerate(ACQUISITIONS.values()):
                after = reference.values(measure(acquire(unit), record.voxel_size, checks))
                for _, metric in reference.metrics:
                    pair = (scaled(np.array(values[metric.name]), metric) for values in (after, before))
                    moves[metric.name][index].append(np.subtract(*pair))
                ticker.advance(note=record.id)
    rows = [Row("people", len(chosen), "")]
    for _, metric in reference.metrics:
        # A volume that is too small to be measured once acquired anew says nothing.
        measured = ([move for move in one if np.isfinite(move).all()] for one in moves[metric.name])
        largest = max((float(np.abs(np.median(some, axis=0)).max()) for some in measured if some), default=0.0)
        rows.append(Row(metric.name, largest, "log" if metric.scale == "log" else "sd" if metric.placed else ""))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: each metric's largest move, and what is forgiven."""
    transfer = {metric.name: metric for check in default_checks() for metric in check.metrics}
    lines = ["| metric | largest median move | forgiven beyond its band |", "|---|---|---|"]
    for row in rows[1:]:
        metric = transfer[row.name]
        forgiven = "anything" if metric.transfer is None else f"{metric.transfer:g}"
        lines.append(f"| {row.name} | {row.value:.3g} {row.unit} | {forgiven} |")
    return "\n".join(lines)
