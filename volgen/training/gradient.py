"""How the gradient of one step is taken, and what may be told of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from volgen.core.given import Examples
from volgen.training.draws import StepDraws
from volgen.training.interrupt import Interrupt, first, heard
from volgen.training.objective import Objective
from volgen.training.protocols import Batch, Engine, Ranks


class NotFinite(Exception):
    """A number that training goes by is not finite; raised on all ranks together."""


@dataclass(frozen=True)
class Taken:
    """What is told of a step whose gradient the engine has now.

    Attributes:
        values: numbers for the metrics.
        note: for people who watch.
        stop: the signal that told any rank to stop, or 0.
    """

    values: dict[str, float]
    note: str
    stop: int


class GradientRule(Protocol):
    """Gives an engine the gradient of one step."""

    def take(self, phase: str, engine: Engine, objective: Objective, step: int, number: int) -> Taken:
        """Forward and backward of one global batch. A collective call.

        Args:
            phase: key of random draws.
            engine: gets the gradient.
            objective: the loss.
            step: number of the step in the phase, from 1.
            number: place in the data stream of the batch that belongs to it.

        Raises:
            NotFinite: the loss is not.
        """
        ...


@dataclass(frozen=True)
class BatchGradient:
    """The gradient of a batch's mean loss.

    Attributes:
        batch: number of a batch -> this rank's part of it.
        size: volumes of a global batch.
        seed: seed of every random number.
        ranks: the processes.
        interrupt: says when to stop.
    """

    batch: Callable[[int], Batch]
    size: int
    seed: int
    ranks: Ranks
    interrupt: Interrupt

    def take(self, phase: str, engine: Engine, objective: Objective, step: int, number: int) -> Taken:
        """Micro-batch after micro-batch; a loss that is not finite is told with the scans that have one."""
        batch = self.batch(number)
        losses: list[Tensor] = []
        for rows in _micro_batches(len(batch.positions), engine.accumulation):
            draws = StepDraws(self.seed, phase, step, self.size, batch.positions[rows])
            loss_B = objective.loss(engine, Examples(batch.x_BCXYZ, batch.given)[rows], draws, batch.ids[rows])
            engine.backward(loss_B.mean())
            losses.append(loss_B.detach())
        loss_B = torch.cat(losses)
        total, *told = self.ranks.sum([float(loss_B.double().sum()), *heard(self.interrupt)])
        if not math.isfinite(total):
            bad = [subject for subject, finite in zip(batch.ids, loss_B.isfinite().tolist(), strict=True) if not finite]
            subjects = sorted({name for text in self.ranks.gather(" ".join(bad or batch.ids)) for name in text.split()})
            raise NotFinite(f"the loss is {total} for {', '.join(subjects)}")
        loss = total / self.size
        return Taken({"loss": loss}, f"loss {loss:.4f}", first(told))


def _micro_batches(volumes: int, count: int) -> Iterator[slice]:
    size = volumes // count
    return (slice(index * size, (index + 1) * size) for index in range(count))
