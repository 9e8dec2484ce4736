"""Optimiser settings and learning-rate shape, handed to the DeepSpeed engine."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from volgen.core.config import Config
from volgen.training.optimisers import LIBRARIES, Library, Make

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class OptimiserConfig(Config):
    """AdamW (Loshchilov & Hutter 2019), with Muon (Jordan et al. 2024) for the weight matrices if asked; or another optimiser.

    All have a linear warm-up and an optional cosine decay over the expert's largest step count.
    """

    algorithm: Literal["adamw", "adafactor", "adam8bit", "prodigy", "schedule_free", "soap"] = "adamw"
    """Which optimiser: AdamW; Adafactor (Shazeer & Stern 2018); AdamW with moments of eight bits (Dettmers et al. 2022); Prodigy
    (Mishchenko & Defazio 2024), which finds its step size; schedule-free AdamW (Defazio et al. 2024); SOAP (Vyas et al. 2025). All but
    AdamW at ``engine.zero_stage`` 0 only."""
    learning_rate: PositiveFloat = 1e-3
    """Peak step size of the optimiser; of Prodigy a multiple of the one that it finds, usually 1."""
    matrix_learning_rate: NonNegativeFloat = 0.0
    """Peak step size of Muon (spectral norm of an update) for every weight matrix not called "embed"; 0 leaves them to AdamW."""
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    """Decay rates of the moment estimates, each in [0, 1); Adafactor chooses its own."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    warmup_steps: NonNegativeInt = 20
    """Steps over which the rate rises from 0 (at the start of every expert: its optimiser state is new)."""
    decay_to: float = Field(default=1.0, ge=0.0, le=1.0)
    """Fraction of the peak rate left at the last step (cosine in between); 1 keeps it constant."""
    shared_decay_to: float | None = Field(default=None, ge=0.0, le=1.0)
    """The same for the network that experts start from (None: as ``decay_to``). Experts of a network that is not annealed learn more."""
    gradient_clip: NonNegativeFloat = 1.0
    """Largest gradient norm; 0 means no limit."""

    @model_validator(mode="after")
    def _unclipped(self) -> Self:
        if self.matrix_learning_rate and self.gradient_clip:
            raise ValueError("gradient_clip must be 0 with matrix_learning_rate: Muon's updates have a norm of their own")
        if self.other and self.matrix_learning_rate:
            raise ValueError(f"matrix_learning_rate is of Muon, which goes with algorithm adamw and not with {self.algorithm}: set it to 0")
        if self.other and not self.other.moments and self.betas != type(self).model_fields["betas"].default:
            raise ValueError(f"betas are {list(self.betas)}, but algorithm {self.algorithm} chooses its decay rates itself: leave them out")
        for key in ("decay_to", "shared_decay_to"):
            end = getattr(self, key)
            if self.other and self.other.averages and end is not None and end < 1.0:
                raise ValueError(f"{key} is {end:g}, but algorithm {self.algorithm} averages weights in place of that: set it to 1")
        return self

    @property
    def other(self) -> Library | None:
        """Where the optimiser is, if it is not DeepSpeed's."""
        return LIBRARIES.get(self.algorithm)

    def make(self) -> Make | None:
        """What makes the optimiser, if it is not DeepSpeed's.

        Raises:
            UserError: its library is not installed.
        """
        return self.other.make(self.betas, self.weight_decay) if self.other else None

    def shared(self) -> OptimiserConfig:
        """The settings of the network that experts start from."""
        return self if self.shared_decay_to is None else self.model_copy(update={"decay_to": self.shared_decay_to})


def learning_rate(config: OptimiserConfig, step: int, max_steps: int) -> float:
    """Rate of AdamW at one step; Muon's keeps its proportion to it.

    A linear warm-up that reaches the peak at step ``warmup_steps``, times a half cosine down to ``decay_to``.

    Args:
        config: peak and shape.
        step: counted from 1.
        max_steps: the step at which the cosine ends; training may stop earlier.
    """
    warm = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    through = (step - config.warmup_steps) / max(max_steps - config.warmup_steps, 1)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(max(through, 0.0), 1.0)))
    return config.learning_rate * warm * (config.decay_to + (1.0 - config.decay_to) * cosine)
