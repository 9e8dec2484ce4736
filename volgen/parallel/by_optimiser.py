"""The state of an optimiser that is not DeepSpeed's, whole: whatever it remembers, of any type, as tensors by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from volgen.parallel.by_name import WEIGHTS, ByName

OWN = "optimiser"
"""The kind of state that is the optimiser's."""
STRUCTURE = "structure"
"""Name of the bytes that say how its tensors belong together: JSON, in which numbers are written as they are."""


class ByOptimiser(ByName):
    """The weights of one DeepSpeed engine at stage 0, and the state of an optimiser that it was given.

    Args:
        engine: DeepSpeed's engine.
        module: the network in it.
        optimiser: what it was given.
    """

    def __init__(self, engine: Any, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        super().__init__(engine, module, 0, False)
        self._optimiser = optimiser
        self._named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.kinds = (WEIGHTS, OWN)
        if begin := getattr(optimiser, "train", None):  # one that averages weights itself is told when it is looked at
            begin()

    def read(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """Name and whole tensor on the CPU; those of the optimiser have any type."""
        if kind == WEIGHTS:
            yield from super().read(kind)
            return
        tensors: dict[str, Tensor] = {}
        groups = [{key: value for key, value in group.items() if key != "params"} for group in self._optimiser.param_groups]
        tree = {"state": {name: self._optimiser.state[p] for name, p in self._named if p in self._optimiser.state}, "groups": groups}
        text = json.dumps(_taken_apart(tree, "", tensors))
        yield STRUCTURE, torch.tensor(list(text.encode()), dtype=torch.uint8)
        yield from tensors.items()

    def write(self, kind: str, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`read`."""
        if kind == WEIGHTS:
            super().write(kind, tensors)
            return
        content = json.loads(bytes(tensors[STRUCTURE].tolist()))
        device = self._named[0][1].device
        state, groups = (_put_together(content["dict"][part], tensors, device) for part in ("state", "groups"))
        self._optimiser.state.clear()
        for name, parameter in self._named:
            if name in state:
                self._optimiser.state[parameter] = state[name]
        for group, known in zip(self._optimiser.param_groups, groups, strict=True):
            group.update(known)

    def set_updates(self, count: int) -> None:
        """The optimiser's state has counted them."""

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Inside the block the weights are those that the optimiser is judged by; afterwards they are as they were, to the last bit."""
        turn, back = (getattr(self._optimiser, name, None) for name in ("eval", "train"))
        if turn is None or back is None:
            yield
            return
        kept = [parameter.detach().clone() for _, parameter in self._named]
        turn()
        try:
            yield
        finally:
            back()
            for (_, parameter), before in zip(self._named, kept, strict=True):
                parameter.data.copy_(before)


def _taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name, "on_device": value.dim() > 0}
    if isinstance(value, Mapping):
        return {"dict": {str(key): _taken_apart(item, f"{name}/{key}", tensors) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        items = [_taken_apart(item, f"{name}/{place}", tensors) for place, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    return {"plain": value}


def _put_together(content: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    ((kind, value),) = ((key, item) for key, item in content.items() if key != "on_device")
    if kind == "tensor":
        # Numbers of steps stay where the optimisers of torch keep them.
        return tensors[value].to(device, copy=True) if content["on_device"] else tensors[value].clone()
    if kind == "dict":
        return {key: _put_together(item, tensors, device) for key, item in value.items()}
    if kind == "plain":
        return value
    return (tuple if kind == "tuple" else list)(_put_together(item, tensors, device) for item in value)
