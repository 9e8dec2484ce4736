"""Denoising error of finished runs at each noise level, on people they have not seen: which bank is better, and where.

Every run denoises the same volumes under the same noise at the points of its grid. Errors are weighted as in training (1 is what the
preconditioner's own variance predicts) and compared with the preconditioner alone, an untrained network whose output is 0. Whether a bank
really beats the first run is a matter of people: the difference of the mean errors comes with an interval from resampling them, each
with all of its scans and noise (a paired bootstrap). The tables in docs/experts.md come from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from volgen.bench._shared.bootstrap import interval
from volgen.bench._shared.denoising import Errors, errors_of, names_of, read
from volgen.commands.bench.result import Row, row
from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.manifest import NAME as MANIFEST
from volgen.core.options import Positional
from volgen.core.progress import progress, say
from volgen.core.protocols import Denoiser
from volgen.data.record import Split
from volgen.data.store import Store
from volgen.models.denoiser import PreconditionedDenoiser
from volgen.parallel.device import usable_device
from volgen.runs.trained import TrainedRun, open_run

BASELINE = "preconditioner alone"


class Config(BaseConfig):
    """Which runs, and on whom."""

    runs: Annotated[tuple[Path, ...], Positional("RUN")]
    """Finished runs of one noise grid and shape; the others are compared with the first."""
    store: Path
    """Store of the people, best the one that the runs were trained from."""
    split: Split = "test"
    """Whose scans: train, validation or test."""
    volumes: PositiveInt = 8
    """Scans of the split, from its beginning; as many as there are, if it has fewer."""
    batch_size: PositiveInt = 1
    """Volumes denoised together."""
    seed: NonNegativeInt = 0
    """Seed of the noise and of the resampling."""
    device: str | None = None
    """Torch device (default: a GPU if there is one)."""


def run(config: Config) -> list[Row]:
    """Errors of the preconditioner alone and of each run: mean over the grid, and at each of its points.

    Raises:
        UserError: a run or the store is damaged or unfinished, or they do not fit each other.
    """
    device = usable_device(config.device)
    store = Store.open(config.store)
    runs = [open_run(directory) for directory in config.runs]
    names = names_of(config.runs)
    held = read(config, store, runs)
    steps = [manifest["steps"] for manifest in _manifests(store, runs, names)]
    first = runs[0].preconditioner(device)
    grid = sorted(runs[0].ensemble.grid, reverse=True)
    with progress("bench", (len(runs) + 1) * len(grid)) as ticker:

        def measure(denoise: Denoiser) -> Errors:
            return errors_of(denoise, first, held.volumes, grid, config, device, ticker.advance)

        baseline = measure(PreconditionedDenoiser(lambda inputs, _: torch.zeros_like(inputs[:, :1]), first))
        errors = []
        for trained in runs:
            with trained.bank(trained.preconditioner(device), device, grid) as bank:
                errors.append(measure(bank))
    rows = alone = _rows(BASELINE, baseline, grid)
    for name, count, found in zip(names, steps, errors, strict=True):
        rows = [*rows, Row(f"{name} steps", count, ""), *_rows(name, found, grid, alone)]
        if found is not errors[0]:
            rows += _differences(f"{name} minus {names[0]}", found - errors[0], held.person, grid, config.seed)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: mean error of each bank, its difference from the first, and errors relative to the preconditioner alone at each level."""
    by_name = {one.name: one for one in rows}
    levels = [one.name.removeprefix(BASELINE) for one in rows if one.name.startswith(f"{BASELINE} sigma")]
    names = [one.name.removesuffix(" steps") for one in rows if one.name.endswith(" steps")]
    header = ["bank", "steps", "mean error", f"minus {names[0]} [95 %]", *(level.strip() for level in levels)]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    lines.append(f"| {BASELINE} | | {by_name[f'{BASELINE} mean'].value:.4f} | |" + " 1 |" * len(levels))
    for name in names:
        difference = by_name.get(f"{name} minus {names[0]} mean")
        shown = ""
        if difference is not None and difference.interval is not None:
            shown = f"{difference.value:+.4f} [{difference.interval[0]:+.4f}, {difference.interval[1]:+.4f}]"
        ratios = [by_name[f"{name}{level}"].ratio_to[f"{BASELINE}{level}"] for level in levels]
        cells = [name, f"{by_name[f'{name} steps'].value:g}", f"{by_name[f'{name} mean'].value:.4f}", shown, *(f"{r:.3f}" for r in ratios)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _manifests(store: Store, runs: Sequence[TrainedRun], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """What each run says of itself, after a look at whether the runs can be compared on these people."""
    manifests = []
    for trained, name in zip(runs, names, strict=True):
        if trained.ensemble.grid != runs[0].ensemble.grid:
            raise UserError(str(trained.directory), f"has other noise levels than {names[0]}", "runs of one schedule")
        manifest = trained.provenance
        if manifest is None or not isinstance(manifest.get("steps"), int):
            raise UserError(str(trained.directory / MANIFEST), "does not say how long the run was trained", "the manifest of a trained run")
        if trained.cohort != store.fingerprint:
            say(f"{name} was trained from another cohort than {store.path}: whether it has seen these people is not known.")
        manifests.append(manifest)
    return manifests


def _rows(name: str, errors: Errors, grid: Sequence[float], others: Sequence[Row] = ()) -> list[Row]:
    values = {"mean": errors.mean(), **{f"sigma {sigma:.4g}": errors[:, column].mean() for column, sigma in enumerate(grid)}}
    compared = {other.name.removeprefix(f"{BASELINE} "): other for other in others}
    return [
        row(f"{name} {what}", float(value), "weighted squared error", *([compared[what]] if compared else []))
        for what, value in values.items()
    ]


def _differences(name: str, difference: Errors, person: NDArray[np.int64], grid: Sequence[float], seed: int) -> list[Row]:
    """Mean difference [volumes, grid] over people, with intervals; a person with several scans counts once."""
    by_person = np.stack([difference[person == number].mean(axis=0) for number in range(person.max() + 1)])
    columns = {"mean": by_person.mean(axis=1), **{f"sigma {sigma:.4g}": by_person[:, column] for column, sigma in enumerate(grid)}}
    return [
        Row(f"{name} {what}", float(values.mean()), "weighted squared error", interval=interval(values, seed))
        for what, values in columns.items()
    ]
