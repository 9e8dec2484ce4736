"""The training of one phase: an expert, or the network that all experts start from."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.files import atomic_path
from volgen.core.progress import progress
from volgen.training import checkpoint
from volgen.training.draws import noise, quantiles
from volgen.training.ema import EMA, EMAConfig
from volgen.training.interrupt import Interrupt, Interrupted
from volgen.training.loss import Objective, denoising_loss
from volgen.training.metrics import Metrics
from volgen.training.optimiser import OptimiserConfig, learning_rate
from volgen.training.protocols import Batch, Engine, Ranks
from volgen.training.stopping import Stopping
from volgen.training.validation import Validator

WEIGHTS = "weights.safetensors"
SKIPS_IN_A_ROW = 3
"""Steps without a finite gradient that end training: one may be bad luck, more are divergence, and DeepSpeed would skip for ever."""


@dataclass(frozen=True)
class Task:
    """What one phase trains on.

    Attributes:
        name: key of its random draws and of its metrics.
        title: for people, such as ``expert 3 of 16 (sigma 0.2 to 0.5)``.
        sigma: quantile in [0, 1) -> noise level.
        folder: holds its checkpoint and its exported weights.
        first_batch: number of the data stream's batch that its first step takes.
        warm: whether it starts from trained weights, which may be good enough already: they are validated before the first step.
    """

    name: str
    title: str
    sigma: Callable[[float], float]
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
    """

    steps: int
    best_step: int
    validation_loss: float


@dataclass(frozen=True)
class Trainer:
    """Everything that stays the same from phase to phase.

    Attributes:
        optimiser: learning rate.
        ema: averaging.
        batch: number of a batch -> this rank's part of it.
        batch_size: volumes of a global batch.
        validator: scores weights.
        checkpoint_every: steps.
        seed: of the run.
        ranks: the processes.
        metrics: where numbers go.
        interrupt: says when to stop.
    """

    optimiser: OptimiserConfig
    ema: EMAConfig
    batch: Callable[[int], Batch]
    batch_size: int
    validator: Validator
    checkpoint_every: int
    seed: int
    ranks: Ranks
    metrics: Metrics
    interrupt: Interrupt

    def run(self, task: Task, engine: Engine, objective: Objective, stopping: Stopping) -> Outcome:
        """Trains until validation stops paying, from the phase's checkpoint if it has one. A collective call.

        The averaged weights with the lowest validation loss are in ``folder / WEIGHTS`` when it returns.

        Raises:
            UserError: the loss, or the gradient time after time, is not finite.
            Interrupted: a signal arrived; a checkpoint has been written.
        """
        ema, start = EMA(self.ema, engine.masters()), 0
        found = checkpoint.latest(task.folder)
        if found:
            start = checkpoint.load(found, engine, ema, stopping, self.ranks)
        best: dict[str, Tensor] = {}
        if task.warm and not found:
            self._validate(task, engine, stopping, 0, best)
        skipped = 0
        with progress(task.title, stopping.max_steps) as ticker:
            ticker.advance(start)
            step = start
            while not stopping.done(step):
                step += 1
                loss, stop = self._gradient(task, engine, objective, step)
                rate = learning_rate(self.optimiser, step, stopping.max_steps)
                norm = engine.step(rate)
                values = {"loss": loss, "learning_rate": rate}
                if math.isfinite(norm):
                    skipped, values["gradient_norm"] = 0, norm
                else:
                    skipped += 1
                    if skipped == SKIPS_IN_A_ROW:
                        self._fail(task, step, f"the gradient was not finite {skipped} times in a row")
                ema.update(engine.masters())
                if stopping.due(step):
                    with ema.swapped(engine.masters()):
                        values["validation_loss"] = self._validate(task, engine, stopping, step, best)
                self.metrics.write(task.name, step, values)
                ticker.advance(note=f"loss {loss:.4f}, validation {stopping.best:.4f}" if stopping.best < math.inf else f"loss {loss:.4f}")
                if (stop or step % self.checkpoint_every == 0) and not stopping.done(step):
                    self.metrics.flush()
                    self._export(task, best)
                    checkpoint.save(task.folder, step, engine, ema, stopping, self.ranks)
                    if stop:
                        raise Interrupted(self.interrupt.received or int(signal.SIGTERM))
        self.metrics.flush()
        self._export(task, best)
        return Outcome(step, stopping.best_step, stopping.best)

    def _gradient(self, task: Task, engine: Engine, objective: Objective, step: int) -> tuple[float, bool]:
        """Forward and backward of one global batch; returns its mean loss and whether any rank was told to stop."""
        batch = self.batch(task.first_batch + step - 1)
        levels = quantiles(self.batch_size, self.seed, task.name, step)
        losses: list[Tensor] = []
        for rows in _micro_batches(len(batch.positions), engine.accumulation):
            positions = batch.positions[rows]
            x = batch.x_BCXYZ[rows]
            z = noise(x, positions, self.seed, task.name, step)
            sigma = torch.tensor([task.sigma(levels[position]) for position in positions], device=x.device)
            denoise, weight = objective(batch.ids[rows])
            loss_B = denoising_loss(denoise, weight, x, z, sigma)
            engine.backward(loss_B.mean())
            losses.append(loss_B.detach())
        loss_B = torch.cat(losses)
        total, stop = self.ranks.sum([float(loss_B.double().sum()), float(self.interrupt.received > 0)])
        if not math.isfinite(total):
            bad = [subject for subject, finite in zip(batch.ids, loss_B.isfinite().tolist(), strict=True) if not finite]
            subjects = sorted({name for text in self.ranks.gather(" ".join(bad or batch.ids)) for name in text.split()})
            self._fail(task, step, f"the loss is {total} for {', '.join(subjects)}")
        return total / self.batch_size, stop > 0

    def _validate(self, task: Task, engine: Engine, stopping: Stopping, step: int, best: dict[str, Tensor]) -> float:
        """Scores the weights that the engine holds now, and keeps them in ``best`` if they are."""
        state = engine.full_state()
        loss = self.validator.score(state, task.sigma)
        if not math.isfinite(loss):
            self._fail(task, step, f"the validation loss is {loss}")
        if stopping.update(step, loss) and self.ranks.rank == 0:
            best.update(state)
        return loss

    def _export(self, task: Task, best: dict[str, Tensor]) -> None:
        """Writes the best weights, unless those on disk are; with each checkpoint, because a later validation may not beat them."""
        if best:
            with atomic_path(task.folder / WEIGHTS) as temporary:
                save_file(best, temporary)
            best.clear()

    def _fail(self, task: Task, step: int, found: str) -> NoReturn:
        """All ranks come here together; one of them tells the user."""
        if self.ranks.rank:
            raise SystemExit(2)
        raise UserError(
            f"{task.title}, step {step}", found, "finite numbers",
            "look at these subjects' voxels, lower optimiser.learning_rate, or use engine.precision fp32",
        )  # fmt: skip


def _micro_batches(volumes: int, count: int) -> Iterator[slice]:
    size = volumes // count
    return (slice(index * size, (index + 1) * size) for index in range(count))
