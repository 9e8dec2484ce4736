"""What a computation allocates, tensor by tensor: on real tensors, or on fake ones that take no memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Workspace = Callable[[Any, Sequence[Any], Any], int]
"""``workspace(operation, arguments, result) -> bytes`` that an operation takes for itself while it runs."""


class Allocations(TorchDispatchMode):
    """Follows the storages that operations make inside a ``with`` block, until each is freed.

    Views share the storage of their base, so nothing is counted twice. What an operation allocates and frees by itself is not seen, but
    can be described by ``workspace``.

    Attributes:
        now: bytes alive that were made inside the block.
        peak: the most of them at a time, workspaces included.
        peak_apart: the same without what was marked by then.
        operations: how many there were that compute something, rather than look at a tensor in another way.
    """

    def __init__(self, workspace: Workspace | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.peak_apart = self.operations = 0
        self._workspace = workspace
        self._marked = 0
        self._alive: dict[int, int] = {}

    def mark(self, count: int) -> None:
        """Counts ``count`` more of the bytes alive apart from now on (gradients, as they come)."""
        self._marked += count

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs an operation and notes the storages of its results."""
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        self.operations += not func.is_view
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf, given)
        now = self.now + (self._workspace(func, args, result) if self._workspace else 0)
        self.peak, self.peak_apart = max(self.peak, now), max(self.peak_apart, now - self._marked)
        return result

    def _note(self, tensor: Tensor, given: Collection[int]) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        # A view of what was there before the block (a weight, transposed) is no allocation.
        if key not in self._alive and key not in given:
            self._alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            # A storage's Python object lives as long as the storage: whoever holds a tensor on it holds both.
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._alive.pop(key)


def conv_workspace(operation: Any, arguments: Sequence[Any], result: Any) -> int:
    """What oneDNN takes for a convolution on a CPU: its operands and results once more, in blocks of 16 channels."""
    if operation not in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default):
        return 0
    tensors = [leaf for leaf in (*arguments, *tree_leaves(result)) if isinstance(leaf, Tensor) and leaf.dim() > 3]
    return sum(tensor.numel() // tensor.shape[1] * -(-tensor.shape[1] // 16) * 16 * tensor.element_size() for tensor in tensors)
