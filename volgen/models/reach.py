"""How far a network sees, found by looking: what is not a number anywhere in its input is not a number wherever it gets to.

So tiles of a volume can be denoised with as much around each as the network needs, and together they are what all of it at once gives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from volgen.core.protocols import Shape3
from volgen.models.denoiser import NetworkConfig
from volgen.models.place import PLACES

_FOUND: dict[Any, tuple[Shape3, Shape3]] = {}
BLOCKS = (16, 64, 256, 1024)
"""Strides along the probe, tried one after another: the first is enough for most, nothing that is further away can be looked for."""


def reach(network: NetworkConfig) -> tuple[Shape3, Shape3]:
    """Voxels before and behind a piece that its output depends on, along X, Y, Z, where it begins and ends at multiples of the strides.

    Both are multiples of the strides themselves, so that what goes through the network begins at one too.

    Raises:
        ValueError: the network sees all of a volume, however large it is.
    """
    if network not in _FOUND:
        with _disable_current_modes():  # planning asks while its tensors have no values
            (x, i), (y, j), (z, k) = (_along(network, axis) for axis in range(3))
        _FOUND[network] = (x, y, z), (i, j, k)
    return _FOUND[network]


def _along(network: NetworkConfig, axis: int) -> tuple[int, int]:
    stride, channels = network.strides[axis], 1 + PLACES * network.placed
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        module = network.build(inputs=channels)  # weights of any value will do: 0 times what is not a number is none either
    for blocks in BLOCKS:
        shape = [stride * blocks if a == axis else edge for a, edge in enumerate(network.multiples)]
        x = torch.zeros(1, channels, *shape)
        first = stride * (blocks // 2)
        x[:, 0].narrow(axis + 1, first, stride)[...] = torch.nan
        with torch.no_grad():
            spoilt = module(x, torch.zeros(1))[0, 0].isnan().movedim(axis, 0).flatten(1).any(dim=1).nonzero()
        low, high = int(spoilt.min()), int(spoilt.max()) + 1
        if low > 0 and high < stride * blocks:
            # A piece that ends at b needs the block at j >= b if what that block spoils begins before b; the other way round before it.
            return stride * (-(-(high - first) // stride) - 1), stride * -(-(first - low) // stride)
    raise ValueError("it sees all of a volume")
