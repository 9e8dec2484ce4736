"""Exponential moving average of the weights, in fp32, for every ZeRO stage."""

from __future__ import annotations

from pydantic import Field

from volgen.core.config import Config


class EMAConfig(Config):
    """The averaged weights are the ones that are validated, exported and sampled from."""

    decay: float = Field(default=0.99, ge=0.0, lt=1.0)
    """Weight of the past per step once warmed up; 0 is "no averaging" (the average is the last iterate)."""
    ramp: float = Field(default=0.1, ge=0.0, lt=1.0)
    """The average never reaches back further than this share of the steps so far (Karras et al. 2024, power-function profile)."""
