"""Channel 0 is the volume; further channels are what is known beside it, such as the slices before those that are being made."""

from __future__ import annotations

import torch
from torch import Tensor


def part(x_BCXYZ: Tensor) -> tuple[Tensor, Tensor]:
    """[B, 1 + C, X, Y, Z] -> the volume [B, 1, X, Y, Z] and what is known [B, C, X, Y, Z]; C may be 0."""
    return x_BCXYZ[:, :1], x_BCXYZ[:, 1:]


def join(x_BCXYZ: Tensor, known_BCXYZ: Tensor) -> Tensor:
    """``known_BCXYZ`` behind the channels of ``x_BCXYZ``; nothing is copied if nothing is known."""
    return torch.cat([x_BCXYZ, known_BCXYZ], dim=1) if known_BCXYZ.shape[1] else x_BCXYZ
