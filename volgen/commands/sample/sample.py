"""``volgen sample``: a trained run in, NIfTI volumes with their provenance out; by one process or by the ranks of a launch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from volgen.commands.sample import picture
from volgen.commands.sample.draw import SampleWork
from volgen.commands.sample.job import WHITE, Claimed, Job, began_full
from volgen.commands.sample.ranks import crew, flow_of
from volgen.commands.sample.steering import Steering, words
from volgen.core.config import validate
from volgen.core.errors import UserError, nearest_word
from volgen.core.noise import choose
from volgen.core.progress import say, say_next
from volgen.core.registry import config_class, kinds
from volgen.core.span import owner
from volgen.data.derivative import OVERVIEW
from volgen.experts.ensemble import Ensemble
from volgen.models.condition import asked_for
from volgen.parallel import launch as launches
from volgen.runs.draw import Drawing
from volgen.runs.trained import TrainedRun, open_run
from volgen.sampling import descent
from volgen.sampling.guidances.none import Config as Unguided
from volgen.training.together import from_chief

SAMPLERS, NOISES = "volgen.sampling.samplers", "volgen.sampling.noises"
GUIDANCES, OPERATORS = "volgen.sampling.guidances", "volgen.operators"
BYTES_PER_WEIGHT = {"fp32": 4, "bf16": 2}


def sample(
    run: Path,
    out: Path,
    *,
    count: int,
    seed: int = 0,
    steps: int | None = None,
    sampler: str | Mapping[str, Any] | None = None,
    noise: str | Mapping[str, Any] | None = None,
    given: Sequence[str] = (),
    guidance: str | Mapping[str, Any] | None = None,
    operator: str | Mapping[str, Any] | None = None,
    data: Path | None = None,
    batch_size: int = 1,
    device: str | None = None,
    dtype: Literal["float32", "int16"] = "float32",
    start_index: int = 0,
    memory_gib: float = 4.0,
    full: bool = False,
    stages: int | None = None,
) -> Path:
    """Draws volumes ``start_index`` ... ``start_index + count - 1`` of a seed and writes them as a BIDS derivative.

    Volume i depends on the run, the settings, the seed and i alone. Volumes that ``out`` already holds from the same run, settings
    and seed are kept, so a stopped command continues and a larger ``count`` adds volumes.

    Started as several ranks (torchrun, deepspeed, srun, mpirun), they share the volumes. If a rank has memory for all experts, or if
    all ranks together have not, each draws volumes of its own. Otherwise ranks form rows in which each keeps some of the experts, and
    volumes flow through them (:mod:`volgen.parallel.flow`). The volumes are the same, bit for bit.

    Where experts of high noise work on coarser voxels, volumes climb (:mod:`volgen.sampling.climb`), unless a guidance or correlated
    noise needs whole ones, or ``out`` was begun without.

    Args:
        run: directory that ``volgen train`` made.
        out: directory of samples.
        count: number of volumes.
        seed: seed of all noise.
        steps: how many points of the ensemble's grid to visit; all of them if None.
        sampler: kind of solver, or its configuration; the recipe's if None. What it leaves out is the recipe's too, if that has this kind.
        noise: kind of noise, or its configuration with ``kind``; white if None.
        given: conditions of the run that every volume is asked for, ``NAME=VALUE`` each; what is not among them is not told.
        guidance: kind of guidance, or its configuration; volumes of the prior if None.
        operator: kind of operator, or its configuration: what of ``data`` was measured.
        data: NIfTI volume in the run's frame, with which volumes have to agree where it was measured.
        batch_size: volumes that the ranks of a row hand on together. Each is denoised by itself, so it changes none of them.
        device: torch device; a GPU if there is one, if None.
        dtype: voxels in the file; int16 has a slope.
        start_index: index of the first volume.
        memory_gib: memory of a rank for volumes that are under way; more volumes than fit go through the experts in several waves. As
            much again is for experts, where more than two are kept: on the ranks of a row, and in runs that draw a volume piece by
            piece, each of which needs all of them.
        full: whether whole volumes are on their way at all noise levels.
        stages: ranks in a row; chosen if None.

    Returns:
        ``out``.

    Raises:
        UserError: the run is damaged, an option is out of range, or ``out`` holds something else.
    """
    for option, value, least in (("count", count, 1), ("seed", seed, 0), ("start-index", start_index, 0), ("batch-size", batch_size, 1)):
        if value < least:
            raise UserError(f"--{option}", str(value), f"at least {least}")
    if not (math.isfinite(memory_gib) and memory_gib >= 0):
        raise UserError("--memory-gib", str(memory_gib), "a finite number of GiB, at least 0")
    launch = launches.discover()
    launches.publish(launch)
    trained = open_run(run)
    solver = _component("--sampler", SAMPLERS, sampler, trained.recipe.sampler)
    noises = _component("--noise", NOISES, noise, config_class(NOISES, WHITE)())
    guided = _component("--guidance", GUIDANCES, guidance, Unguided())
    steering = Steering(guided, _component("--operator", OPERATORS, operator, None), data, words(given))
    told = asked_for(trained.recipe.conditions, steering.given)
    grid = _grid(trained.ensemble, steps)
    capacity = _resident(trained, memory_gib)
    if trained.recipe.assembly.piecewise:
        if data is not None:
            raise UserError("--data", "this run draws volumes piece by piece", "a run that draws whole volumes, which an instrument sees")
        if (stages or 1) > 1:
            raise UserError("--stages", str(stages), "1: this run draws volumes piece by piece, and each piece needs all experts")
        stages = 1
    guide = guided.build()
    climbs = trained.climbs(grid) and noises.kind == WHITE and not (guide.whole or full or began_full(out))
    costs = _costs(trained, grid, descent.evaluations(solver.build(), len(grid)))
    flow = flow_of(launch.world_size, -(-count // batch_size), grid, costs, trained.ensemble, capacity, stages)
    requested = {"count": count, "start_index": start_index}
    job = Job(out, trained, solver, noises, steering, grid, seed, dtype, requested, climbs)
    indices = range(start_index, start_index + count)

    claimed: list[Claimed] = []
    held = ExitStack()

    def prepare() -> str:
        claimed.append(held.enter_context(job.claim()))
        return json.dumps([index for index in indices if not job.holds(index)])

    with crew(launch, trained.recipe.engine, device) as ranks, held:
        preconditioner, assembly = trained.preconditioner(ranks.device), trained.assembly()
        missing: list[int] = json.loads(from_chief(ranks.group, prepare))
        if len(missing) < count:
            say(f"{out} already holds {count - len(missing)} of these {count} volumes")
        measured = steering.measurement(trained.geometry, ranks.device)
        drawing = Drawing(trained, preconditioner, assembly, solver, noises, grid, ranks.device, guide, measured, told, climbs)
        work = SampleWork(job, drawing, ranks)
        units = [missing[first : first + batch_size] for first in range(0, len(missing), batch_size)]
        if flow.stages > 1:
            work.flow(units, flow)
        else:
            mine = [index for unit in units[launch.rank :: launch.world_size] for index in unit]
            work.stay(mine, memory_gib * 2**30, capacity if trained.recipe.assembly.piecewise else 2)
        ranks.meet()
        if launch.chief:
            if missing or not (out / OVERVIEW).exists():
                picture.draw(job)
            claimed[0].finish()
    say(f"{count} volumes of seed {seed} in {out}, and {OVERVIEW} to look at first.")
    say_next("volgen", "report", out, "--reference", trained.recipe.data.store, "--out", f"{out}-report")
    return out


def _component(option: str, package: str, asked: str | Mapping[str, Any] | None, default: Any) -> Any:
    """A configuration of a file in ``package``; of the default's kind, it changes only what is asked."""
    if asked is None:
        return default
    content = {"kind": asked} if isinstance(asked, str) else dict(asked)
    kind = content.setdefault("kind", getattr(default, "kind", ""))
    if default is not None and kind == default.kind:
        content = {**default.model_dump(mode="json"), **content}
    if kind not in kinds(package):
        raise UserError(option, f"there is no {option[2:]} '{kind}'", "a known kind", nearest_word(str(kind), kinds(package)))
    return validate(config_class(package, kind), content, option)


def _resident(trained: TrainedRun, memory_gib: float) -> int:
    """How many experts fit into memory; at least two, at most all."""
    experts = trained.ensemble.experts
    largest = max(expert.parameters for expert in experts) * BYTES_PER_WEIGHT[trained.recipe.engine.precision]
    return max(2, int(min(len(experts), memory_gib * 2**30 / largest)))


def _costs(trained: TrainedRun, grid: Sequence[float], evaluations: Sequence[int]) -> list[float]:
    """Costs of the steps, in proportion: an evaluation costs as its expert has weights and voxels."""
    experts, levels = trained.ensemble.experts, trained.levels(grid)
    weights = [experts[owner(trained.ensemble.spans, sigma)].parameters / 8**level for sigma, level in zip(grid, levels, strict=False)]
    return [count * weight / max(weights) for count, weight in zip(evaluations, weights, strict=True)]


def _grid(ensemble: Ensemble, steps: int | None) -> list[float]:
    try:
        return choose(list(ensemble.grid), steps)
    except ValueError as error:
        expected = f"from 2 to {len(ensemble.grid)}: the experts were trained at these noise levels only"
        raise UserError("--steps", str(error), expected) from None
