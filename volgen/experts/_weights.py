"""Weights on their way from a file into a network that is already in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from volgen.core.errors import UserError
from volgen.core.run_files import CONFIG

Released = Any
"""A moment on a GPU's stream after which some storage is not read any more; None on other devices."""
MAPPED = 1 << 26
"""Bytes of a file that are read through one mapping: pages count as this process's memory until their mapping ends."""


class Copier:
    """Copies in a thread of its own while the main thread computes; on a CUDA device on a stream of its own, from pinned memory.

    Args:
        device: where the networks are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None

    def released(self) -> Released:
        """What was asked of the device up to now may still use the storage that is about to be overwritten."""
        return torch.cuda.current_stream(self._device).record_event() if self._stream else None

    @contextmanager
    def copying(self, released: Released) -> Iterator[None]:
        """Copying thread: copies inside begin after ``released``."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(released)
            yield

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copying thread: overwrites a weight; types may differ."""
        if self._stream is None:
            target.copy_(source)
        else:
            # Pinned memory goes back to PyTorch's cache when the copy, which this thread does not wait for, is over.
            target.copy_(source.to(target.dtype).pin_memory(), non_blocking=True)

    def wait(self) -> None:
        """Main thread: what it asks the device for from now on begins after all copies."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def finish(self) -> None:
        """Waits until nothing is being copied: afterwards the storage may be given away."""
        if self._stream is not None:
            self._stream.synchronize()


def narrowed(module: nn.Module, matrices: torch.dtype | None) -> nn.Module:
    """The network with its matrices in another type. Vectors (biases, gains of a normalisation) are few and stay as they are."""
    if matrices is not None:
        for parameter in module.parameters():
            if parameter.dim() >= 2 and parameter.is_floating_point():
                parameter.data = parameter.data.to(matrices)
    return module


def blank(build: Callable[[], nn.Module], matrices: torch.dtype | None, device: torch.device) -> nn.Module:
    """A network whose weights are to be filled: they are not drawn first, which takes longer than to read them."""
    with torch.device("meta"):
        module = narrowed(build(), matrices)
    if {name for name, _ in module.named_buffers()} <= set(module.state_dict()):
        return module.to_empty(device=device)
    return narrowed(build(), matrices).to(device)  # it has numbers that are in no file


def fill(module: nn.Module, path: Path, copier: Copier) -> None:
    """Overwrites all weights of a network by those of a safetensors file.

    Raises:
        UserError: the file cannot be read, or holds the weights of another network.
    """
    targets = module.state_dict()
    try:
        for names in _parts(targets, path):
            with safe_open(path, framework="pt") as file:
                for name in names:
                    source = file.get_tensor(name)
                    if source.shape != targets[name].shape:
                        raise ValueError(f"'{name}' is {list(source.shape)}, not {list(targets[name].shape)}")
                    copier.copy(targets[name], source)
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        found = f"does not hold the weights of this network ({reason[:200]})"
        raise UserError(str(path), found, f"the network in the run's {CONFIG}") from None


def _parts(targets: dict[str, Tensor], path: Path) -> Iterator[list[str]]:
    """The names of all weights, some at a time.

    Raises:
        ValueError: the file has other names.
    """
    with safe_open(path, framework="pt") as file:
        strange = set(file.keys()) ^ set(targets)
    if strange:
        raise ValueError(f"'{min(strange)}' is in one of them only")
    part: list[str] = []
    size = 0
    for name, target in targets.items():
        part.append(name)
        size += target.numel() * 4
        if size >= MAPPED:
            yield part
            part, size = [], 0
    yield part
