"""The training of one phase: an expert, or the network that all experts start from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from safetensors.torch import save as serialise
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.exit_codes import BAD_INPUT
from volgen.core.files import atomic_path
from volgen.core.progress import progress
from volgen.core.protocols import Pulse
from volgen.core.run_files import WEIGHTS
from volgen.training import checkpoint, relaunch
from volgen.training.checkpoint import Moment
from volgen.training.ema import EMA, EMAConfig
from volgen.training.gradient import GradientRule, NotFinite
from volgen.training.interrupt import Interrupted
from volgen.training.judge import Judge
from volgen.training.metrics import Metrics
from volgen.training.objective import Objective
from volgen.training.optimiser import OptimiserConfig, learning_rate
from volgen.training.protocols import NO_PULSE, Engine, Ranks
from volgen.training.together import together

SKIPS_IN_A_ROW = 3
"""Steps without a finite gradient that end training: one may be bad luck, more are divergence, and DeepSpeed would skip for ever."""


@dataclass(frozen=True)
class Task:
    """What one phase trains on.

    Attributes:
        name: key of its random draws and of its metrics.
        title: for people, such as ``expert 3 of 16 (sigma 0.2 to 0.5)``.
        folder: holds its checkpoint and its exported weights.
        first_batch: number of the data stream's batch that its first step takes; a checkpoint brings its own.
        warm: whether it starts from trained weights, which may be good enough already: they are validated before the first step.
    """

    name: str
    title: str
    folder: Path
    first_batch: int
    warm: bool


@dataclass(frozen=True)
class Outcome:
    """How a phase ended.

    Attributes:
        steps: steps that were trained.
        best_step: step whose averaged weights were exported.
        validation_loss: their loss; None where nobody was looked at.
        metrics: digest of the numbers of all steps; empty on ranks that write none.
    """

    steps: int
    best_step: int
    validation_loss: float | None
    metrics: str = ""


@dataclass(frozen=True)
class Trainer:
    """Everything that stays the same from phase to phase.

    Attributes:
        optimiser: learning rate.
        ema: averaging.
        gradient: how a step's gradient is taken.
        checkpoint_every: steps.
        seed: seed of the run.
        ranks: the processes.
        metrics: where numbers go.
        pulse: hears of every step.
    """

    optimiser: OptimiserConfig
    ema: EMAConfig
    gradient: GradientRule
    checkpoint_every: int
    seed: int
    ranks: Ranks
    metrics: Metrics
    pulse: Pulse = NO_PULSE

    def run(self, task: Task, engine: Engine, objective: Objective, judge: Judge) -> Outcome:
        """Trains until the judge has seen enough, from the phase's checkpoint if it has one. A collective call.

        The averaged weights that the judge has kept are in ``folder / WEIGHTS`` when it returns.

        Raises:
            UserError: the loss, or the gradient time after time, is not finite; or a file cannot be written.
            Interrupted: a signal arrived; a checkpoint has been written.
        """
        ema, place = EMA(self.ema, engine.masters()), Moment(task.name, self.seed, 0, task.first_batch)
        weights = task.folder / WEIGHTS
        found = checkpoint.find(task.folder, self.ranks)
        if found:
            place = checkpoint.load(found, place, engine, ema, judge, self.ranks, weights)
        together(self.ranks, task.folder, checkpoint.MAKE_ROOM, lambda: self.metrics.begin(task.name, place.step, place.metrics))
        best: dict[str, Tensor] = {}
        step, skipped = place.step, 0

        def look() -> dict[str, float]:
            """Shows the averaged weights to the judge, and keeps them if they are to be exported."""
            with ema.swapped(engine.masters()):
                state = engine.full_state()
                seen = judge.look(state, objective, step)
            if seen.kept and self.ranks.rank == 0:
                best.update(state)
            return seen.values

        try:
            if judge.first(step, warm=task.warm):
                look()
            with progress(task.title, judge.max_steps) as ticker:
                ticker.advance(step)
                while not judge.done(step):
                    step += 1
                    taken = self.gradient.take(task.name, engine, objective, step, place.first_batch + step - 1)
                    rate = learning_rate(self.optimiser, step, judge.max_steps)
                    norm = engine.step(rate)
                    values = {**taken.values, "learning_rate": rate}
                    if math.isfinite(norm):
                        skipped, values["gradient_norm"] = 0, norm
                        ema.update(engine.masters())
                    else:
                        skipped += 1
                        if skipped == SKIPS_IN_A_ROW:
                            raise NotFinite(f"the gradient was not finite {skipped} times in a row")
                    if judge.due(step):
                        values |= look()
                    self.metrics.write(task.name, step, values)
                    ticker.advance(note=taken.note + judge.note)
                    self.pulse.beat()
                    if (taken.stop or step % self.checkpoint_every == 0) and not judge.done(step):
                        self._export(weights, best)
                        here = replace(place, step=step, metrics=self.metrics.digest())
                        checkpoint.save(here, engine, ema, judge, self.ranks, weights)
                        if self.ranks.rank == 0:
                            relaunch.saved()
                        self.pulse.beat()
                        if taken.stop:
                            raise Interrupted(taken.stop)
        except NotFinite as error:
            self._fail(task, step, str(error))
        self._export(weights, best)
        return Outcome(step, judge.best_step, judge.loss, self.metrics.digest())

    def _export(self, weights: Path, best: dict[str, Tensor]) -> None:
        """Writes the metrics, and the best weights unless those on disk are. A collective call."""

        def write() -> None:
            self.metrics.flush()
            if best:
                with atomic_path(weights) as temporary:
                    temporary.write_bytes(serialise(best))

        together(self.ranks, weights.parent, checkpoint.MAKE_ROOM, write)
        best.clear()

    def _fail(self, task: Task, step: int, found: str) -> NoReturn:
        """All ranks come here together; one of them tells the user."""
        if self.ranks.rank:
            raise SystemExit(BAD_INPUT)
        raise UserError(
            f"{task.title}, step {step}", found, "finite numbers",
            "look at the voxels of subjects that are named, lower optimiser.learning_rate, or use engine.precision fp32",
        )  # fmt: skip
