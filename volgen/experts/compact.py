"""Weights of an expert in half the bytes: matrices in bf16, which is what they become whenever a network computes in bf16."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import nn

from volgen.core.files import atomic_path
from volgen.experts._weights import narrowed

MATRICES = torch.bfloat16


def bytes_of(module: nn.Module) -> tuple[int, int]:
    """Bytes of a network's weights, as training writes them and as they are when they are compact; the network's own become so."""
    whole = _bytes(module)
    return whole, _bytes(narrowed(module, MATRICES))


def compact(path: Path, module: nn.Module) -> None:
    """Replaces a weight file by a compact one.

    Args:
        path: safetensors file.
        module: the network that it is of, with any weights; it is narrowed.
    """
    targets = narrowed(module, MATRICES).state_dict()
    state = {name: tensor.to(targets[name].dtype) for name, tensor in load_file(path).items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(serialise(state))


def _bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
