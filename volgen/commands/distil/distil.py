"""``volgen distil``: what a student learns from, and the configuration that it is trained with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volgen.commands.distil.trajectories import Trajectories, levels_in
from volgen.core.config import dump_yaml
from volgen.core.errors import UserError
from volgen.core.files import make_folder, write_text
from volgen.core.progress import say, say_next
from volgen.core.span import tile
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
    levels = levels_kept(grid, config.steps, config.inner)
    store = config.pairs or runs / f"{config.name}-trajectories.zarr"
    levels = levels_in(store, teacher, levels)
    recipe = load(_content(teacher, config, runs, store, levels), config.overrides)  # before anything is drawn
    trajectories = Trajectories(teacher, store, levels, config.seed)
    if not trajectories.complete(config.count):
        if launches.discover().world_size > 1:
            found = "are not drawn yet, and this is one of several ranks"
            raise UserError(str(store), found, "trajectories", "draw them with one process first: the same command with --draw-only")
        trajectories.draw(config.count, config.memory_gib * 2**30, config.device)
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
    expected = "a bank of denoisers of whole volumes at full resolution"
    if recipe.stated("method"):
        do = "if it is a student, distil the run that it was made from"
        raise UserError(where, f"is of method.kind '{recipe.method.kind}'", expected, do)
    if len(recipe.variants) > 1 or recipe.level:
        raise UserError(where, "has experts at coarser levels, which cannot be distilled yet", expected)
    if recipe.piece != recipe.data.grid:
        raise UserError(
            where, f"sees {list(recipe.piece)} voxels of {list(recipe.data.grid)} at once, which cannot be distilled yet", expected
        )
    if recipe.conditions:
        raise UserError(where, "was trained with conditions, which cannot be distilled yet", expected)


def levels_kept(grid: Sequence[float], steps: int, inner: int) -> list[float]:
    """Noise levels whose states are kept, descending: where each of ``steps`` experts begins to jump, and some below it.

    Args:
        grid: the teacher's, descending.
        steps: experts of the student, which own equally many points.
        inner: levels of each expert below its highest, as many as there are at most.

    Raises:
        UserError: there are more steps than levels.
    """
    points = sorted(grid)
    try:
        spans = tile(grid, steps)
    except ValueError as error:
        raise UserError("--steps", str(error), f"from 1 to {len(grid)}") from None
    chosen: set[float] = set()
    for span in spans:
        own = [point for point in points if point in span]
        count = min(inner, len(own) - 1)
        chosen |= {own[-1], *(own[round((number + 1) * len(own) / (count + 1)) - 1] for number in range(count))}
    return sorted(chosen, reverse=True)


def _content(teacher: TrainedRun, config: Config, runs: Path, store: Path, levels: Sequence[float]) -> dict[str, Any]:
    """The teacher's configuration with what a student has of its own."""
    own: dict[str, Any] = teacher.recipe.model_dump(mode="json", exclude_unset=True, serialize_as_any=True)
    data = {name: value for name, value in own["data"].items() if name not in ("augment", "half", "interpolated")}
    for name in ("privacy", "guidance", "conditions", "start", "adapter", "mirrored"):  # what the teacher draws has both sides in it
        own.pop(name, None)
    network = {name: value for name, value in own["network"].items() if name != "dropout"}
    return {
        **own, "name": config.name, "runs": str(runs), "network": network,
        "data": {**data, "store": str(store), "shape": list(teacher.recipe.data.shape)},
        "method": {"kind": "jump"}, "objective": {"kind": "distilled", "levels": list(levels)},
        "start": {"kind": "teacher", "run": os.fspath(config.run)},
        "experts": {"count": config.steps, "warm_start": "none"},
        "sampler": {"kind": "euler"},
    }  # fmt: skip
