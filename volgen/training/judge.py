"""Who says which weights of a phase are kept, and when it has learnt enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from volgen.training.gradient import NotFinite
from volgen.training.objective import Objective
from volgen.training.protocols import Remembers
from volgen.training.stopping import Stopping
from volgen.training.validation import Validator


@dataclass(frozen=True)
class Look:
    """What came of a look at weights.

    Attributes:
        kept: whether they are the ones to be exported, as long as none are better.
        values: numbers for the metrics.
    """

    kept: bool
    values: dict[str, float] = field(default_factory=dict)


class Judge(Remembers, Protocol):
    """Watches one phase."""

    @property
    def max_steps(self) -> int:
        """Upper bound of steps."""
        ...

    @property
    def best_step(self) -> int:
        """Step whose weights are kept."""
        ...

    @property
    def loss(self) -> float | None:
        """Validation loss of these; None where nobody is looked at."""
        ...

    @property
    def note(self) -> str:
        """What people who watch are told, behind what is told of a step."""
        ...

    def first(self, step: int, *, warm: bool) -> bool:
        """Whether to look at weights before training goes on from ``step``.

        Args:
            step: 0 at the beginning, else that of the checkpoint.
            warm: whether the phase starts from trained weights.
        """
        ...

    def due(self, step: int) -> bool:
        """Whether to look at weights after ``step``."""
        ...

    def look(self, state: Mapping[str, Tensor], objective: Objective, step: int) -> Look:
        """Judges the averaged weights of ``step``. A collective call.

        Raises:
            NotFinite: their loss is not.
        """
        ...

    def done(self, step: int) -> bool:
        """Whether training ends after ``step``. A collective call; asked before anything of the next step is computed."""
        ...


class LossJudge:
    """Training ends when the validation loss stops paying; the weights with the lowest one are kept.

    Args:
        stopping: when it stops paying.
        validator: scores weights.
    """

    def __init__(self, stopping: Stopping, validator: Validator) -> None:
        self._stopping, self._validator = stopping, validator
        self.max_steps = stopping.max_steps
        self.done, self.due = stopping.done, stopping.due
        self.state, self.restore = stopping.state, stopping.restore

    @property
    def best_step(self) -> int:
        """Step with the lowest loss."""
        return self._stopping.best_step

    @property
    def loss(self) -> float | None:
        """The lowest loss, once there is one."""
        return self._stopping.best if math.isfinite(self._stopping.best) else None

    @property
    def note(self) -> str:
        """The lowest loss, once there is one."""
        return "" if self.loss is None else f", validation {self.loss:.4f}"

    def first(self, step: int, *, warm: bool) -> bool:
        """Whether to look at weights before the first step: at trained ones, which may be good enough already."""
        return warm and not step

    def look(self, state: Mapping[str, Tensor], objective: Objective, step: int) -> Look:
        """Scores weights on the validation volumes."""
        loss = self._validator.score(state, objective, step)
        if not math.isfinite(loss):
            raise NotFinite(f"the validation loss is {loss}")
        return Look(self._stopping.update(step, loss), {"validation_loss": loss})
