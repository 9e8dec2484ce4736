"""A volume on its way as bytes, for another process to go on with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from volgen.core.protocols import Sampler, Shape4
from volgen.sampling.descent import State


class Packing:
    """The bytes of a state between two steps: the solver's numbers (float64), the sample, and its tensors (float32).

    Args:
        sampler: the solver, which declares what it remembers.
        shape: channels and voxels of a state.
    """

    def __init__(self, sampler: Sampler, shape: Shape4) -> None:
        self._tensors = [kind is Tensor for kind in sampler.remembers]
        self._shape = (1, *shape)
        self._border = 8 * (len(self._tensors) - sum(self._tensors))
        self._floats = (1 + sum(self._tensors)) * math.prod(shape)

    @property
    def size(self) -> int:
        """Bytes of every state after its first step and before its last; a multiple of 8, so that several can lie side by side."""
        return self._border + -(-self._floats // 2) * 8

    def pack(self, state: State) -> Tensor:
        """uint8, one axis."""
        memory: tuple[Any, ...] = state.memory or ()
        assert [isinstance(item, Tensor) for item in memory] == self._tensors, "a solver remembers what it declares, after every step"
        numbers = torch.tensor([item for item in memory if not isinstance(item, Tensor)], dtype=torch.float64)
        tensors = [state.x_BCXYZ, *(item for item in memory if isinstance(item, Tensor))]
        assert all(tensor.shape == self._shape and tensor.dtype == torch.float32 for tensor in tensors), "like the sample"
        packed = torch.zeros(self.size, dtype=torch.uint8)
        parts = [part.contiguous().view(-1).view(torch.uint8) for part in (numbers, *tensors)]
        torch.cat(parts, out=packed[: self._border + 4 * self._floats])
        return packed

    def unpack(self, packed: Tensor) -> State:
        """Inverse of :meth:`pack`, in the same memory."""
        numbers = iter(packed[: self._border].view(torch.float64).tolist())
        x, *rest = packed[self._border :].view(torch.float32)[: self._floats].view(-1, *self._shape).unbind()
        tensors = iter(rest)
        memory = tuple(next(tensors) if tensor else next(numbers) for tensor in self._tensors)
        return State(x, memory or None)
