"""``volgen sample``: a trained run in, NIfTI volumes with their provenance out; by one process or by the ranks of a launch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from volgen.commands.sample import picture
from volgen.commands.sample.asked import Asked
from volgen.commands.sample.edits import SeedRow, Sketch, begins_below
from volgen.commands.sample.job import WHITE, Claimed, Job, began_full
from volgen.commands.sample.steering import Steering
from volgen.core.errors import UserError
from volgen.core.progress import say, say_next
from volgen.core.registry import config_class
from volgen.data.derivative import OVERVIEW
from volgen.parallel import launch as launches
from volgen.runs.choices import check_amounts, coarser, component, costs_of, resident, visited
from volgen.runs.conditions import conditions_of
from volgen.runs.draw import Drawing
from volgen.runs.ranks import crew, flow_of
from volgen.runs.trained import open_run
from volgen.runs.weak import fingerprint_of, weak
from volgen.runs.work import SampleWork, tell_noted
from volgen.sampling import descent
from volgen.sampling.guidances.none import Config as Unguided
from volgen.training.together import from_chief

SAMPLERS, NOISES = "volgen.sampling.samplers", "volgen.sampling.noises"
GUIDANCES, OPERATORS = "volgen.sampling.guidances", "volgen.operators"


def sample(
    run: Path,
    out: Path,
    *,
    count: int | None = None,
    seed: int = 0,
    between: tuple[int, int] | None = None,
    sketch: Path | None = None,
    sketch_sigma: float | None = None,
    steps: int | None = None,
    sampler: str | Mapping[str, Any] | None = None,
    noise: str | Mapping[str, Any] | None = None,
    given: Sequence[str] = (),
    encoder: Path | None = None,
    guidance: str | Mapping[str, Any] | None = None,
    operator: str | Mapping[str, Any] | None = None,
    data: Path | None = None,
    batch_size: int = 1,
    device: str | None = None,
    dtype: Literal["float32", "int16"] = "float32",
    start_index: int = 0,
    memory_gib: float = 4.0,
    full: bool = False,
    voxel_size: float | None = None,
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
        count: number of volumes; as many as the table of ``given`` has rows from ``start_index`` on, if None.
        seed: seed of all noise.
        between: two seeds: ``count`` volumes lead from volume 0 of the first to volume 0 of the second, both among them, by noise that is
            turned from one to the other (:mod:`volgen.sampling.between`); then ``seed`` is not asked.
        sketch: NIfTI volume in the run's frame and units, or of voxels 2, 4, ... times as large, that volumes are drawn from (SDEdit, Meng
            et al. 2022; of students Song et al. 2023, algorithm 4).
        sketch_sigma: the noise that it is given; what is drawn begins at the run's highest level that is not above it.
        steps: how many points of the ensemble's grid to visit; all of them if None.
        sampler: kind of solver, or its configuration; the recipe's if None. What it leaves out is the recipe's too, if that has this kind.
        noise: kind of noise, or its configuration with ``kind``; white if None.
        given: conditions of the run that every volume is asked for, ``NAME=VALUE`` each, and at most one table, whose row i is what volume
            i is asked for (from 0); what is not among them is not told.
        encoder: where the sentence encoder lies now that the run was told prompts by; where it lay, or beside the run, if None.
        guidance: kind of guidance, or its configuration; the recipe's if None, and none where there is ``data``.
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
        voxel_size: edge in mm of the voxels of the files, the run's times a power of 2: means over cubes of the run's voxels. Where volumes
            climb, experts of finer voxels are left out if what noise there is when their turn comes is not seen in these means.
        stages: ranks in a row; chosen if None.

    Returns:
        ``out``.

    Raises:
        UserError: the run is damaged, an option is out of range, or ``out`` holds something else.
    """
    check_amounts(
        memory_gib,
        ("count", 1 if count is None else count, 1),
        ("seed", seed, 0),
        ("start-index", start_index, 0),
        ("batch-size", batch_size, 1),
    )
    launch = launches.discover()
    launches.publish(launch)
    trained = open_run(run)
    solver = component("--sampler", SAMPLERS, sampler, trained.recipe.sampler)
    noises = component("--noise", NOISES, noise, config_class(NOISES, WHITE)())
    guided = component("--guidance", GUIDANCES, guidance, trained.recipe.guidance if data is None else Unguided())
    asked = Asked.read(conditions_of(trained, encoder=encoder)[0], given)
    count = asked.count(count, start_index)
    guide = guided.build()
    if guide.asks and guidance is not None and not given:
        raise UserError("--guidance", f"{guided.kind} does nothing where nothing is asked for", "--given NAME=VALUE")
    grid = visited(trained, steps, begins_below(trained, sketch, sketch_sigma))
    instrument = component("--operator", OPERATORS, operator, None)
    row = None if between is None else SeedRow.of(trained, between, count, start_index, seed)
    steering = Steering(
        guided, instrument, data, asked, fingerprint_of(guide.weak), row, None if sketch is None else Sketch(sketch, grid[0])
    )
    seed = seed if row is None else row.seeds[0]
    capacity = resident(trained, memory_gib)
    if trained.recipe.assembly.piecewise:
        if data is not None:
            raise UserError("--data", "this run draws volumes piece by piece", "a run that draws whole volumes, which an instrument sees")
        if (stages or 1) > 1:
            raise UserError("--stages", str(stages), "1: this run draws volumes piece by piece, and each piece needs all experts")
        stages = 1
    level = coarser(trained, voxel_size)
    climbs = trained.climbs(grid) and noises.kind == WHITE and not (guide.whole or full or began_full(out))
    finest = trained.finest_for(level, grid) if climbs else 0
    grid = [sigma for sigma, of in zip(grid, trained.levels(grid), strict=False) if of >= finest]
    costs = costs_of(trained, grid, descent.evaluations(solver.build(), len(grid)))
    flow = flow_of(launch.world_size, -(-count // batch_size), grid, costs, trained.ensemble, capacity, stages)
    requested = {"count": count, "start_index": start_index}
    job = Job(out, trained, solver, noises, steering, grid, seed, dtype, requested, climbs, level, finest)
    indices = range(start_index, start_index + count)

    claimed: list[Claimed] = []
    held = ExitStack()

    def prepare() -> str:
        claimed.append(held.enter_context(job.claim()))
        return json.dumps([index for index in indices if not job.holds(index)])

    with crew(launch, trained.recipe.engine, device) as ranks, held:
        preconditioner, assembly = trained.preconditioner(ranks.device), trained.assembly()
        asked.say_what_is_passed_over()
        missing: list[int] = json.loads(from_chief(ranks.group, prepare))
        if len(missing) < count:
            say(f"{out} already holds {count - len(missing)} of these {count} volumes")
        measured = steering.measurement(trained.geometry, ranks.device)
        begun = None if steering.sketch is None else steering.sketch.read(trained.geometry).to(ranks.device)
        asking = [sigma for sigma in grid if guide.asks_weak(sigma)]
        beside = weak(trained, guide.weak, preconditioner, ranks.device, asking, capacity, corners=climbs, mirrored=guide.weak_mirrored)
        worse = held.enter_context(beside)
        drawing = Drawing(
            trained, preconditioner, assembly, solver, noises if row is None else row.turned(noises.draw), grid, ranks.device, guide,
            measured, asked.given, climbs, level, finest, worse, begun,
        )  # fmt: skip
        work = SampleWork(seed, job.export, drawing, ranks)
        work.share(missing, batch_size, flow, memory_gib * 2**30, capacity if trained.recipe.assembly.piecewise else 2)
        if launch.chief:
            if missing or not (out / OVERVIEW).exists():
                picture.draw(job)
            claimed[0].finish()
    tell_noted(guided.kind, guide)
    whose = f"seed {seed}" if row is None else f"a row from seed {row.seeds[0]} to {row.seeds[1]}"
    say(f"{count} volumes of {whose} in {out}, and {OVERVIEW} to look at first.")
    say_next("volgen", "report", out, "--reference", trained.recipe.data.store, "--out", f"{out}-report")
    return out
