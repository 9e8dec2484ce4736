"""One run and one guidance for instruments of different kind: with the settings as they are, and with those that are best for each.

Eight measurements of people whom the run has never seen: k-space with two accelerations, partial Fourier, slices of two and of four voxels,
a fifth of the slices missing, a hole as large as a lesion, and shading. No setting changes from one to another; beside that, each has
settings that `volgen tune` found for it on a validation person, so that it shows what is lost by not tuning. A stopped benchmark continues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from matplotlib.figure import Figure
from pydantic import Field, PositiveInt

from volgen.bench._shared.guided import guided
from volgen.bench._shared.likeness import figures
from volgen.bench._shared.measured import MeasuredConfig
from volgen.bench._shared.record import Record
from volgen.bench._shared.scene import field_of, k_space, scene_of
from volgen.commands.bench.result import Row
from volgen.commands.tune.tune import tune
from volgen.core.config import validate
from volgen.core.progress import progress
from volgen.core.registry import config_class
from volgen.images.geometry import Geometry
from volgen.parallel.device import usable_device
from volgen.runs.choices import fewer, visited
from volgen.runs.coarser import in_voxels
from volgen.runs.settings import read_settings
from volgen.runs.simulated import SimulatedScans
from volgen.runs.trained import TrainedRun, open_run

FIGURES = {"sample PSNR": "dB", "PSNR": "dB", "SSIM": "", "coverage of 90 %": "", "chi-square": ""}
"""What is told of each instrument, as it is and tuned."""
HOLE_MM = 20.0
HOLE_AT = (0.3, 0.5, 0.6)
"""Where in what is drawn the middle of the hole is: in white matter of one side."""
FREE = {"run", "store", "folder", "people", "device"}
"""Options that may differ between two commands that fill one folder."""


class Config(MeasuredConfig):
    """Which run, whom it reconstructs, and how much is tuned."""

    folder: Path
    """Folder for the figures of each person, what was tuned, the table and the picture, new or to be continued."""
    guidance: str = "resample"
    """Kind of the guidance, with the solver that it goes with."""
    people: PositiveInt = 2
    """How many people of the test split, from the first on."""
    samples: Annotated[int, Field(ge=2)] = 4
    """Volumes that are drawn of each person."""
    trials: PositiveInt = 8
    """Settings that are tried for each instrument, on the first validation person."""
    iterations: PositiveInt | None = None
    """Most conjugate gradients of a solution (default: as the guidance has it)."""


def run(config: Config) -> list[Row]:
    """Figures of every instrument, means over people.

    Raises:
        UserError: the run or the store is damaged, they do not fit each other, the guidance cannot be had or has nothing to tune, or the
            folder holds other figures.
    """
    trained, device = in_voxels(open_run(config.run), config.voxel_size), usable_device(config.device)
    steps = fewer(trained, config.steps)
    grid = visited(trained, steps)
    instruments = instruments_of(trained.geometry, config.coils, config.phase)
    scans = {
        name: SimulatedScans(config.store, "test", config.people, operator, config.noise, config.seed, trained.level, "box")
        for name, operator in instruments.items()
    }
    first = next(iter(scans.values()))
    settings = {**config.model_dump(mode="json", exclude=FREE), "sigma_grid": list(grid), **field_of(trained)}
    record = Record("instruments", config.folder, settings, {"run": trained.fingerprint, **first.inputs}, config.seed)
    at = scene_of(trained, grid, device, config.seed, config.samples)
    with record.claim(), progress("bench", len(instruments) * len(first.labels)) as ticker:
        for name, there in scans.items():
            told = record.kept(
                f"tuned/{name}", {}, partial(_tuned, config, trained, steps, instruments[name], record.beside(f"tuned/{name}"))
            )
            for label in there.labels:
                seen = at(there, label)
                for how, changed in (("as it is", {}), ("tuned", told)):
                    method = guided(trained, config.guidance, changed, config.iterations)
                    record.kept(f"{label}/{name}/{how}", method.identity, partial(figures, method, seen))
                ticker.advance(note=name)
        found = [Row("people", len(first.labels), ""), Row("samples", config.samples, "")]
        ways = [(name, how) for name in instruments for how in ("as it is", "tuned")]
        found += record.means({f"{name}, {how}": [f"{label}/{name}/{how}" for label in first.labels] for name, how in ways}, FIGURES)
        record.finish(found, table(found), partial(_draw, found, list(instruments)))
    return found


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each instrument."""
    by_name = {row.name: row.value for row in rows}
    lines = [
        f"{by_name['people']:.0f} people, {by_name['samples']:.0f} volumes of each; inside the head.", "",
        "| measured | one sample: PSNR, as it is | tuned | mean: PSNR, as it is | tuned | lost | coverage of 90 %, as it is | tuned |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name in dict.fromkeys(row.name.rpartition(", ")[0] for row in rows[2:]):
        one, mean, covered = (
            [by_name.get(f"{name}, {how}: {figure}", float("nan")) for how in ("as it is", "tuned")]
            for figure in ("sample PSNR", "PSNR", "coverage of 90 %")
        )
        lines.append(
            f"| {name} | {one[0]:.2f} | {one[1]:.2f} | {mean[0]:.2f} | {mean[1]:.2f} | {mean[1] - mean[0]:.2f} | {covered[0]:.2f} "
            f"| {covered[1]:.2f} |"
        )
    return "\n".join(lines)


def instruments_of(geometry: Geometry, coils: int, phase: float) -> dict[str, Any]:
    """Configurations of operators by name, for volumes of a run."""
    edges = [max(1, round(HOLE_MM / size)) for size in geometry.voxel_size]
    start = [round(share * size - edge / 2) for share, size, edge in zip(HOLE_AT, geometry.grid, edges, strict=True)]
    partial_fourier = {"kind": "cartesian", "coils": coils, "phase": phase, "mask": {"kind": "partial", "share": 0.75}}
    others: dict[str, dict[str, Any]] = {
        "partial Fourier 6/8": partial_fourier,
        "slices of 2 voxels": {"kind": "slices", "thickness": 2.0},
        "slices of 4 voxels": {"kind": "slices", "thickness": 4.0},
        "a fifth of the slices missing": {"kind": "inpaint", "share": 0.8, "scattered": True},
        f"a hole of {HOLE_MM:g} mm": {"kind": "inpaint", "hole": {"start": start, "size": edges}},
        "shading": {"kind": "bias"},
    }
    return {
        "k-space 4x": k_space(coils, phase, 4.0),
        "k-space 8x": k_space(coils, phase, 8.0),
        **{name: validate(config_class("volgen.operators", one["kind"]), one, name) for name, one in others.items()},
    }


def _tuned(config: Config, trained: TrainedRun, steps: int | None, operator: Any, folder: Path) -> dict[str, Any]:
    """What is best for an instrument, on a validation person."""
    guidance = guided(trained, config.guidance, {}, config.iterations).guidance.model_dump(mode="json")
    best = tune(
        config.run, folder, simulate=config.store, guidance=guidance, operator=operator.model_dump(mode="json"), trials=config.trials,
        people=1, count=config.samples, steps=steps, voxel_size=config.voxel_size, field="box", noise=config.noise, seed=config.seed,
        device=config.device,
    )  # fmt: skip
    found = read_settings(best)
    return {"guidance": found.guidance, "sampler": found.sampler}


def _draw(rows: Sequence[Row], instruments: Sequence[str], path: Path) -> None:
    by_name: Mapping[str, float] = {row.name: row.value for row in rows}
    picture = Figure(figsize=(8.0, 0.3 * len(instruments) + 1.2), layout="constrained")
    likeness, spread = picture.subplots(1, 2, sharey=True)
    for how, mark in (("as it is", "o"), ("tuned", "x")):
        for axis, figure in ((likeness, "PSNR"), (spread, "coverage of 90 %")):
            values = [by_name.get(f"{name}, {how}: {figure}", float("nan")) for name in instruments]
            axis.plot(values, range(len(instruments)), mark, label=how)
    likeness.set(yticks=range(len(instruments)), yticklabels=instruments, xlabel="PSNR of the mean in the head (dB)")
    likeness.invert_yaxis()
    likeness.legend(fontsize=7)
    spread.axvspan(0.87, 0.93, color="0.9", zorder=0)
    spread.set(xlabel="coverage of intervals of 90 %", xlim=(0.0, 1.0))
    picture.savefig(path, dpi=110)
