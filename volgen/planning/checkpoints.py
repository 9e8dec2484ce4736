"""How much of a disk the checkpoints of an expert take while it is trained."""

from __future__ import annotations

from volgen.parallel.memory import FP32, NetworkSize
from volgen.training.checkpoint import KEPT


def checkpoint_bytes(size: NetworkSize) -> int:
    """Most bytes of the checkpoints that stay and of one that is being written.

    Each has what is trained, its average, all moments and the best weights.
    """
    trained = FP32 * size.parameters + size.buffers
    moments = 2 * FP32 * size.parameters - FP32 * size.matrices
    return (KEPT + 1) * (2 * trained + FP32 * size.released + size.buffers + moments)
