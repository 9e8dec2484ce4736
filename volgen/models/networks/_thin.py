"""Volumes too thin for bf16 on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

THIN = 2
"""Voxels along X."""


def wrong_in_bf16(x_BCXYZ: Tensor, edges: Sequence[int] | None = None) -> bool:
    """Whether a convolution of this, or of volumes with these edges along X, would have a wrong gradient here.

    oneDNN (torch 2.13, processors with AVX512-BF16) leaves parts of the gradient of a 3^3 convolution's weight unset where a bf16
    volume has two voxels along its first axis and 16 channels: what was in memory before is taken for it. Other sizes are right, and
    so is fp32.
    """
    if not (x_BCXYZ.is_cpu and x_BCXYZ.dim() == 5 and torch.is_autocast_enabled("cpu")):
        return False
    return THIN in (x_BCXYZ.shape[2:3] if edges is None else edges)


def fp32(wrong: bool) -> AbstractContextManager[Any]:
    """No autocast inside, if bf16 would be wrong. Volumes so thin cost nothing."""
    return torch.autocast("cpu", enabled=False) if wrong else nullcontext()
