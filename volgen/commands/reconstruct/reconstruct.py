"""``volgen reconstruct``: measurements and a trained run in, volumes that agree with both out, with a map of what is not known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any, Literal

from volgen.commands.reconstruct.maps import Summary, summarise_head
from volgen.commands.reconstruct.raw import RawData
from volgen.commands.reconstruct.source import Centre, MeasuredImage, Measurements
from volgen.commands.reconstruct.target import CALIBRATION, RESULT, Reconstructions
from volgen.core.answer import Answer
from volgen.core.errors import UserError
from volgen.core.files import write_json
from volgen.core.folder import Folder
from volgen.core.progress import say
from volgen.core.protocols import Guidance
from volgen.core.registry import kinds
from volgen.data.raw import SUFFIXES as RAW_SUFFIXES
from volgen.data.raw import is_raw
from volgen.images import nifti
from volgen.images.intensity import IntensityMap
from volgen.parallel import launch as launches
from volgen.reporting import reconstruction_page
from volgen.runs.choices import check_amounts, component, costs_of, masked, resident, solver_for, visited
from volgen.runs.coarser import in_voxels
from volgen.runs.draw import Drawing
from volgen.runs.ranks import Crew, crew, flow_of
from volgen.runs.settings import Settings, joined, read_settings
from volgen.runs.simulated import SimulatedScans
from volgen.runs.trained import TrainedRun, open_run
from volgen.runs.work import SampleWork, tell_noted
from volgen.sampling import descent
from volgen.sampling.guidances.none import Config as Unguided
from volgen.training.together import from_chief, on_chief

SAMPLERS, NOISES = "volgen.sampling.samplers", "volgen.sampling.noises"
GUIDANCES, OPERATORS = "volgen.sampling.guidances", "volgen.operators"
BEST = ({"kind": "resample"}, {"kind": "gauss"}, {"kind": "projection"})
"""Guidance where none is asked for: the first of these that there is."""
WHITE = {"kind": "white"}


def reconstruct(
    run: Path,
    out: Path,
    *,
    data: Path | None = None,
    simulate: str | None = None,
    split: Literal["all", "train", "validation", "test"] = "test",
    people: int | None = None,
    count: int = 16,
    seed: int = 0,
    operator: str | Mapping[str, Any] | None = None,
    mask: str | Mapping[str, Any] | None = None,
    guidance: str | Mapping[str, Any] | None = None,
    sampler: str | Mapping[str, Any] | None = None,
    steps: int | None = None,
    voxel_size: float | None = None,
    field: Literal["grid", "box"] = "grid",
    settings: Path | None = None,
    noise: float | None = None,
    window: Sequence[float] | None = None,
    centre: Centre | None = None,
    orientation: str | None = None,
    spacing: float | None = None,
    batch_size: int = 1,
    device: str | None = None,
    dtype: Literal["float32", "int16"] = "float32",
    memory_gib: float = 4.0,
    stages: int | None = None,
    strict: bool = False,
) -> Answer[Path]:
    """Draws ``count`` volumes of each head that agree with what was measured of it, and writes what they say together.

    Volume i of a head depends on the run, the measurements, the settings, the seed and i alone. Volumes that ``out`` already holds are
    kept, so a stopped command continues and a larger ``count`` adds volumes; maps and page are made anew. Several ranks share the volumes
    as those of ``volgen sample`` do.

    Args:
        run: directory that ``volgen train`` made, or ``pretrained:NAME``.
        out: directory of reconstructions.
        data: what was measured of one head.
        simulate: a store whose scans are measured here, in place of ``data``.
        split: which of its scans.
        people: how many of them, from the first on; all if None.
        count: volumes of each head.
        seed: seed of all noise.
        operator: kind of operator, or its configuration.
        mask: kind of mask of the operator, or its configuration.
        guidance: kind of guidance, or its configuration.
        sampler: kind of solver, or its configuration; the recipe's if None, or one that renoises where the guidance needs that.
        steps: how many points of the ensemble's grid to visit; all of them if None.
        voxel_size: edge in mm of the voxels that are drawn, the run's times a power of 2; its own if None.
        field: field of view of ``simulate``: the run's ``grid``, or the ``box`` that it computes in.
        settings: file with guidance, sampler and steps, of which those hold that are not asked for.
        noise: standard deviation of the noise of the data, in units of the model range.
        window: lowest and highest intensity of a NIfTI image.
        centre: how data are placed on the run's grid.
        orientation: where readout, phase encode and slices of fastMRI data lead, three letters of RLAPSI; PLS if None.
        spacing: mm from a slice of fastMRI data to the next; their thickness if None.
        batch_size: volumes that the ranks of a row hand on together.
        device: torch device; a GPU if there is one, if None.
        dtype: voxels in the files.
        memory_gib: memory of a rank for volumes that are under way, and as much for experts.
        stages: ranks in a row; chosen if None.
        strict: whether the answer is no where data and model disagree.

    Returns:
        ``out``; passed unless ``strict`` and data and model disagree.

    Raises:
        UserError: the run or the data are damaged, do not fit each other, an option is out of range, or ``out`` holds something else.
    """
    heads = 1 if people is None else people
    check_amounts(memory_gib, ("count", count, 1), ("seed", seed, 0), ("batch-size", batch_size, 1), ("people", heads, 1))
    if noise is not None and not math.isfinite(noise):
        raise UserError("--noise", str(noise), "a finite number")
    launch = launches.discover()
    launches.publish(launch)
    trained = in_voxels(open_run(run), voxel_size)
    if trained.recipe.assembly.piecewise:
        raise UserError(str(run), "draws volumes piece by piece", "a run that draws whole volumes, which an instrument sees")
    filed = Settings() if settings is None else read_settings(settings)
    guidance, sampler = joined(guidance, filed.guidance), joined(sampler, filed.sampler)
    best = next(one for one in BEST if one["kind"] in kinds(GUIDANCES))
    guided = component("--guidance", GUIDANCES, guidance, component("--guidance", GUIDANCES, best, None))
    if guided == Unguided():
        raise UserError("--guidance", "makes nothing agree with what was measured", "another guidance", "leave it out")
    guide: Guidance = guided.build()
    solver = component("--sampler", SAMPLERS, sampler, solver_for(trained, guide))
    instrument = component("--operator", OPERATORS, masked(operator, mask), None)
    source = _source(data, simulate, split, people, instrument, noise, window, centre, orientation, spacing, seed, trained.level, field)
    grid = visited(trained, filed.steps if steps is None else steps)
    capacity = resident(trained, memory_gib)
    costs = costs_of(trained, grid, descent.evaluations(solver.build(), len(grid)))
    flow = flow_of(launch.world_size, -(-count // batch_size), grid, costs, trained.ensemble, capacity, stages)
    told = {
        **source.settings, "guidance": guided.model_dump(mode="json"), "sampler": solver.model_dump(mode="json"),
        "sigma_grid": list(grid), "dtype": dtype, **({"voxel_size": list(trained.geometry.voxel_size)} if trained.level else {}),
    }  # fmt: skip
    target = Reconstructions(out, trained, told, source.inputs, seed, dtype, {"count": count})
    noises = component("--noise", NOISES, WHITE, None)
    summaries: list[Summary] = []

    with ExitStack() as held, crew(launch, trained.recipe.engine, device) as ranks:
        claimed: list[Folder] = []
        on_chief(ranks.group, lambda: claimed.append(held.enter_context(target.claim())))
        preconditioner, assembly = trained.preconditioner(ranks.device), trained.assembly()
        for label in source.labels:
            head = target.head(label)
            measured = source.read(label, trained.geometry, ranks.device)
            seen = measured.seen
            missing: list[int] = json.loads(from_chief(ranks.group, partial(_missing, head, count)))
            drawing = Drawing(
                trained, preconditioner, assembly, solver, noises, grid, ranks.device, guide, seen.measurement, climbs=False
            )  # fmt: skip
            work = SampleWork(seed, partial(head.export, seen), drawing, ranks)
            work.share(missing, batch_size, flow, memory_gib * 2**30)
            if launch.chief:
                summaries.append(summarise_head(head, seen, count, measured.truth))
        if launch.chief:
            result = _result(trained, source, summaries)
            _write(target, claimed[0], result)
    tell_noted(guided.kind, guide)
    return _told(ranks, out, summaries, strict=strict)


def _missing(head: Any, count: int) -> str:
    return json.dumps(head.missing(count))


def _source(
    data: Path | None, simulate: str | None, split: str, people: int | None, operator: Any, noise: float | None,
    window: Sequence[float] | None, centre: Centre | None, orientation: str | None, spacing: float | None, seed: int,
    level: int, field: Literal["grid", "box"],
) -> Measurements:  # fmt: skip
    """Whoever has the measurements that were named."""
    if (data is None) == (simulate is None):
        found = "are both there" if data is not None else "are both missing"
        raise UserError("--data and --simulate", found, "one of them: what was measured, or a store to measure here")
    if operator is None and (simulate is not None or (data is not None and nifti.is_image(data))):
        do = "give --operator, one of " + ", ".join(kinds(OPERATORS))
        raise UserError("--operator", "is missing", "what the instrument does to a volume", do)
    if (orientation is not None or spacing is not None) and (data is None or not is_raw(data)):
        raise UserError("--orientation" if orientation is not None else "--spacing", "is there", "none: it is for fastMRI data")
    if simulate is not None:
        if window is not None or centre is not None:
            raise UserError("--window" if window is not None else "--centre", "is there", "none: a store knows it")
        return SimulatedScans(simulate, split, people, operator, noise, seed, level, field)
    if field != "grid":
        raise UserError("--field", f"'{field}'", "grid: data say themselves what they are of", "leave it out")
    assert data is not None
    if is_raw(data):
        if operator is not None or window is not None:
            raise UserError("--operator" if operator is not None else "--window", "is there", "none: raw data say it themselves")
        return RawData(data, noise, centre, orientation, spacing)
    if not nifti.is_image(data):
        raise UserError(str(data), "is of a kind that is not known", ", ".join((*RAW_SUFFIXES, *nifti.SUFFIXES)))
    return MeasuredImage(data, operator, noise, _window(window), centre)


def _window(window: Sequence[float] | None) -> IntensityMap | None:
    if window is None:
        return None
    if len(window) != 2:
        raise UserError("--window", f"{len(window)} numbers", "two: LOW HIGH")
    try:
        return IntensityMap(*window)
    except ValueError as error:
        raise UserError("--window", str(error), "two numbers, the lower first") from None


def _result(trained: TrainedRun, source: Measurements, summaries: Sequence[Summary]) -> dict[str, Any]:
    counts = [summary.counted for summary in summaries if summary.counted is not None]
    volumes = sum(summary.told["samples"] for summary in summaries)
    heads = f"{len(summaries)} heads" if len(summaries) > 1 else "one head"
    return {
        "headline": f"{volumes} volumes of {heads}", "run": trained.recipe.name, "measured": source.text, "known": source.known,
        "calibration": reduce(add, counts).told() if counts else None, "heads": [summary.told for summary in summaries],
    }  # fmt: skip


def _write(target: Reconstructions, folder: Folder, result: Mapping[str, Any]) -> None:
    write_json(target.out / RESULT, result)
    if result["known"]:
        heads = [{key: head.get(key) for key in ("name", "samples", "truth", "calibration", "chi_squares")} for head in result["heads"]]
        write_json(target.out / CALIBRATION, {"all": result["calibration"], "heads": heads})
    reconstruction_page.write_page(target.out)
    kept = {name for name in folder.files if "_desc-sample" in name}
    folder.finish(kept, requested=dict(target.requested), run_name=target.run.recipe.name)


def _told(ranks: Crew, out: Path, summaries: Sequence[Summary], *, strict: bool) -> Answer[Path]:
    """Says what came of it; every rank has the same answer."""
    bad = [summary.told for summary in summaries if summary.told["disagreement"]]
    for told in bad:
        say(f"{told['name']}: {told['disagreement']}")
    say(f"{sum(summary.told['samples'] for summary in summaries)} volumes in {out}, and {reconstruction_page.NAME} to look at first.")
    passed = json.loads(from_chief(ranks.group, lambda: json.dumps(not (strict and bad))))
    return Answer(out, bool(passed))
