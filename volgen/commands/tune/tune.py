"""``volgen tune``: a run and a store in, settings of a guidance out that are best for validation people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from volgen.commands.tune.space import space_of
from volgen.commands.tune.trials import BEST, Trial, Trials
from volgen.core.errors import Diverged, UserError
from volgen.core.progress import progress, say, say_next
from volgen.core.registry import config_class
from volgen.evaluation import posterior
from volgen.evaluation.mask import head_mask
from volgen.images.intensity import from_model
from volgen.parallel.device import usable_device
from volgen.runs.choices import component, masked, solver_for, visited
from volgen.runs.coarser import in_voxels
from volgen.runs.draw import Drawing
from volgen.runs.simulated import MeasuredHead, SimulatedScans
from volgen.runs.trained import TrainedRun, open_run
from volgen.sampling.guidances import GuidanceConfig

GUIDANCES, SAMPLERS, OPERATORS = "volgen.sampling.guidances", "volgen.sampling.samplers", "volgen.operators"
GOALS = {"psnr": "psnr_head", "ssim": "ssim_head"}
UNITS = {"psnr": " dB", "ssim": ""}


def tune(
    run: Path,
    out: Path,
    *,
    simulate: str,
    guidance: str | Mapping[str, Any],
    operator: str | Mapping[str, Any],
    mask: str | Mapping[str, Any] | None = None,
    sampler: str | Mapping[str, Any] | None = None,
    search: Sequence[str] = (),
    trials: int = 30,
    people: int = 2,
    split: Literal["all", "train", "validation", "test"] = "validation",
    count: int = 1,
    goal: Literal["psnr", "ssim"] = "psnr",
    steps: int | None = None,
    voxel_size: float | None = None,
    field: Literal["grid", "box"] = "grid",
    noise: float | None = None,
    seed: int = 0,
    device: str | None = None,
) -> Path:
    """Looks for the settings of a guidance and its solver with which volumes are most like the truth.

    Trial n is a function of the run, the people, the settings, the seed and the trials before it, so a stopped command ends where one
    that was not stopped would have.

    Args:
        run: directory that ``volgen train`` made, or ``pretrained:NAME``.
        out: folder for ``best.yaml`` and ``trials.json``.
        simulate: a store, whose validation people are measured.
        guidance: kind of guidance, or its configuration.
        operator: kind of operator, or its configuration.
        mask: kind of mask of the operator, or its configuration.
        sampler: kind of solver, or its configuration; the one that the guidance goes with if None.
        search: ``KEY=LOW:HIGH[:log]`` each; where guidance and solver say if there is none.
        trials: how many settings are tried; the first are those of ``guidance`` and ``sampler``.
        people: on how many people each is tried.
        split: which people; only ``validation`` will do.
        count: volumes of each, whose mean is compared with the truth.
        goal: what is to be largest.
        steps: how many points of the ensemble's grid to visit; all if None.
        voxel_size: edge in mm of the voxels that are drawn, the run's times a power of 2; its own if None.
        field: field of view of ``simulate``: the run's ``grid``, or the ``box`` that it computes in.
        noise: standard deviation of the noise of the data, in units of the model range.
        seed: seed of all of it.
        device: torch device; a GPU if there is one, if None.

    Returns:
        The file of settings.

    Raises:
        UserError: the people are not validation people, there is nothing to look for, the run or the store is damaged or they do not fit
            each other, no trial gave finite volumes, or ``out`` holds something else.
    """
    for option, value, least in (("trials", trials, 1), ("people", people, 1), ("count", count, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"--{option}", str(value), f"at least {least}")
    if split != "validation":
        raise UserError("--split", f"'{split}'", "validation: who is tuned on is no test any more, and the run has learned from the others")
    trained = in_voxels(open_run(run), voxel_size)
    if trained.recipe.assembly.piecewise:
        raise UserError(str(run), "draws volumes piece by piece", "a run that draws whole volumes, which an instrument sees")
    guided = component("--guidance", GUIDANCES, guidance, None)
    solver = component("--sampler", SAMPLERS, sampler, _solver(trained, guided))
    instrument = component("--operator", OPERATORS, masked(operator, mask), None)
    space = space_of(guided, solver, search)
    grid = visited(trained, steps)
    scans = SimulatedScans(simulate, split, people, instrument, noise, seed, trained.level, field)
    settings = {
        **scans.settings, "guidance": guided.model_dump(mode="json"), "sampler": solver.model_dump(mode="json"), "sigma_grid": list(grid),
        "search": space.told, "count": count, "goal": goal, "people": len(scans.labels),
        **({"voxel_size": list(trained.geometry.voxel_size)} if trained.level else {}),
    }  # fmt: skip
    record = Trials(out, trained, settings, scans.inputs, seed)
    where = usable_device(device)
    heads = [scans.read(label, trained.geometry, where) for label in scans.labels]
    judge = _Judge(trained, heads, grid, where, seed, count, goal)
    with record.claim(trials) as found:
        if found:
            say(f"{out} already holds {min(len(found), trials)} of these {trials} trials")
        judge.check(guided, solver)
        with progress("tune", trials) as ticker:
            ticker.advance(min(len(found), trials))
            for number in range(len(found), trials):
                values = space.ask(found, seed, number)
                found.append(Trial(values, judge(*space.put(guided, solver, values))))
                record.keep(found)
                ticker.advance(note=f"best {max((one.score for one in found if one.score is not None), default=float('nan')):.4g}")
        known = [(one.score, -number, one) for number, one in enumerate(found) if one.score is not None]
        if not known:
            raise UserError("--search", "no trial gave finite volumes", "settings that do")
        best = max(known)[2]
        record.finish(found, *space.put(guided, solver, best.values), steps)
    unit = UNITS[goal]
    before = "was not finite" if found[0].score is None else f"{found[0].score:.4g}{unit}"
    say(f"{goal} in the head: {best.score:.4g}{unit} with {_words(best.values)}, {before} before. Nobody of the test split was looked at.")
    say_next("volgen", "reconstruct", run, "--settings", out / BEST, "--data", "SCAN", "--out", "DIR")
    return out / BEST


@dataclass(frozen=True)
class _Judge:
    """How like the truth volumes are that are drawn with some settings."""

    trained: TrainedRun
    heads: Sequence[MeasuredHead]
    grid: Sequence[float]
    device: torch.device
    seed: int
    count: int
    goal: str

    def check(self, guided: Any, solver: Any) -> None:
        """Says before the first trial what would be wrong with all of them."""
        drawing = self._drawing(self.heads[0], guided, solver)
        drawing.guide.check(drawing.problem)

    def __call__(self, guided: Any, solver: Any) -> float | None:
        """The goal, a mean over people; None where a volume is not finite."""
        scores = []
        for head in self.heads:
            drawn = dict[int, torch.Tensor]()
            try:
                self._drawing(head, guided, solver).draw(self.seed, range(self.count), drawn.__setitem__, lambda count, note: None)
            except Diverged:
                return None
            assert head.truth is not None, "simulated measurements have a truth"
            mean = np.mean([self._unit(x_CXYZ) for x_CXYZ in drawn.values()], axis=0)
            score = posterior.likeness(mean, head.truth, head_mask(head.truth))[GOALS[self.goal]]
            if score is None:
                raise UserError("--goal", f"{self.goal} does not exist for volumes this small", "the other goal, or larger volumes")
            scores.append(score)
        return float(np.mean(scores))

    def _drawing(self, head: MeasuredHead, guided: Any, solver: Any) -> Drawing:
        white = config_class("volgen.sampling.noises", "white")()
        preconditioner, assembly = self.trained.preconditioner(self.device), self.trained.assembly()
        return Drawing(
            self.trained, preconditioner, assembly, solver, white, self.grid, self.device, guided.build(), head.seen.measurement
        )  # fmt: skip

    def _unit(self, x_CXYZ: torch.Tensor) -> np.ndarray[Any, Any]:
        return from_model(self.trained.geometry.whole(x_CXYZ[0])).numpy()


def _solver(trained: TrainedRun, guided: GuidanceConfig) -> Any:
    """The solver that a guidance goes with."""
    asked = dict(getattr(guided, "goes_with", {}))
    if asked:
        return component("--sampler", SAMPLERS, asked, None)
    return solver_for(trained, guided.build())  # type: ignore[attr-defined]


def _words(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
