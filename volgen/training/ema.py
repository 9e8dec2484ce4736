"""Exponential moving average of the weights, in fp32, for every ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from pydantic import Field
from torch import Tensor

from volgen.core.config import Config


class EMAConfig(Config):
    """The averaged weights are the ones that are validated, exported and sampled from."""

    decay: float = Field(default=0.99, ge=0.0, lt=1.0)
    """Weight of the past per step once warmed up; 0 is "no averaging" (the average is the last iterate)."""
    ramp: float = Field(default=0.1, ge=0.0, lt=1.0)
    """The average never reaches back further than this share of the steps so far (Karras et al. 2024, power-function profile)."""


class EMA:
    """The average of the weights that one rank owns: fp32, on their device.

    After update n (counted from 1; a step that is skipped is none) the average is d_n * average + (1 - d_n) * weights with

        d_n = min(decay, 1 - 1 / (1 + ramp * (n - 1))),

    so d_1 = 0: the average starts as the first iterate, not as the untrained weights, and its window grows with training: over
    the last 1 + ramp * (n - 1) steps, until ``decay`` bounds it.

    Each rank averages its own shard, which needs no communication; gathering is the engine's business (:meth:`swapped`).
    """

    def __init__(self, config: EMAConfig, weights: Sequence[Tensor]) -> None:
        self._config = config
        self.average = [tensor.detach().clone() for tensor in weights]
        self.steps = 0

    def update(self, weights: Sequence[Tensor]) -> None:
        """Takes in the weights after one more step that changed them; tensors in the order given at the start."""
        self.steps += 1
        keep = decay(self._config, self.steps)
        with torch.no_grad():
            for average, tensor in zip(self.average, weights, strict=True):
                average.lerp_(tensor, 1.0 - keep)

    @contextmanager
    def swapped(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Inside the block ``weights`` hold the average; afterwards they hold, bit for bit, what they held before."""
        _exchange(self.average, weights)
        try:
            yield
        finally:
            _exchange(self.average, weights)

    def restore(self, average: Sequence[Tensor], steps: int) -> None:
        """Takes over an average that is laid out like the weights, and the number of updates behind it."""
        for mine, tensor in zip(self.average, average, strict=True):
            mine.copy_(tensor)
        self.steps = steps


def decay(config: EMAConfig, step: int) -> float:
    """d_n of :class:`EMA` for n = ``step``, counted from 1."""
    return min(config.decay, 1.0 - 1.0 / (1.0 + config.ramp * (step - 1)))


def _exchange(one: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        kept = mine.clone()
        mine.copy_(theirs)
        theirs.copy_(kept)
