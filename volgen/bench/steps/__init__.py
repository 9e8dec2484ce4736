"""Quality of the volumes of one bank against the number of steps, for every sampler: how few steps lose nothing.

Every setting draws the same samples of the same seed. A setting is worse than the reference, which takes the most evaluations of a
network, if the 95 % interval of the difference of their Frechet distances (paired bootstrap over the volumes) lies above 0, or if its
fine detail is further from that of real people by more than chance. The table in docs/sampling.md comes from here. Students are compared
in the same way with what takes as many evaluations as they, and with what they would draw untrained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from volgen.bench._shared.bootstrap import interval
from volgen.bench.steps.features import Numbers, Yardstick, detail
from volgen.bench.steps.figure import draw
from volgen.commands.bench.result import Row
from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.options import Positional
from volgen.core.progress import progress
from volgen.core.protocols import Problem
from volgen.core.registry import config_class, kinds
from volgen.data.store import Store
from volgen.evaluation.measure import robust_unit
from volgen.models.haar import means
from volgen.parallel.device import usable_device
from volgen.runs.choices import visited
from volgen.runs.trained import TrainedRun, open_run
from volgen.sampling import descent

SAMPLERS = "volgen.sampling.samplers"
FEWEST = 8
SAME = " same as reference"
KINDS = ("distance", "minus reference", "detail", "detail minus reference", "evaluations", "seconds")
UNTRAINED = "untrained student"
AGAINST = " against "
FURTHER = " further from people"


class Config(BaseConfig):
    """Which run, and how it is sampled."""

    run: Annotated[Path, Positional("RUN")]
    """A finished run that draws whole volumes."""
    store: Path
    """The store that it was trained from."""
    steps: tuple[PositiveInt, ...] = (4, 8, 16)
    """Numbers of steps; 16 is all that the recipes at 4 mm have. One is what the denoiser expects at the highest noise level."""
    samplers: tuple[str, ...] = ()
    """Kinds of sampler; all of them if none is named."""
    students: tuple[Path, ...] = ()
    """Finished runs that were distilled from it, each in its own steps; beside them what they would draw untrained."""
    count: int = Field(default=64, ge=FEWEST)
    """Volumes drawn with each setting."""
    seed: NonNegativeInt = 0
    """Seed of the volumes and of the resampling."""
    device: str | None = None
    """Torch device (default: a GPU if there is one)."""
    figure: Path | None = None
    """File for a picture, .png or .svg (default: none)."""


@dataclass(frozen=True)
class _Setting:
    """One sampler with some steps, and what it made.

    Attributes:
        name: what sampler and steps are called together.
        evaluations: how often a network is asked for one volume.
        features: [volumes, features] in each feature space.
        detail: [volumes], high-frequency energy over that of real people.
        seconds: processor time of one volume; loading of experts is part of it.
        coarse: [volumes, cubes], means over cubes of 2 x 2 x 2 voxels.
    """

    name: str
    evaluations: int
    features: Sequence[Numbers]
    detail: Numbers
    coarse: Numbers
    seconds: float

    @property
    def further(self) -> Numbers:
        """[volumes], how far fine detail is from that of real people, to either side."""
        return np.abs(self.detail - 1.0)


def run(config: Config) -> list[Row]:
    """Distances, details and evaluations of every setting, and their differences from the setting with most evaluations.

    Raises:
        UserError: the run or the store is damaged, or they do not fit each other; unknown samplers or numbers of steps.
    """
    trained, store = open_run(config.run), Store.open(config.store)
    names = config.samplers or tuple(kinds(SAMPLERS))
    strange = [name for name in names if name not in kinds(SAMPLERS)]
    if strange:
        raise UserError("--samplers", f"there is no sampler '{strange[0]}'", f"some of {', '.join(kinds(SAMPLERS))}")
    if trained.recipe.assembly.piecewise:
        raise UserError(str(config.run), f"draws volumes in pieces ('{trained.recipe.assembly.kind}')", "a run that draws whole volumes")
    if config.figure is not None and config.figure.suffix not in (".png", ".svg"):
        raise UserError("--figure", config.figure.name, "a name that ends in .png or .svg")
    students = [_student(path, trained) for path in config.students]
    grids = [_grid(trained, steps) for steps in config.steps]
    yardstick = _yardstick(store, trained, config.count)
    total = len(names) * sum(map(len, grids)) + sum(len(visited(student, None)) for student in students)
    with progress("bench", total * config.count) as ticker:
        settings = [_measure(trained, yardstick, name, grid, config, ticker.advance) for name in names for grid in grids]
        settings += [_measure(one, yardstick, "", visited(one, None), config, ticker.advance) for one in students]
    if students:
        settings.append(_untrained(students[0], yardstick, config))
    names_of_students = [_named(one) for one in students]
    resampled = {one.name: yardstick.resampled(one.features, config.seed) for one in settings}
    rows = _rows(settings, yardstick, resampled, config.seed, names_of_students)
    rows += _against(settings, yardstick, resampled, config.seed, names_of_students)
    if config.figure is not None:
        draw(rows, config.figure)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line per setting."""
    by_name = {one.name: one for one in rows}
    settings = [one.name.removesuffix(" distance") for one in rows if one.name.endswith(" distance") and one.ratio_to]
    floor = by_name["real people"]
    students = {one.name.removesuffix(SAME): one.value for one in rows if one.name.endswith(SAME)}
    lines = [
        "| sampler, steps | evaluations | CPU s | Frechet distance | minus the reference [95 %]"
        + " | fine detail | minus the reference [95 %] |"
        + " same seed, same brain |" * bool(students),
        "|---|---|---|---|---|---|---|" + "---|" * bool(students),
        f"| real people among themselves | | | {floor.value:.0f} | | 1 | |" + " |" * bool(students),
    ]
    for name in settings:
        distance, minus, fine, fine_minus, evaluations, seconds = (by_name[f"{name} {kind}"] for kind in KINDS)
        lines.append(
            f"| {name} | {evaluations.value:g} | {seconds.value:.2g} | {distance.value:.0f} ± {_half(distance):.0f} | {_signed(minus, 1)} |"
            f" {fine.value:.3f} | {_signed(fine_minus, 3)} |" + (f" {students[name]:.3f} |" if name in students else " |" * bool(students))
        )
    pairs = [one for one in rows if AGAINST in one.name and not one.name.endswith(FURTHER)]
    if pairs:
        head = "| student | against | Frechet distance [95 %] | how far fine detail is from that of people [95 %] |"
        lines += ["", head, "|---|---|---|---|"]
        for one in pairs:
            student, rival = one.name.split(AGAINST)
            lines.append(f"| {student} | {rival} | {_signed(one, 1)} | {_signed(by_name[one.name + FURTHER], 3)} |")
    return "\n".join(lines)


def _grid(trained: TrainedRun, steps: int) -> list[float]:
    """The noise levels of a descent of some steps; a single one is no descent of the run, and begins at the highest level."""
    return [trained.ensemble.grid[0]] if steps == 1 else visited(trained, steps)


def _yardstick(store: Store, trained: TrainedRun, count: int) -> Yardstick:
    groups: dict[bool, list[Any]] = {True: [], False: []}
    for split in ("train", "validation", "test"):
        for record in store.split(split):
            if record.shape != trained.geometry.shape:
                found = f"scan '{record.id}' has shape {list(record.shape)}"
                raise UserError(str(store.path), found, f"{list(trained.geometry.shape)}, that of the run")
            groups[split == "train"].append(robust_unit(store.read_unit(record)))
    if min(map(len, groups.values())) < FEWEST:
        found = f"{len(groups[True])} people to train on and {len(groups[False])} others"
        raise UserError(str(store.path), found, f"at least {FEWEST} of each")
    return Yardstick.fit(groups[True], groups[False], count)


def _measure(
    trained: TrainedRun, yardstick: Yardstick, name: str, grid: Sequence[float], config: Config, done: Callable[[], None]
) -> _Setting:
    device = usable_device(config.device)
    chosen: Any = config_class(SAMPLERS, name)() if name else trained.recipe.sampler
    solver = chosen.build()
    trained.recipe.build().fits(solver, grid)
    preconditioner, begun = trained.preconditioner(device), time.process_time()
    with trained.bank(preconditioner, device, grid) as bank:
        volumes = descent.sample(
            bank, solver, descent.down(grid), seed=config.seed, indices=range(config.count), shape=(1, *trained.geometry.grid),
            device=device, problem=Problem(preconditioner.prior), done=lambda count, note: done(),
        )  # fmt: skip
    title = f"{name}, {len(grid)} steps" if name else _named(trained)
    seconds = (time.process_time() - begun) / config.count
    return _judged(title, sum(descent.evaluations(solver, len(grid))), seconds, volumes, trained, yardstick)


def _untrained(student: TrainedRun, yardstick: Yardstick, config: Config) -> _Setting:
    """What a student would draw whose network says nothing: the flow of the Gaussian from the noise, in any number of jumps."""
    preconditioner, grid = student.preconditioner(torch.device("cpu")), student.ensemble.grid
    assert preconditioner.flow_map is not None, "a student has something to jump along"
    volumes, begun = [], time.process_time()
    for index in range(config.count):
        x = preconditioner.prior(descent.white((1, *student.geometry.grid), config.seed, "start", index)[None], grid[0])
        volumes.append(preconditioner.flow_map(x, torch.tensor([grid[0]]), torch.zeros(1))[0])
    return _judged(UNTRAINED, 1, (time.process_time() - begun) / config.count, volumes, student, yardstick)


def _judged(
    title: str, evaluations: int, seconds: float, volumes: Sequence[Tensor], trained: TrainedRun, yardstick: Yardstick
) -> _Setting:  # fmt: skip
    units = [robust_unit(trained.geometry.whole(volume[0]).numpy()) for volume in volumes]
    details = np.array([detail(unit) / yardstick.detail for unit in units])
    coarse = np.stack([means(volume[None], 1).double().flatten().numpy() for volume in volumes])
    return _Setting(title, evaluations, yardstick.project(units), details, coarse, seconds)


def _student(path: Path, teacher: TrainedRun) -> TrainedRun:
    """A run that was made from another.

    Raises:
        UserError: it was not.
    """
    student = open_run(path)
    made_of = (student.provenance or {}).get("inputs", {}).get("teacher", {}).get("fingerprint")
    if made_of != teacher.fingerprint:
        raise UserError("--students", f"{path} was not distilled from {teacher.directory}", "runs that volgen distil made from it")
    return student


def _named(student: TrainedRun) -> str:
    return f"student {student.recipe.name}, {len(visited(student, None))} steps"


def _alike(one: _Setting, reference: _Setting) -> float:
    """Mean correlation of volumes of one seed, of coarse means without what all volumes have in common."""
    common = reference.coarse.mean(axis=0)
    pairs = zip(one.coarse - common, reference.coarse - common, strict=True)
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]))


def _rows(
    settings: Sequence[_Setting], yardstick: Yardstick, resampled: Mapping[str, Numbers], seed: int, students: Collection[str]
) -> list[Row]:  # fmt: skip
    floor = Row("real people", float(np.mean(yardstick.floor)), "Frechet distance")
    # The Frechet distance likes blur, so who has the smallest one is not the best: all are compared with who asks a network most often.
    reference = max(settings, key=lambda one: one.evaluations)
    reference_distance = yardstick.distance(reference.features)
    rows = [floor]
    for one in settings:
        distance = yardstick.distance(one.features)
        # Resamples repeat volumes, which adds a little to each distance but not to their spread.
        spread = 1.96 * float(resampled[one.name].std())
        low, high = np.percentile(resampled[one.name] - resampled[reference.name], (2.5, 97.5))
        distances = {floor.name: distance / floor.value}
        rows += [
            Row(f"{one.name} distance", distance, "Frechet distance", distances, (distance - spread, distance + spread)),
            Row(f"{one.name} minus reference", distance - reference_distance, "Frechet distance", interval=(float(low), float(high))),
            Row(f"{one.name} detail", float(one.detail.mean()), "of real people", interval=interval(one.detail, seed)),
            Row(
                f"{one.name} detail minus reference", float((one.detail - reference.detail).mean()), "of real people",
                interval=interval(one.detail - reference.detail, seed),
            ),
            Row(f"{one.name} evaluations", one.evaluations, ""),
            Row(f"{one.name} seconds", one.seconds, "s"),
            *([Row(f"{one.name}{SAME}", _alike(one, reference), "correlation")] if one.name in students else []),
        ]  # fmt: skip
    return rows


def _against(
    settings: Sequence[_Setting], yardstick: Yardstick, resampled: Mapping[str, Numbers], seed: int, students: Collection[str]
) -> list[Row]:  # fmt: skip
    """Each student minus what takes as many evaluations, and minus what it would draw untrained: below 0 the student is better."""
    rows = []
    for student in (one for one in settings if one.name in students):
        rivals = [one for one in settings if one.name not in students and one.evaluations == student.evaluations and one.name != UNTRAINED]
        for rival in [*rivals, *(one for one in settings if one.name == UNTRAINED)]:
            low, high = np.percentile(resampled[student.name] - resampled[rival.name], (2.5, 97.5))
            nearer, name = student.further - rival.further, f"{student.name}{AGAINST}{rival.name}"
            minus = yardstick.distance(student.features) - yardstick.distance(rival.features)
            rows += [
                Row(name, minus, "Frechet distance", interval=(float(low), float(high))),
                Row(f"{name}{FURTHER}", float(nearer.mean()), "of real people", interval=interval(nearer, seed)),
            ]
    return rows


def _half(row: Row) -> float:
    return 0.0 if row.interval is None else (row.interval[1] - row.interval[0]) / 2


def _signed(row: Row, digits: int) -> str:
    if row.value == 0.0 or row.interval is None:
        return "reference"
    return f"{row.value:+.{digits}f} [{row.interval[0]:+.{digits}f}, {row.interval[1]:+.{digits}f}]"
