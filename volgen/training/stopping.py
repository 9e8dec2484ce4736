"""When an expert has learnt enough."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveInt

from volgen.core.config import Config


class StoppingConfig(Config):
    """An expert trains until its validation loss stops paying, not for a fixed count."""

    max_steps: PositiveInt = 1000
    """Upper bound for one expert."""
    min_steps: PositiveInt = 1
    """Lower bound for one expert."""
    validate_every: PositiveInt = 50
    """Steps between validations."""
    patience: PositiveInt = 2
    """Validations in a row without enough gain that end an expert."""
    min_gain: NonNegativeFloat = 0.002
    """Relative fall of the validation loss, against the best so far, that counts as a gain."""
    validation_draws: PositiveInt = 2
    """Fixed (noise level, noise) draws for each validation volume."""
    validation_volumes: int = Field(default=16, ge=1)
    """At most this many validation volumes, the first by id."""
