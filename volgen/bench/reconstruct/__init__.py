"""Volumes from undersampled k-space: every guidance beside reconstructions without a network, on people the run has never seen.

Every row gets the same simulated measurement of each person: coils with a smooth phase, a Poisson disc in both phase encodes, and white
noise. Rows: zero-filled; compressed sensing with wavelets, whose weight is chosen on validation people; the Gaussian that the run was
fitted to, without its network; every guidance that looks at data, with the solver that its paper takes and as many evaluations as there
are steps, or with settings that `volgen tune` found; with `--supervised`, one network that was trained for one mask alone, on the people
that the run was trained on; and, with `--deepinv`, that package's own DPS and DiffPIR with the run's denoiser.
Figures are means over people inside the head. A stopped benchmark continues with the person and row that it was at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from volgen.bench._shared.guided import guided
from volgen.bench._shared.likeness import figures, truth_of, unit_of
from volgen.bench._shared.measured import MeasuredConfig
from volgen.bench._shared.record import Record
from volgen.bench._shared.scene import Scene, field_of, k_space, scene_of
from volgen.bench.reconstruct import rows as own
from volgen.bench.reconstruct import theirs
from volgen.bench.reconstruct.figure import draw
from volgen.bench.reconstruct.supervised import Supervised
from volgen.bench.reconstruct.wavelets import sparsest
from volgen.commands.bench.result import Row
from volgen.core.errors import UserError
from volgen.core.options import Option
from volgen.core.progress import progress
from volgen.data.store import Store
from volgen.evaluation import posterior
from volgen.images.intensity import to_model
from volgen.parallel.device import usable_device
from volgen.runs.choices import fewer, visited
from volgen.runs.coarser import in_voxels
from volgen.runs.settings import read_settings
from volgen.runs.simulated import SimulatedScans
from volgen.runs.trained import TrainedRun, open_run

WEIGHTS = tuple(10.0 ** (exponent / 2) for exponent in range(-8, -1))
"""Weights of wavelet coefficients that are tried, where 1 is the brightest intensity."""
FIGURES = {
    "sample PSNR": "dB", "sample SSIM": "", "PSNR": "dB", "SSIM": "", "coverage of 90 %": "", "chi-square": "", "CPU time": "s",
}  # fmt: skip
"""What is told of each row, with its unit: of one sample, of the estimate (the mean of the samples, or what the row gives), of the spread,
and the cost."""
FREE = {"run", "store", "folder", "people", "accelerations", "guidances", "settings", "supervised", "deepinv", "device"}
"""Options that may differ between two commands that fill one folder."""


class Config(MeasuredConfig):
    """Which run, whom it reconstructs, and from what."""

    folder: Path
    """Folder for the figures of each person, the table and the picture, new or to be continued."""
    split: Literal["validation", "test"] = "test"
    """Which people are reconstructed."""
    people: PositiveInt = 4
    """How many of them, from the first on."""
    accelerations: tuple[Annotated[float, Field(ge=1.0)], ...] = (4.0, 8.0)
    """How much less than all of k-space is measured."""
    samples: Annotated[int, Field(ge=2)] = 8
    """Volumes that are drawn by each row that draws."""
    guidances: tuple[str, ...] = ()
    """Guidances; all that look at data if none is named."""
    settings: Annotated[tuple[Path, ...], Option("FILE")] = ()
    """Files that volgen tune wrote, each for the guidance that it is about."""
    iterations: PositiveInt | None = None
    """Most conjugate gradients of a solution, where their number is no part of a method (default: as guidances have it)."""
    tuning: PositiveInt = 2
    """Validation people on whom the weight of compressed sensing is chosen."""
    supervised: NonNegativeInt = 0
    """Steps of training one network for the largest of the accelerations, on training people; it is shown on the others too (0: none)."""
    deepinv: bool = False
    """Whether deepinv's own DPS and DiffPIR take part; the package has to be installed."""


def run(config: Config) -> list[Row]:
    """Figures of every row at every acceleration, means over people.

    Raises:
        UserError: the run or the store is damaged, they do not fit each other, a guidance or a package is not there, or the folder
            holds other figures.
    """
    trained, device = in_voxels(open_run(config.run), config.voxel_size), usable_device(config.device)
    grid = visited(trained, fewer(trained, config.steps))
    tuned = _tuned(config.settings)
    more: Mapping[str, own.Method] = theirs.methods() if config.deepinv else {}
    scans = {factor: _scans(config, factor, config.split, config.people, trained.level) for factor in config.accelerations}
    told = config.model_dump(mode="json", exclude=FREE if trained.level else {*FREE, "voxel_size"})
    settings = {**told, "sigma_grid": list(grid), **field_of(trained)}
    inputs = {"run": trained.fingerprint, "store": next(iter(scans.values())).inputs["store"]}
    record = Record("reconstruct", config.folder, settings, inputs, config.seed)
    scene = scene_of(trained, grid, device, config.seed, config.samples)
    with record.claim():
        largest = max(config.accelerations)
        if config.supervised:
            seen = scene(scans[largest], "0001")
            row = f"U-Net trained for {largest:g}x, {config.supervised} steps"
            keep = record.beside(row, ".safetensors")
            more = {row: Supervised(seen, Store.open(config.store), trained.level, config.supervised, config.seed, keep), **more}
        methods = _methods(config, trained, tuned, more, scene(scans[config.accelerations[0]], "0001"))
        labels = next(iter(scans.values())).labels
        with progress("bench", len(labels) * len(scans) * len(methods)) as ticker:
            for label in labels:
                for factor, there in scans.items():
                    seen = scene(there, label)
                    for name, (method, identity) in methods.items():
                        if name == own.COMPRESSED:
                            chosen = partial(_weight, config, factor, scene, trained.level)
                            weight = record.kept(f"weight/{factor:g}x", {}, chosen)["weight"]
                            method, identity = partial(own.sparse, weight=weight), {"weight": weight}
                        record.kept(f"{label}/{factor:g}x/{name}", identity, partial(figures, method, seen))
                        ticker.advance(note=f"{name}, {factor:g}x")
        found = _rows(record, labels, list(scans), {name: identity for name, (_, identity) in methods.items()})
        picture = partial(draw, found, [f"{factor:g}x" for factor in scans], list(methods))
        record.finish(found, table(found), picture)
    return found


def table(rows: Sequence[Row]) -> str:
    """Markdown, one table for each acceleration."""
    by_name = {row.name: row.value for row in rows}
    people, count = (f"{by_name[name]:.0f}" for name in ("people", "samples"))
    lines = list[str]()
    for factor in dict.fromkeys(row.name.partition(" ")[0] for row in rows[2:]):
        lines += [
            "" if lines else f"{people} people; PSNR in dB and SSIM inside the head.", "",
            f"| {factor} | one sample: PSNR | SSIM | mean of {count}, or estimate: PSNR | SSIM | coverage of 90 % | chi-square | CPU s |",
            "|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        names = dict.fromkeys(row.name.partition(" ")[2].partition(": ")[0] for row in rows[2:] if row.name.startswith(f"{factor} "))
        for name in names:
            values = [by_name.get(f"{factor} {name}: {figure}") for figure in FIGURES]
            digits = (2, 3, 2, 3, 2, 2, 1)
            cells = ["" if value is None else f"{value:.{places}f}" for value, places in zip(values, digits, strict=True)]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines[1:] if not lines[0] else lines)


def _scans(config: Config, factor: float, split: str, people: int, level: int) -> SimulatedScans:
    operator = k_space(config.coils, config.phase, factor)
    return SimulatedScans(config.store, split, people, operator, config.noise, config.seed, level, "box")


def _tuned(files: Sequence[Path]) -> dict[str, Mapping[str, Mapping[str, Any]]]:
    """What was tuned, by the kind of guidance."""
    found = dict[str, Mapping[str, Mapping[str, Any]]]()
    for file in files:
        settings = read_settings(file)
        if settings.guidance is None:
            raise UserError(str(file), "says nothing of a guidance", "a file that volgen tune wrote")
        found[str(settings.guidance["kind"])] = {"guidance": settings.guidance, "sampler": settings.sampler or {}}
    return found


def _methods(
    config: Config, trained: TrainedRun, tuned: Mapping[str, Mapping[str, Any]], more: Mapping[str, own.Method], scene: Scene
) -> dict[str, tuple[own.Method, dict[str, Any]]]:
    """Rows by name, each with what decides its figures beside the benchmark's own settings."""
    methods: dict[str, tuple[own.Method, dict[str, Any]]] = {
        own.ZERO_FILLED: (own.zero_filled, {}), own.COMPRESSED: (own.zero_filled, {}), own.GAUSSIAN: (own.gaussian, {})
    }  # fmt: skip
    for kind in own.guidances(config.guidances, scene):
        method = guided(trained, kind, tuned.get(kind, {}), config.iterations)
        methods[f"{kind}, tuned" if kind in tuned else kind] = (method, method.identity)
    return {**methods, **{name: (method, {}) for name, method in more.items()}}


def _weight(config: Config, factor: float, scene: Callable[[SimulatedScans, str], Scene], level: int) -> dict[str, Any]:
    """The weight of wavelet coefficients that is best for validation people."""
    there = _scans(config, factor, "validation", config.tuning, level)
    scores = np.zeros(len(WEIGHTS))
    for label in there.labels:
        seen = scene(there, label)
        truth, mask = truth_of(seen)
        for place, weight in enumerate(WEIGHTS):
            found = sparsest(seen.measurement.operator, seen.of_intensities(), weight, seen.shape)
            scores[place] += posterior.psnr(unit_of(seen, to_model(found)[0])[mask], truth[mask]) / len(there.labels)
    return {"weight": WEIGHTS[int(scores.argmax())], "tried": dict(zip(map(str, WEIGHTS), scores.tolist(), strict=True))}


def _rows(record: Record, labels: Sequence[str], factors: Sequence[float], methods: Mapping[str, Any]) -> list[Row]:
    cells = {f"{factor:g}x {name}": [f"{label}/{factor:g}x/{name}" for label in labels] for factor in factors for name in methods}
    return [Row("people", len(labels), ""), Row("samples", float(record.settings["samples"]), ""), *record.means(cells, FIGURES)]
