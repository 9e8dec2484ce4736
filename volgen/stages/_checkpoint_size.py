"""How much of a disk the checkpoints of an expert take while it is trained."""

from __future__ import annotations

from volgen.parallel.memory import FP32, NetworkSize
from volgen.training.checkpoint import KEPT


def checkpoint_bytes(size: NetworkSize) -> int:
    """At most: those that stay and one that is being written, each with weights, their average, the best average and all moments."""
    weights = FP32 * size.parameters + size.buffers
    moments = 2 * FP32 * size.parameters - FP32 * size.matrices
    return (KEPT + 1) * (3 * weights + moments)
