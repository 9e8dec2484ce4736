"""Volumes and slices too thin for bf16 on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

THIN = 2
"""Voxels along X."""


def wrong_in_bf16(x: Tensor, edges: Sequence[int], stride: int = 1) -> bool:
    """Whether the gradient of a 3^3 or 3^2 convolution of ``edges`` voxels would be wrong where ``x`` is: under autocast to bf16 on a CPU.

    oneDNN (torch 2.13, processors with AVX512-BF16) leaves parts of the weight's gradient unset, so that what was in memory before is taken
    for it, or writes out of bounds: with stride 1 where a volume has two voxels along its first axis, with stride 2 where any edge is
    one voxel. Other sizes were found to be right (edges up to 33, 1 to 96 channels), and so are fp32, which costs nothing here, and
    what is computed without gradients.
    """
    if not (torch.is_grad_enabled() and x.is_cpu and torch.is_autocast_enabled("cpu")):
        return False
    return (len(edges) == 3 and edges[0] == THIN) or (stride > 1 and 1 in edges)
