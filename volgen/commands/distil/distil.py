"""``volgen distil``: what a student learns from, and the configuration that it is trained with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volgen.commands.distil.trajectories import Trajectories, levels_in
from volgen.core.config import dump_yaml
from volgen.core.errors import UserError
from volgen.core.files import make_folder, write_text
from volgen.core.progress import say, say_next
from volgen.core.span import tile
from volgen.experts.plan import SHARED
from volgen.parallel import launch as launches
from volgen.recipe import load
from volgen.runs.trained import TrainedRun, open_run

if TYPE_CHECKING:
    from volgen.commands.distil import Config


def prepare(config: Config) -> tuple[Path, Path]:
    """Draws the teacher's trajectories that are not there yet, and writes the student's configuration beside them.

    Returns:
        The store of trajectories, and the student's YAML file, with which ``volgen train`` trains it.

    Raises:
        UserError: the run cannot be distilled, or files belong to something else.
    """
    teacher = open_run(config.run)
    check(teacher)
    runs = config.runs or Path(teacher.recipe.runs)
    grid = list(teacher.ensemble.grid)
    sizes = sizes_of([sum(model.sizes) for model in teacher.recipe.experts.models], config.steps)
    levels = levels_kept(grid, sum(config.steps), config.inner, [size for of_model in sizes for size in of_model])
    store = config.pairs or runs / f"{config.name}-trajectories.zarr"
    levels = levels_in(store, teacher, levels)
    trajectories = Trajectories(teacher, store, levels, config.seed)
    recipe = load(_content(teacher, config, runs, trajectories, sizes), config.overrides)  # before anything is drawn
    if not trajectories.complete(config.count):
        if launches.discover().world_size > 1:
            found = "are not drawn yet, and this is one of several ranks"
            raise UserError(str(store), found, "trajectories", "draw them with one process first: the same command with --draw-only")
        each, memory = trajectories.bytes_of_states, config.memory_gib * 2**30
        say(
            f"Trajectories of {len(levels) + 1} states in 16 bits: {_mib(each)} each before compression, {_mib(config.count * each)} on the"
            f" disk for {config.count}; {min(config.count, trajectories.wave(memory))} at once in --memory-gib {config.memory_gib:g}."
        )
        trajectories.draw(config.count, memory, config.device)
        say(f"{config.count} trajectories of '{teacher.recipe.name}', {len(levels) + 1} states each, are in {store}.")
    student = runs / f"{recipe.name}.yaml"
    if launches.discover().chief:
        make_folder(runs)
        write_text(student, dump_yaml(recipe))
    if config.draw_only:
        say_next("volgen", "train", "--config", student)
    return store, student


def check(teacher: TrainedRun) -> None:
    """Refuses teachers whose students nobody has tried.

    Raises:
        UserError: says why.
    """
    recipe, where = teacher.recipe, str(teacher.directory)
    expected = "a bank of denoisers of whole volumes"
    if recipe.stated("method"):
        do = "if it is a student, distil the run that it was made from"
        raise UserError(where, f"is of method.kind '{recipe.method.kind}'", expected, do)
    if recipe.assembly.piecewise:
        found = f"denoises {list(teacher.piece)} voxels of {list(teacher.whole)} by themselves, which cannot be distilled yet"
        raise UserError(where, found, expected)
    if recipe.conditions:
        raise UserError(where, "was trained with conditions, which cannot be distilled yet", expected)
    if recipe.guidance.build().weak not in ("", SHARED):
        found = "is guided away from another run by its configuration: its volumes are of other people too"
        raise UserError(where, found, f"guidance.weak '{SHARED}', or a guidance without one")


def sizes_of(points: Sequence[int], steps: Sequence[int]) -> list[list[int]]:
    """How many points of the grid each of a student's experts owns, model by model of its teacher; no expert is of two models.

    Args:
        points: those that each model of the teacher owns, lowest noise first; none if all of its experts are alike.
        steps: experts of the student: of each model, or one number for all together.

    Returns:
        One list for each model, lowest noise first: none if there are no models.

    Raises:
        UserError: there are fewer steps than models, or more than points.
    """
    models = len(points) or 1
    if len(steps) not in (1, models):
        raise UserError("--steps", f"{len(steps)} numbers, but the teacher has {models} models", "one number, or one for each model")
    if not points:
        return []
    if len(steps) == 1:
        counts = _shared(points, steps[0])
    else:
        counts = list(steps)
        for model, (own, count) in enumerate(zip(points, counts, strict=True)):
            if count > own:
                raise UserError("--steps", f"{count} of model {model}, which has {own} noise levels", f"from 1 to {own}")
    return [
        [round((place + 1) * own / count) - round(place * own / count) for place in range(count)]
        for own, count in zip(points, counts, strict=True)
    ]


def _shared(points: Sequence[int], steps: int) -> list[int]:
    """Steps of each model: more where the most noise levels share an expert."""
    if not len(points) <= steps <= sum(points):
        found = f"{steps}, but the teacher has experts of {len(points)} models on {sum(points)} noise levels"
        raise UserError("--steps", found, f"from {len(points)} to {sum(points)}: no expert of a student is of two models")
    counts = [1] * len(points)
    for _ in range(steps - len(points)):
        counts[max(range(len(points)), key=lambda model: points[model] / counts[model])] += 1
    return counts


def levels_kept(grid: Sequence[float], steps: int, inner: int, sizes: Sequence[int] = ()) -> list[float]:
    """Noise levels whose states are kept, descending: where each of ``steps`` experts begins to jump, and some below it.

    Args:
        grid: the teacher's, descending.
        steps: experts of the student.
        inner: levels of each expert below its highest, as many as there are at most.
        sizes: points that each of them owns, lowest noise first; equally many if empty.

    Raises:
        UserError: there are more steps than levels.
    """
    points = sorted(grid)
    try:
        spans = tile(grid, steps, sizes)
    except ValueError as error:
        raise UserError("--steps", str(error), f"from 1 to {len(grid)}") from None
    chosen: set[float] = set()
    for span in spans:
        own = [point for point in points if point in span]
        count = min(inner, len(own) - 1)
        chosen |= {own[-1], *(own[round((number + 1) * len(own) / (count + 1)) - 1] for number in range(count))}
    return sorted(chosen, reverse=True)


def _content(
    teacher: TrainedRun, config: Config, runs: Path, trajectories: Trajectories, sizes: Sequence[Sequence[int]]
) -> dict[str, Any]:  # fmt: skip
    """The teacher's configuration with what a student has of its own."""
    own: dict[str, Any] = teacher.recipe.model_dump(mode="json", exclude_unset=True, serialize_as_any=True)
    data = {name: value for name, value in own["data"].items() if name not in ("augment", "half", "interpolated")}
    for name in ("privacy", "guidance", "conditions", "start", "adapter", "mirrored"):  # what the teacher draws has both sides in it
        own.pop(name, None)
    network = _kept_whole(own["network"])
    experts: dict[str, Any] = {"count": sum(config.steps)}
    if sizes:
        models = own["experts"]["models"]
        experts = {"models": [_of_student(model, points) for model, points in zip(models, sizes, strict=True)]}
    return {
        **own, "name": config.name, "runs": str(runs), "network": network,
        "data": {**data, "store": str(trajectories.store), "shape": list(teacher.recipe.data.shape)},
        "method": {"kind": "jump"}, "objective": trajectories.objective,
        "start": {"kind": "teacher", "run": os.fspath(config.run)},
        "experts": {**experts, "warm_start": "none"},
        "sampler": {"kind": "euler"},
    }  # fmt: skip


def _kept_whole(network: Mapping[str, Any]) -> dict[str, Any]:
    """A network whose features are all there: a student sees as many examples as it likes."""
    return {name: value for name, value in network.items() if name != "dropout"}


def _of_student(model: Mapping[str, Any], points: Sequence[int]) -> dict[str, Any]:
    """A model of the teacher's, for experts that own these numbers of points; how long they train is said of all of a student."""
    kept = {name: value for name, value in model.items() if name not in ("points", "stopping", "mirrored")}
    return {**kept, "points": list(points), **({"network": _kept_whole(model["network"])} if model.get("network") else {})}


def _mib(size: int) -> str:
    return f"{size / 2**20:.4g} MiB"
