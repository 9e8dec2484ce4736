"""A convolution whose weight is a matrix, and which volumes and slices are too thin for it in bf16 on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

THIN = 2
"""Voxels along X."""
_CONVOLUTION: dict[int, Callable[..., Tensor]] = {2: functional.conv2d, 3: functional.conv3d}


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


class Conv(nn.Module):
    """A convolution with zero padding whose weight is a matrix [out, in * size^dims]: what Muon, which orthogonalises updates, needs."""

    def __init__(
        self, dims: int, inputs: int, outputs: int, size: int = 3, stride: int = 1, zero: bool = False, bias: bool = True
    ) -> None:  # fmt: skip
        super().__init__()
        self.shape, self.stride, self.dims = (outputs, inputs, *[size] * dims), stride, dims
        bound = 0.0 if zero else 1.0 / math.sqrt(inputs * size**dims)
        self.weight = nn.Parameter(torch.empty(outputs, inputs * size**dims).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, ...] -> [B, out, ...]."""
        weight, bias = self.weight.view(self.shape), self.bias
        if wrong_in_bf16(x, x.shape[2:], self.stride):
            with torch.autocast("cpu", enabled=False):
                return self._apply_to(x.float(), weight.float(), None if bias is None else bias.float())
        return self._apply_to(x, weight, bias)

    def _apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _CONVOLUTION[self.dims](x, weight, bias, self.stride, self.shape[-1] // 2)

    def plain(self) -> nn.Module:
        """Torch's layer that computes the same, without its weights: for whoever knows torch's layers alone (gradients of each sample)."""
        kind: type[nn.Module] = {2: nn.Conv2d, 3: nn.Conv3d}[self.dims]
        outputs, inputs, size, *_ = self.shape
        return kind(inputs, outputs, size, self.stride, size // 2, device="meta")
