"""Optimiser settings and learning-rate shape, handed to the DeepSpeed engine."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from volgen.core.config import Config


class OptimiserConfig(Config):
    """AdamW (Loshchilov & Hutter 2019) with a linear warm-up and an optional cosine decay over the expert's largest step count."""

    learning_rate: PositiveFloat = 1e-3
    """Peak step size."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the moment estimates."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    warmup_steps: NonNegativeInt = 20
    """Steps over which the rate rises from 0 (at the start of every expert: its optimiser state is new)."""
    decay_to: float = Field(default=1.0, ge=0.0, le=1.0)
    """Fraction of the peak rate left at the last step (cosine in between); 1 keeps it constant."""
    gradient_clip: NonNegativeFloat = 1.0
    """Largest gradient norm; 0 means no limit."""
