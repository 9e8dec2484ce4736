"""What Song et al.'s lambda does: volumes between the prior and the data, from lambda 0 (nothing measured counts) to 1 (all of it).

Scans of people whom the run has never seen are measured (8 coils with a smooth phase, a Poisson disc, white noise; or the lower half of
the head), and drawn anew with each lambda by the guidance and solver of the paper; after the last step lambda is the same, so that the
residual shows what it does. For each lambda: likeness to the truth, also where nothing was measured, how much of the data is missed, and
what the slice report says of the volumes beside training people. A stopped benchmark continues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import Field, PositiveInt

from volgen.bench._shared.guided import guided
from volgen.bench._shared.likeness import figures, truth_of, unit_of
from volgen.bench._shared.measured import MeasuredConfig
from volgen.bench._shared.record import Record, mean_of
from volgen.bench._shared.scene import Made, Scene, field_of, k_space, scene_of
from volgen.commands.bench.result import Row
from volgen.core.errors import UserError
from volgen.core.progress import progress
from volgen.data.coarser import CoarserStore
from volgen.data.store import Store
from volgen.evaluation.measure import default_checks, measure
from volgen.evaluation.posterior import psnr
from volgen.evaluation.reference import Reference
from volgen.evaluation.verdict import judge
from volgen.operators.inpaint import Config as Inpaint
from volgen.parallel.device import usable_device
from volgen.runs.choices import fewer, visited
from volgen.runs.coarser import in_voxels
from volgen.runs.simulated import SimulatedScans
from volgen.runs.trained import TrainedRun, open_run

FIGURES = {
    "sample PSNR": "dB", "sample SSIM": "", "PSNR": "dB", "unknown PSNR": "dB", "coverage of 90 %": "", "residual": "noise", "score": "",
    "pass": "", "fail": "",
}  # fmt: skip
"""What is told of each lambda: of one sample, of the mean, of one sample in the part of the head of which nothing was measured; of the
spread; the residual of a number of the data in units of its noise; the share of the slice report's metrics inside their bands, and of
volumes that pass or fail."""
FREE = {"run", "store", "folder", "people", "strengths", "guidance", "device"}
"""Options that may differ between two commands that fill one folder."""
TELLS = 1e-6
"""Weight in A*A 1 below which nothing was measured of a voxel."""


class Config(MeasuredConfig):
    """Which run, whom it reconstructs, and with which lambdas."""

    folder: Path
    """Folder for the figures of each person, the table and the picture, new or to be continued."""
    strengths: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    """Lambdas that are tried, in ascending order."""
    guidance: tuple[Literal["song", "energy"], ...] = ("song",)
    """Whose lambda it is; of two, each has its lines."""
    sampler: str | None = None
    """Kind of solver (default: the one that their papers take); a consistency function (docs/students.md) wants renoise."""
    instrument: Literal["k-space", "half"] = "k-space"
    """What is measured: undersampled k-space, or the voxels of the lower half of the head."""
    split: Literal["validation", "test"] = "test"
    """Which people are reconstructed."""
    people: PositiveInt = 2
    """How many of them, from the first on."""
    acceleration: Annotated[float, Field(ge=1.0)] = 8.0
    """How much less than all of k-space is measured."""
    samples: Annotated[int, Field(ge=2)] = 4
    """Volumes that are drawn of each person with each lambda."""
    iterations: PositiveInt | None = None
    """Most conjugate gradients of a solution (default: as the guidance has it)."""


def run(config: Config) -> list[Row]:
    """Figures of every lambda, means over people and volumes.

    Raises:
        UserError: the run or the store is damaged, they do not fit each other, or the folder holds other figures.
    """
    if list(config.strengths) != sorted(set(config.strengths)):
        raise UserError("--strengths", " ".join(f"{one:g}" for one in config.strengths), "different numbers, ascending")
    trained, device = in_voxels(open_run(config.run), config.voxel_size), usable_device(config.device)
    grid = visited(trained, fewer(trained, config.steps))
    operator = k_space(config.coils, config.phase, config.acceleration) if config.instrument == "k-space" else Inpaint()
    scans = SimulatedScans(config.store, config.split, config.people, operator, config.noise, config.seed, trained.level, "box")
    settings = {**config.model_dump(mode="json", exclude=FREE), "sigma_grid": list(grid), **field_of(trained)}
    record = Record("strength", config.folder, settings, {"run": trained.fingerprint, **scans.inputs}, config.seed)
    at = scene_of(trained, grid, device, config.seed, config.samples)
    cells: list[tuple[str, float]] = [(kind, strength) for kind in dict.fromkeys(config.guidance) for strength in config.strengths]
    names = {cell: _named(*cell, several=len(set(config.guidance)) > 1) for cell in cells}
    solver = {"kind": config.sampler} if config.sampler else {}
    with record.claim(), progress("bench", len(scans.labels) * len(cells)) as ticker:
        judges = _Judges(trained, Store.open(config.store))
        for label in scans.labels:
            seen = at(scans, label)
            for kind, strength in cells:
                told: dict[str, dict[str, Any]] = {"guidance": {"strength": strength, "end": strength}, "sampler": solver}
                method = guided(trained, kind, told, config.iterations)
                record.kept(f"{label}/{kind}/{strength:g}", method.identity, partial(_figures, method, seen, judges))
                ticker.advance(note=names[kind, strength])
        found = [Row("people", len(scans.labels), ""), Row("samples", config.samples, "")]
        found += record.means({names[cell]: [f"{label}/{cell[0]}/{cell[1]:g}" for label in scans.labels] for cell in cells}, FIGURES)
        record.finish(found, table(found), partial(_draw, found, names))
    return found


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each lambda."""
    by_name = {row.name: row.value for row in rows}
    lines = [
        f"{by_name['people']:.0f} people, {by_name['samples']:.0f} volumes of each.", "",
        "| lambda | one sample: PSNR | SSIM | mean: PSNR | not measured: PSNR | coverage of 90 % | residual / noise | metrics in band"
        " | pass | fail |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name in dict.fromkeys(row.name.partition(": ")[0] for row in rows[2:]):
        values = [by_name.get(f"{name}: {figure}") for figure in FIGURES]
        cells = ["" if value is None else f"{value:.{2 if 'PSNR' in key else 3}f}" for key, value in zip(FIGURES, values, strict=True)]
        lines.append(f"| {name.removeprefix('lambda ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _named(kind: str, strength: float, *, several: bool) -> str:
    """What a line is called."""
    return f"{kind}, lambda {strength:g}" if several else f"lambda {strength:g}"


class _Judges:
    """The slice report's verdict beside training people, measured when the first volume is judged."""

    def __init__(self, trained: TrainedRun, store: Store) -> None:
        self._geometry = trained.geometry
        self._store = CoarserStore(store, 2**trained.level) if trained.level else store
        self._reference: Reference | None = None

    def __call__(self, name: str, scene: Scene, made: Made) -> Mapping[str, float]:
        if self._reference is None:
            records, checks = self._store.split("train"), default_checks()
            if not records:
                raise UserError(str(self._store.path), "has nobody in its train split", "people to compare with")
            measured = [measure(self._store.read(record).voxels, record.voxel_size, checks) for record in records]
            self._reference = Reference.fit(measured, checks, records[0].voxel_size, records[0].shape)
        size, reference = self._geometry.voxel_size, self._reference
        each = [judge(name, measure(unit_of(scene, one), size, reference.checks), reference) for one in made.samples]
        shares = {kind: float(np.mean([one["verdict"] == kind for one in each])) for kind in ("pass", "fail")}
        return {"score": float(np.mean([one["score"] for one in each])), **shares}


def _figures(method: Callable[[Scene], Made], scene: Scene, judges: _Judges) -> dict[str, Any]:
    made = method(scene)
    found = figures(lambda _: made, scene)
    seen = scene.head.seen
    missed = [seen.distance(sample[None].to(scene.device)) for sample in made.samples]
    residual = float(np.mean(missed)) / scene.measurement.noise if scene.measurement.noise else None
    return {**found, "residual": residual, "unknown PSNR": _where_unknown(made, scene), **judges("volume", scene, made)}


def _where_unknown(made: Made, scene: Scene) -> float | None:
    """PSNR of one sample in the voxels of the head of which nothing was measured, mean over samples; None if something was of all."""
    operator, geometry = scene.measurement.operator, scene.trained.geometry
    told = operator.adjoint(operator.apply(torch.ones(scene.shape, device=scene.device)))
    truth, mask = truth_of(scene)
    unknown = mask & (geometry.whole((told[0, 0].abs() < TELLS).float().cpu()).numpy() > 0)
    if not unknown.any():
        return None
    return mean_of([psnr(unit_of(scene, one)[unknown], truth[unknown]) for one in made.samples])


def _draw(rows: Sequence[Row], names: Mapping[tuple[str, float], str], path: Path) -> None:
    by_name = {row.name: row.value for row in rows}
    picture = Figure(figsize=(11.0, 3.2), layout="constrained")
    quality, realism, residual = picture.subplots(1, 3)
    known = {name.partition(": ")[2] for name in by_name}
    for number, kind in enumerate(dict.fromkeys(kind for kind, _ in names)):
        strengths = [strength for each, strength in names if each == kind]

        def curve(figure: str, kind: str = kind, strengths: Sequence[float] = strengths) -> list[float]:
            return [by_name.get(f"{names[kind, strength]}: {figure}", float("nan")) for strength in strengths]

        look, whose = {"color": f"C{number}"}, f"{kind}: "
        quality.plot(strengths, curve("sample PSNR"), "o-", label=f"{whose}one sample", **look)
        quality.plot(strengths, curve("PSNR"), "s--", label=f"{whose}mean of samples", **look)
        if "unknown PSNR" in known:
            quality.plot(strengths, curve("unknown PSNR"), "^:", label=f"{whose}one, where not measured", **look)
        realism.plot(strengths, curve("score"), "o-", label=f"{whose}metrics inside their bands", **look)
        realism.plot(strengths, curve("pass"), "s--", label=f"{whose}volumes that pass", **look)
        residual.semilogy(strengths, curve("residual"), "o-", label=kind, **look)
    quality.set(xlabel="lambda", ylabel="PSNR in the head (dB)", title="quality")
    realism.set(xlabel="lambda", ylabel="share", ylim=(-0.02, 1.02), title="realism: the slice report")
    residual.axhline(1.0, color="0.6", lw=0.8)
    residual.set(xlabel="lambda", ylabel="residual / noise", title="what of the data is missed")
    for panel in (quality, realism, residual):
        panel.legend(fontsize=7)
    picture.savefig(path, dpi=110)
