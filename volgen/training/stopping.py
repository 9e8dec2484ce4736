"""When an expert has learnt enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from volgen.core.config import Config


class StoppingConfig(Config):
    """An expert trains until its validation loss stops paying, not for a fixed count."""

    max_steps: PositiveInt = 1000
    """Upper bound for one expert."""
    min_steps: PositiveInt = 1
    """Lower bound for one expert."""
    steps_per: Literal["expert", "point"] = "expert"
    """Whether these bounds are for each expert, or for each of the schedule's points that it owns."""
    validate_every: PositiveInt = 50
    """Steps between validations."""
    patience: PositiveInt = 2
    """Validations in a row without enough gain that end an expert."""
    min_gain: NonNegativeFloat = 0.002
    """Relative fall of the validation loss, against the best so far, that counts as a gain."""
    validation_draws: PositiveInt = 2
    """Fixed (noise level, noise) draws for each validation volume."""
    validation_volumes: int = Field(default=16, ge=1)
    """Most validation volumes that are looked at, a fixed choice."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_steps > self.max_steps:
            raise ValueError(f"min_steps ({self.min_steps}) is above max_steps ({self.max_steps})")
        return self

    def bounds(self, points: int) -> StoppingConfig:
        """The rule of an expert that owns ``points`` of the schedule's points."""
        times = points if self.steps_per == "point" else 1
        return self.model_copy(update={"max_steps": times * self.max_steps, "min_steps": times * self.min_steps, "steps_per": "expert"})

    def fixed(self, steps: int) -> StoppingConfig:
        """The rule of a network that others start from: ``steps`` steps whatever the validation loss, which is looked at some ten times."""
        every = max(self.validate_every, steps // 10)
        return self.model_copy(update={"max_steps": steps, "min_steps": steps, "steps_per": "expert", "validate_every": every})


class Stopping:
    """Watches the validation losses of one expert.

    A gain is a loss below ``(1 - min_gain)`` times the best loss at the last gain; many falls that are each too small thus add up to one.
    """

    def __init__(self, config: StoppingConfig, max_steps: int) -> None:
        self.max_steps = max_steps
        self._config = config
        self.best = math.inf
        self.best_step = 0
        self._reference = math.inf
        self._without_gain = 0

    def due(self, step: int) -> bool:
        """Whether to validate after ``step``: every so often, and at the end."""
        return step % self._config.validate_every == 0 or step >= self.max_steps

    def update(self, step: int, loss: float) -> bool:
        """Takes in a validation loss; returns whether it is the lowest so far."""
        improved = loss < self.best
        if improved:
            self.best, self.best_step = loss, step
        if loss < (1.0 - self._config.min_gain) * self._reference:
            self._reference, self._without_gain = loss, 0
        else:
            self._without_gain += 1
        return improved

    def done(self, step: int) -> bool:
        """Whether training ends after ``step``."""
        return step >= self.max_steps or (step >= self._config.min_steps and self._without_gain >= self._config.patience)

    def state(self) -> dict[str, float | int | None]:
        """Numbers for a checkpoint; JSON has no infinity, so None stands for it."""
        losses = {"best": self.best, "reference": self._reference}
        finite = {name: value if math.isfinite(value) else None for name, value in losses.items()}
        return {**finite, "best_step": self.best_step, "without_gain": self._without_gain}

    def restore(self, state: Mapping[str, float | int | None]) -> None:
        """Inverse of :meth:`state`."""
        best, reference = state["best"], state["reference"]
        self.best = math.inf if best is None else float(best)
        self._reference = math.inf if reference is None else float(reference)
        self.best_step, self._without_gain = int(state["best_step"] or 0), int(state["without_gain"] or 0)
