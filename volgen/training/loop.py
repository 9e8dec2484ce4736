"""The training of one phase: an expert, or the network that all experts start from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.exit_codes import BAD_INPUT
from volgen.core.files import atomic_path
from volgen.core.given import Examples
from volgen.core.progress import progress
from volgen.core.protocols import Pulse
from volgen.core.run_files import WEIGHTS
from volgen.training import checkpoint, relaunch
from volgen.training.checkpoint import Moment
from volgen.training.draws import StepDraws
from volgen.training.ema import EMA, EMAConfig
from volgen.training.interrupt import SIGNALS, Interrupt, Interrupted
from volgen.training.metrics import Metrics
from volgen.training.objective import Objective
from volgen.training.optimiser import OptimiserConfig, learning_rate
from volgen.training.protocols import NO_PULSE, Batch, Engine, Ranks
from volgen.training.stopping import Stopping
from volgen.training.together import together
from volgen.training.validation import Validator

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
        best_step: step whose averaged weights were exported, those with the lowest validation loss.
        validation_loss: that loss.
        metrics: digest of the numbers of all steps; empty on ranks that write none.
    """

    steps: int
    best_step: int
    validation_loss: float
    metrics: str = ""


@dataclass(frozen=True)
class Trainer:
    """Everything that stays the same from phase to phase.

    Attributes:
        optimiser: learning rate.
        ema: averaging.
        batch: number of a batch -> this rank's part of it.
        batch_size: volumes of a global batch.
        validator: scores weights; None where nothing may be looked at.
        checkpoint_every: steps.
        seed: seed of the run.
        ranks: the processes.
        metrics: where numbers go.
        interrupt: says when to stop.
        pulse: hears of every step.
    """

    optimiser: OptimiserConfig
    ema: EMAConfig
    batch: Callable[[int], Batch]
    batch_size: int
    validator: Validator | None
    checkpoint_every: int
    seed: int
    ranks: Ranks
    metrics: Metrics
    interrupt: Interrupt
    pulse: Pulse = NO_PULSE

    def run(self, task: Task, engine: Engine, objective: Objective, stopping: Stopping) -> Outcome:
        """Trains until validation stops paying, from the phase's checkpoint if it has one. A collective call.

        The averaged weights with the lowest validation loss are in ``folder / WEIGHTS`` when it returns.

        Raises:
            UserError: the loss, or the gradient time after time, is not finite; or a file cannot be written.
            Interrupted: a signal arrived; a checkpoint has been written.
        """
        ema, place = EMA(self.ema, engine.masters()), Moment(task.name, self.seed, 0, task.first_batch)
        weights = task.folder / WEIGHTS
        found = checkpoint.find(task.folder, self.ranks)
        if found:
            place = checkpoint.load(found, place, engine, ema, stopping, self.ranks, weights)
        together(self.ranks, task.folder, checkpoint.MAKE_ROOM, lambda: self.metrics.begin(task.name, place.step, place.metrics))
        best: dict[str, Tensor] = {}
        if task.warm and not found:
            self._validate(task, engine, objective, stopping, 0, best)
        skipped = 0
        with progress(task.title, stopping.max_steps) as ticker:
            ticker.advance(place.step)
            step = place.step
            while not stopping.done(step):
                step += 1
                loss, stop = self._gradient(task, engine, objective, step, place.first_batch + step - 1)
                rate = learning_rate(self.optimiser, step, stopping.max_steps)
                norm = engine.step(rate)
                values = {"loss": loss, "learning_rate": rate}
                if math.isfinite(norm):
                    skipped, values["gradient_norm"] = 0, norm
                    ema.update(engine.masters())
                else:
                    skipped += 1
                    if skipped == SKIPS_IN_A_ROW:
                        self._fail(task, step, f"the gradient was not finite {skipped} times in a row")
                if stopping.due(step):
                    with ema.swapped(engine.masters()):
                        values["validation_loss"] = self._validate(task, engine, objective, stopping, step, best)
                self.metrics.write(task.name, step, values)
                ticker.advance(note=self._note(loss, stopping))
                self.pulse.beat()
                if (stop or step % self.checkpoint_every == 0) and not stopping.done(step):
                    self._export(weights, best)
                    here = replace(place, step=step, metrics=self.metrics.digest())
                    checkpoint.save(here, engine, ema, stopping, self.ranks, weights)
                    if self.ranks.rank == 0:
                        relaunch.saved()
                    self.pulse.beat()
                    if stop:
                        raise Interrupted(stop)
            if stopping.late(step):
                with ema.swapped(engine.masters()):
                    self._validate(task, engine, objective, stopping, step, best)
        self._export(weights, best)
        return Outcome(step, stopping.best_step, stopping.best, self.metrics.digest())

    def _note(self, loss: float, stopping: Stopping) -> str:
        return f"loss {loss:.4f}, validation {stopping.best:.4f}" if stopping.best < math.inf else f"loss {loss:.4f}"

    def _gradient(self, task: Task, engine: Engine, objective: Objective, step: int, number: int) -> tuple[float, int]:
        """Forward and backward of one global batch; returns its mean loss and the signal that told any rank to stop, or 0."""
        batch = self.batch(number)
        losses: list[Tensor] = []
        for rows in _micro_batches(len(batch.positions), engine.accumulation):
            draws = StepDraws(self.seed, task.name, step, self.batch_size, batch.positions[rows])
            loss_B = objective.loss(engine, Examples(batch.x_BCXYZ, batch.given)[rows], draws, batch.ids[rows])
            engine.backward(loss_B.mean())
            losses.append(loss_B.detach())
        loss_B = torch.cat(losses)
        received = self.interrupt.received
        total, *told = self.ranks.sum([float(loss_B.double().sum()), *(float(received == number) for number in SIGNALS)])
        if not math.isfinite(total):
            bad = [subject for subject, finite in zip(batch.ids, loss_B.isfinite().tolist(), strict=True) if not finite]
            subjects = sorted({name for text in self.ranks.gather(" ".join(bad or batch.ids)) for name in text.split()})
            self._fail(task, step, f"the loss is {total} for {', '.join(subjects)}")
        return total / self.batch_size, next((int(number) for number, count in zip(SIGNALS, told, strict=True) if count), 0)

    def _validate(
        self, task: Task, engine: Engine, objective: Objective, stopping: Stopping, step: int, best: dict[str, Tensor]
    ) -> float:  # fmt: skip
        """Scores the weights that the engine holds now, and keeps them in ``best`` if they are."""
        state = engine.full_state()
        assert self.validator is not None, "whoever trains without one takes weights another way"
        loss = self.validator.score(state, objective, step)
        if not math.isfinite(loss):
            self._fail(task, step, f"the validation loss is {loss}")
        if stopping.update(step, loss) and self.ranks.rank == 0:
            best.update(state)
        return loss

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


def _micro_batches(volumes: int, count: int) -> Iterator[slice]:
    size = volumes // count
    return (slice(index * size, (index + 1) * size) for index in range(count))
