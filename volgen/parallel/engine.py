"""The one door to DeepSpeed."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from volgen.core.config import Config


class EngineConfig(Config):
    """How a network is sharded and in which precision it runs."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """What DeepSpeed ZeRO shards: 0 nothing, 1 optimiser state, 2 also gradients, 3 also weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network; preconditioning, loss and EMA stay in fp32."""
    accumulation: PositiveInt = 1
    """Micro-batches per optimiser step."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    offload: Literal["none", "optimiser", "optimiser_and_weights"] = "none"
    """What ZeRO keeps in host memory (weights: stage 3 only)."""
    checkpoint_every: PositiveInt = 200
    """Optimiser steps between checkpoints for resuming; one more is written on SIGINT and SIGTERM."""
